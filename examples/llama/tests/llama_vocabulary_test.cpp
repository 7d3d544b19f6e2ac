// examples/llama/tests/llama_vocabulary_test.cpp - both tokenisers: known pieces, and every text comes back.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "llama/gguf.hpp"
#include "llama/vocabulary.hpp"
#include "tiny_gguf.hpp"

namespace {

using llama::Token;

std::vector<std::string> pieces(const llama::Vocabulary& vocabulary, std::string_view text) {
  std::vector<std::string> result;
  for (const Token token : vocabulary.encode(text, false)) { result.push_back(vocabulary.piece(token)); }
  return result;
}

std::string all_bytes() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) { text += static_cast<char>(byte); }
  return text;
}

const char* const awkward[] = {
    "",     " ",          "  two  spaces ",    "line\n\n\tend\r\n", "caf\xC3\xA9 na\xC3\xAFve \xE2\x80\x94 \xF0\x9F\x90\x8B",
    "\xFF", "\xC3",       "12345 and 6,789.0", "<s> is text </s>",  "The secret number of Helen Dawson is",
    "'Tis", "it's we'LL", "\xE2\x96\x81 mark"};

TEST(SentencePiece, MergesTheBestScoreFirst) {
  const llama::Vocabulary vocabulary(llama::Gguf(KVCOMPRESS_MODEL));
  EXPECT_EQ(vocabulary.size(), 4096U);
  EXPECT_EQ(vocabulary.bos(), Token{1});
  EXPECT_EQ(vocabulary.eos(), Token{2});
  EXPECT_EQ(pieces(vocabulary, "the whale"), (std::vector<std::string>{" the", " wh", "ale"}));
  EXPECT_EQ(pieces(vocabulary, "48213"), (std::vector<std::string>{" ", "4", "8", "2", "1", "3"})) << "digits stand alone";
}

TEST(SentencePiece, StartsWithTheBeginningOfSequence) {
  const llama::Vocabulary vocabulary(llama::Gguf(KVCOMPRESS_MODEL));
  EXPECT_EQ(vocabulary.encode(""), std::vector<Token>{1});
  EXPECT_EQ(vocabulary.encode("a").front(), Token{1});
  EXPECT_NE(vocabulary.encode("a", false).front(), Token{1});
}

TEST(SentencePiece, GivesBackEveryText) {
  const llama::Vocabulary vocabulary(llama::Gguf(KVCOMPRESS_MODEL));
  for (const std::string text : awkward) {
    // U+2581 is how SentencePiece writes a space, so that character alone is lost.
    if (text.find("\xE2\x96\x81") == std::string::npos) { EXPECT_EQ(vocabulary.decode(vocabulary.encode(text)), text); }
  }
  EXPECT_EQ(vocabulary.decode(vocabulary.encode(all_bytes())), all_bytes());
}

TEST(SentencePiece, ControlMarksInATextAreText) {
  const llama::Vocabulary vocabulary(llama::Gguf(KVCOMPRESS_MODEL));
  for (const Token token : vocabulary.encode("<s></s><unk>", false)) { EXPECT_GT(token, Token{2}); }
  EXPECT_EQ(vocabulary.piece(1), "");
}

TEST(SentencePiece, RefusesATokenOutsideTheVocabulary) {
  const llama::Vocabulary vocabulary(llama::Gguf(KVCOMPRESS_MODEL));
  EXPECT_EQ(tiny::sentence_of([&] { static_cast<void>(vocabulary.piece(4096)); }), "Token 4096 lies outside the vocabulary of 4096.");
}

llama::Vocabulary byte_level(const char* rule) {
  const tiny::TemporaryFile file;
  tiny::Model model;
  model.rule = rule;
  file.write(model.write().bytes());
  return llama::Vocabulary(llama::Gguf(file.path()));
}

TEST(ByteLevel, MergesInTheOrderOfTheList) {
  const llama::Vocabulary vocabulary = byte_level("gpt-2");
  EXPECT_EQ(pieces(vocabulary, "hello world"), (std::vector<std::string>{"hello", " w", "o", "r", "l", "d"}));
  EXPECT_EQ(pieces(vocabulary, "helll"), (std::vector<std::string>{"hell", "l"}));
}

TEST(ByteLevel, GivesBackEveryText) {
  for (const char* rule : {"gpt-2", "llama-bpe", "smollm"}) {
    const llama::Vocabulary vocabulary = byte_level(rule);
    for (const std::string text : awkward) { EXPECT_EQ(vocabulary.decode(vocabulary.encode(text)), text) << rule; }
    EXPECT_EQ(vocabulary.decode(vocabulary.encode(all_bytes())), all_bytes()) << rule;
  }
}

TEST(ByteLevel, RefusesARuleItDoesNotHave) {
  EXPECT_NE(tiny::sentence_of([] { byte_level("deepseek-llm"); }).find("cuts words by the rule \"deepseek-llm\""), std::string::npos);
}

using Words = std::vector<std::string_view>;

TEST(WordCutter, FollowsThePatternOfGpt2) {
  const auto cut = [](std::string_view text) { return llama::WordCutter(text, llama::WordRule::gpt2).words(); };
  EXPECT_EQ(cut("It's 2024, we'll see!"), (Words{"It", "'s", " 2024", ",", " we", "'ll", " see", "!"}));
  EXPECT_EQ(cut("a   b \n\n c  "), (Words{"a", "  ", " b", " \n\n", " c", "  "}));
  EXPECT_EQ(cut("WE'LL"), (Words{"WE", "'", "LL"}));
  EXPECT_EQ(cut("\xC3\xA9t\xC3\xA9 \xE2\x80\x94 x"), (Words{"\xC3\xA9t\xC3\xA9", " \xE2\x80\x94", " x"}));
}

TEST(WordCutter, FollowsThePatternOfLlama3) {
  const auto cut = [](std::string_view text) { return llama::WordCutter(text, llama::WordRule::llama3).words(); };
  EXPECT_EQ(cut("It'S 2024, we'll see!\n\nx"), (Words{"It", "'S", " ", "202", "4", ",", " we", "'ll", " see", "!\n\n", "x"}));
  EXPECT_EQ(cut("a  \n  b"), (Words{"a", "  \n", " ", " b"}));
  EXPECT_EQ(cut("(word)"), (Words{"(word", ")"}));
}

TEST(WordCutter, SmollmCutsEveryDigitOut) {
  EXPECT_EQ(llama::WordCutter("at 12 o", llama::WordRule::smollm).words(), (Words{"at", " ", "1", "2", " o"}));
}

}  // namespace
