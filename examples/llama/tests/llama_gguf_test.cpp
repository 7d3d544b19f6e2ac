// examples/llama/tests/llama_gguf_test.cpp - what is read of a GGUF file; the sentence for each fault.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "llama/model.hpp"
#include "tiny_gguf.hpp"

namespace {

using tiny::sentence_of;

testing::AssertionResult says(const std::string& sentence, const std::string& part) {
  return sentence.find(part) != std::string::npos ? testing::AssertionSuccess() : testing::AssertionFailure() << "got: " << sentence;
}

std::string refusal(const std::string& bytes) {
  const tiny::TemporaryFile file;
  file.write(bytes);
  return sentence_of([&] { llama::Model model(file.path()); });
}

template <class Extra>
std::string refusal_with(const Extra& extra) {
  return refusal(tiny::Model{}.write(extra).bytes());
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(LlamaGguf, ReadsTheConfigurationOfTheExampleModel) {
  const llama::Model model(KVCOMPRESS_MODEL);
  EXPECT_EQ(model.config.layers, 6U);
  EXPECT_EQ(model.config.dim, 256U);
  EXPECT_EQ(model.config.query_heads, 4U);
  EXPECT_EQ(model.config.kv_heads, 2U);
  EXPECT_EQ(model.config.head_dim, 64U);
  EXPECT_EQ(model.config.hidden, 704U);
  EXPECT_EQ(model.config.vocabulary, 4096U);
  EXPECT_EQ(model.config.context, 2048U);
  EXPECT_EQ(model.config.rope_dims, 64U);
  EXPECT_EQ(model.output.data, model.embedding.data) << "the embedding is tied";
  EXPECT_EQ(model.embedding.format, llama::Format::q8_0);
}

TEST(LlamaGguf, ReadsBothVersions) {
  tiny::Writer writer = tiny::Model{}.write();
  for (const std::uint32_t version : {2U, 3U}) {
    writer.version = version;
    EXPECT_EQ(refusal(writer.bytes()), "");
  }
  writer.version = 1;
  EXPECT_TRUE(says(refusal(writer.bytes()), "has GGUF version 1; this engine reads 2 and 3."));
  writer.version = 0x03000000;
  EXPECT_TRUE(says(refusal(writer.bytes()), "big-endian"));
}

TEST(LlamaGguf, SaysWhatIsWrongWithAFile) {
  EXPECT_TRUE(says(sentence_of([] { const llama::Gguf gguf("/nowhere/model.gguf"); }), "/nowhere/model.gguf: cannot be opened"));
  EXPECT_TRUE(says(sentence_of([] { const llama::Gguf gguf(std::filesystem::temp_directory_path()); }), "is not a regular file"));
  EXPECT_TRUE(says(refusal(""), "is empty"));
  EXPECT_TRUE(says(refusal("GG"), "the magic at byte 0 needs 4 bytes, and the file has 2."));
  EXPECT_TRUE(says(refusal("not a model"), "is not a GGUF file"));
  const std::string good = tiny::Model{}.write().bytes();
  std::string huge = good;
  huge.replace(8, 8, std::string(8, '\x7F'));  // more tensors than there are: the data is read as the tensor table
  EXPECT_NE(refusal(huge), "");
  huge = good;
  huge.replace(16, 8, std::string(8, '\xFF'));  // more metadata than there is: the tensor table is read as metadata
  EXPECT_NE(refusal(huge), "");
  EXPECT_TRUE(says(refusal(good.substr(0, good.size() - 1)), "tensor \"output.weight\" needs"));
}

TEST(LlamaGguf, SaysWhatIsWrongWithTheMetadata) {
  const std::string good = tiny::Model{}.write().bytes();
  EXPECT_TRUE(says(refusal(replaced(good, "llama.block_count", "llama.BLOCK_COUNT")), "\"llama.block_count\" is missing"));
  tiny::Model model;
  model.kv_heads = 3;
  EXPECT_TRUE(says(refusal(model.write().bytes()), "4 query heads, which is not a multiple of its 3 KV heads"));
  model = {};
  model.rope_dims = 14;
  EXPECT_TRUE(says(refusal(model.write().bytes()), "is 14; it must be even and at most the head dimension 12"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.value("general.alignment", 48U); }), "alignment is 48"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.value("general.alignment", std::string("x")); }), "must be an integer"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.value("llama.rope.freq_base", -1.0F); }), "RoPE base -1"));
  EXPECT_TRUE(
      says(refusal_with([](tiny::Writer& w) { w.value("llama.rope.scaling.type", std::string("cubic")); }), "scales RoPE by \"cubic\""));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.value("llama.block_count", 2U); }), "appears twice"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.array("llama.rope.freq_base", std::vector<float>{}); }), "must be a single value"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.value("tokenizer.ggml.bos_token_id", 4000U); }),
                   "\"tokenizer.ggml.bos_token_id\" is 4000; the vocabulary has 262 tokens."));
  tiny::Writer other;
  other.value("general.architecture", std::string("mamba\x1B[2J"));
  EXPECT_TRUE(says(refusal(other.bytes()), "has architecture \"mamba?[2J\"; this engine runs \"llama\" and \"qwen2\"."));
}

