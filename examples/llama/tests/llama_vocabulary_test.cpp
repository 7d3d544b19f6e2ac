// examples/llama/tests/llama_vocabulary_test.cpp - both tokenisers: known pieces, and every text comes back.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdint>
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
  for (const char* rule : {"gpt-2", "llama-bpe", "qwen2", "smollm"}) {
    const llama::Vocabulary vocabulary = byte_level(rule);
    for (const std::string text : awkward) { EXPECT_EQ(vocabulary.decode(vocabulary.encode(text)), text) << rule; }
    EXPECT_EQ(vocabulary.decode(vocabulary.encode(all_bytes())), all_bytes()) << rule;
  }
}

TEST(ByteLevel, RefusesARuleItDoesNotHave) {
  EXPECT_NE(tiny::sentence_of([] { byte_level("deepseek-llm"); }).find("cuts words by the rule \"deepseek-llm\""), std::string::npos);
}

TEST(ByteLevel, RefusesToGuessTheRule) {
  const std::string sentence = tiny::sentence_of([] { byte_level(""); });
  EXPECT_NE(sentence.find("\"tokenizer.ggml.pre\" is missing"), std::string::npos) << sentence;
}

/// A vocabulary as a file with these tokens and types states it; `extra` adds metadata.
template <class Extra>
llama::Vocabulary vocabulary_of(const char* model, const std::vector<std::string>& tokens, const std::vector<std::int32_t>& types,
                                const Extra& extra) {
  tiny::Writer out;
  out.value("tokenizer.ggml.model", std::string(model));
  out.array("tokenizer.ggml.tokens", tokens);
  if (!types.empty()) { out.array("tokenizer.ggml.token_type", types); }
  extra(out);
  const tiny::TemporaryFile file;
  file.write(out.bytes());
  return llama::Vocabulary(llama::Gguf(file.path()));
}

/// The vocabulary of the example model with what `extra` adds: the tokens in the test, then types and scores where they are wanted.
template <class Extra>
llama::Vocabulary sentence_piece(bool types, bool scores, const std::vector<std::string>& user_defined, const Extra& extra) {
  const llama::Gguf gguf(KVCOMPRESS_MODEL);
  std::vector<std::string> tokens;
  std::vector<std::int32_t> kinds;
  std::vector<float> all_scores;
  for (const std::string_view text : gguf.texts("tokenizer.ggml.tokens")) { tokens.emplace_back(text); }
  for (const std::uint64_t kind : gguf.integers("tokenizer.ggml.token_type")) { kinds.push_back(static_cast<std::int32_t>(kind)); }
  for (const double score : gguf.reals("tokenizer.ggml.scores")) { all_scores.push_back(static_cast<float>(score)); }
  for (const std::string& text : user_defined) {
    tokens.push_back(text);
    kinds.push_back(4);
    all_scores.push_back(0.0F);
  }
  return vocabulary_of("llama", tokens, types ? kinds : std::vector<std::int32_t>(), [&](tiny::Writer& out) {
    if (scores) { out.array("tokenizer.ggml.scores", all_scores); }
    extra(out);
  });
}
const auto nothing = [](tiny::Writer&) {};

// The numbers below are llama.cpp's for the same files.
TEST(UserDefined, TokensAreFoundInAText) {
  const llama::Vocabulary vocabulary = sentence_piece(true, true, {"<|im_start|>", "<|im_END|>", "  ", "    "}, nothing);
  EXPECT_EQ(vocabulary.encode("<|im_start|>user\nhello", false), (std::vector<Token>{4096, 598, 271, 13, 260, 292, 4021}));
  EXPECT_EQ(vocabulary.encode("a<|im_start|> b <|im_start|><|im_END|>c", false),
            (std::vector<Token>{261, 4096, 4017, 272, 4017, 4096, 4097, 280}));
  EXPECT_EQ(vocabulary.encode("       ", false).front(), Token{4099}) << "the longest first";
  for (const char* text : {"<|im_start|>user", "a<|im_start|> b", "    x", "  <|im_start|>  ", "def f():\n      return", " a", "a   b"}) {
    EXPECT_EQ(vocabulary.decode(vocabulary.encode(text)), text);
  }
}