TEST(LlamaGguf, NamesAPartOfASplitModel) {
  const auto part = [](std::uint16_t number, std::uint16_t count) {
    return refusal_with([&](tiny::Writer& w) {
      w.value("split.no", number);
      w.value("split.count", count);
    });
  };
  EXPECT_TRUE(says(part(1, 3), "is file 2 of 3 of a split model (\"split.no\", \"split.count\")"));
  EXPECT_TRUE(says(part(0, 2), "is file 1 of 2 of a split model"));
  EXPECT_EQ(part(0, 1), "");
  EXPECT_EQ(part(0, 0), "") << "as a merged file says";
}

TEST(LlamaGguf, RefusesByNameWhatWouldChangeTheResult) {
  const auto with = [](const char* key, auto value) { return refusal_with([&](tiny::Writer& w) { w.value(key, value); }); };
  EXPECT_TRUE(says(with("llama.expert_count", 8U), "is a mixture of 8 experts (\"llama.expert_count\")"));
  EXPECT_TRUE(says(with("llama.attention.causal", false), "\"llama.attention.causal\" is false"));
  EXPECT_TRUE(says(with("llama.attention.sliding_window", 32U), "the last 32 positions only (\"llama.attention.sliding_window\")"));
  for (const char* key : {"llama.attn_logit_softcapping", "llama.logit_scale", "llama.attention.scale", "llama.rope.scaling.alpha",
                          "llama.rope.scaling.yarn_log_multiplier", "llama.something.new"}) {
    EXPECT_TRUE(says(with(key, 2.0F), "has metadata \"" + std::string(key) + "\", which this engine does not know"));
  }
  EXPECT_EQ(with("llama.expert_count", 0U), "");
  EXPECT_EQ(with("llama.attention.causal", true), "");
  EXPECT_EQ(with("llama.attention.sliding_window", 64U), "");
  EXPECT_EQ(with("llama.vocab_size", 262U), "");
  EXPECT_EQ(with("llama.tensor_data_layout", std::string("Meta AI original pth")), "");
  EXPECT_EQ(with("qwen2.logit_scale", 2.0F), "") << "another model's";
}

TEST(LlamaGguf, TakesASizeGivenForEveryLayer) {
  const std::string key = "llama.attention.head_count_kv";
  const auto with = [&](const std::vector<std::uint32_t>& heads) {
    tiny::Writer writer = tiny::Model{}.write();
    std::string scalar;
    tiny::put_text(scalar, key);
    tiny::put(scalar, std::uint32_t{4});
    tiny::put(scalar, std::uint32_t{2});
    tiny::Writer other;
    other.array(key, heads);
    writer.values = replaced(writer.values, scalar, other.values);
    return refusal(writer.bytes());
  };
  EXPECT_EQ(with({2, 2}), "");
  EXPECT_TRUE(says(with({2, 4}), "is not the same for all layers"));
}

TEST(LlamaGguf, SaysWhatIsWrongWithTheTensors) {
  const std::string good = tiny::Model{}.write().bytes();
  EXPECT_TRUE(says(refusal(replaced(good, "blk.1.ffn_up.weight", "blk.1.ffn_UP.weight")), "\"blk.1.ffn_up.weight\" is missing"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("blk.0.attn_q_norm.weight", {4}, 0, std::string(16, '\0')); }),
                   "has a tensor \"blk.0.attn_q_norm.weight\" that this engine does not know"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("rope_freqs.weight", {5}, 0, std::string(20, '\0')); }),
                   "\"rope_freqs.weight\" has 1 rows of 5; its metadata calls for 1 rows of 4."));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("x", {32}, 9, std::string(99, '\0')); }),
                   "has type 9; this engine reads F32 (0), F16 (1), "));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("x", {33}, 8, std::string(99, '\0')); }), "in blocks of 32"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("x", {}, 0, ""); }), "has 0 dimensions"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("x", {1U << 30, 1U << 30, 1U << 30}, 0, ""); }), "has shape"));
  EXPECT_TRUE(says(refusal_with([](tiny::Writer& w) { w.tensor("x", {8, 0}, 0, ""); }), "or empty"));
}

TEST(LlamaGguf, NeverCrashesOnATruncatedFile) {
  const std::string good = tiny::Model{}.write().bytes();
  for (std::size_t size = 0; size < good.size(); size += size < 20000 ? 97 : 4999) { EXPECT_NE(refusal(good.substr(0, size)), "") << size; }
}

TEST(LlamaGguf, NeverCrashesOnADamagedFile) {
  const tiny::Writer writer = tiny::Model{}.write();
  const std::string good = writer.bytes();
  const std::size_t header = good.size() - writer.data.size();
  std::mt19937 random(11);  // fixed seed: a failure must reproduce
  for (int i = 0; i < 400; ++i) {
    std::string bad = good;
    for (int flips = 0; flips < 3; ++flips) { bad[random() % header] = static_cast<char>(random()); }
    refusal(bad);  // a sentence, or a model that still makes sense
  }
}

}  // namespace