TEST(UserDefined, TokensAreFoundWithoutASpaceInFront) {
  const llama::Vocabulary vocabulary =
      sentence_piece(true, true, {"<|im_start|>"}, [](tiny::Writer& out) { out.value("tokenizer.ggml.add_space_prefix", false); });
  EXPECT_EQ(vocabulary.encode("<|im_start|>user\nhello", false), (std::vector<Token>{4096, 431, 271, 13, 260, 292, 4021}));
}

TEST(UserDefined, LongestTextIsCutOutFirst) {
  std::vector<std::string> tokens;
  for (const std::string& character : llama::byte_characters()) { tokens.push_back(character); }
  std::vector<std::int32_t> types(tokens.size(), 1);
  for (const char* text : {"ab", "bcd", "<end>", "caf\xC3\xA9"}) {
    tokens.emplace_back(text);
    types.push_back(tokens.back() == "<end>" ? 3 : 4);
  }
  const llama::Vocabulary vocabulary = vocabulary_of("gpt2", tokens, types, [](tiny::Writer& out) {
    out.value("tokenizer.ggml.pre", std::string("qwen2"));
    out.array("tokenizer.ggml.merges", std::vector<std::string>{});
  });
  EXPECT_EQ(pieces(vocabulary, "abcdab"), (std::vector<std::string>{"a", "bcd", "ab"}));
  EXPECT_EQ(vocabulary.encode("<end>").size(), 5U) << "control tokens are text";
  EXPECT_EQ(pieces(vocabulary, "caf\xC3\xA9"), std::vector<std::string>{"caf\xC3\xA9"});
}

TEST(SentencePiece, KnowsWhatAFileLeavesOut) {
  const llama::Vocabulary whole(llama::Gguf(KVCOMPRESS_MODEL));
  const llama::Vocabulary no_types = sentence_piece(false, true, {}, nothing);
  const llama::Vocabulary no_scores = sentence_piece(true, false, {}, nothing);
  EXPECT_EQ(no_types.bos(), Token{1});
  EXPECT_EQ(no_types.eos(), Token{2});
  EXPECT_EQ(no_types.encode("line\nline").front(), Token{1});
  for (const std::string text : awkward) {
    EXPECT_EQ(no_types.encode(text), whole.encode(text)) << text;
    EXPECT_EQ(no_types.decode(no_types.encode(text)), whole.decode(whole.encode(text))) << text;
  }
  EXPECT_EQ(no_types.encode("\n", false).back(), Token{13}) << "<0x0A>";
  EXPECT_EQ(no_types.piece(1), "");
  EXPECT_EQ(no_scores.decode(no_scores.encode("the whale")), "the whale");
  // All equal: the leftmost pair that is a token is merged first.
  const llama::Vocabulary few = vocabulary_of("llama", {"<unk>", "<s>", "</s>", "a", "b", "c", "ab", "bc"}, {},
                                              [](tiny::Writer& out) { out.value("tokenizer.ggml.add_space_prefix", false); });
  EXPECT_EQ(few.encode("abc"), (std::vector<Token>{1, 6, 5}));
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

TEST(WordCutter, CutsLongNumbersByTheirOwnRules) {
  const auto cut = [](llama::WordRule rule) { return llama::WordCutter("1234567", rule).words(); };
  EXPECT_EQ(cut(llama::WordRule::gpt2), Words{"1234567"});
  EXPECT_EQ(cut(llama::WordRule::llama3), (Words{"123", "456", "7"}));
  EXPECT_EQ(cut(llama::WordRule::qwen2), (Words{"1", "2", "3", "4", "5", "6", "7"}));
  EXPECT_EQ(llama::WordCutter("It'S 12, we!\n\nx", llama::WordRule::qwen2).words(),
            (Words{"It", "'S", " ", "1", "2", ",", " we", "!\n\n", "x"}));
}

TEST(WordCutter, SmollmCutsEveryDigitOut) {
  EXPECT_EQ(llama::WordCutter("at 12 o", llama::WordRule::smollm).words(), (Words{"at", " ", "1", "2", " o"}));
}

}  // namespace
