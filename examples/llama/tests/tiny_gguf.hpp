// examples/llama/tests/tiny_gguf.hpp - writes GGUF files, and a tiny Llama model that exercises all.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "llama/byte_level.hpp"
#include "llama/error.hpp"

namespace tiny {

/// A file of this test that goes away with the object.
class TemporaryFile {
 public:
  TemporaryFile() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    static int next = 0;
    path_ = std::filesystem::temp_directory_path() / (std::string("kvcompress-") + test->test_suite_name() + "-" + test->name() + "-" +
                                                      std::to_string(next++) + "-" + std::to_string(std::random_device{}()) + ".gguf");
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  void write(std::string_view bytes) const {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
inline void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

template <class T>
constexpr std::uint32_t type_of() {
  if constexpr (std::is_same_v<T, bool>) { return 7; }
  if constexpr (std::is_same_v<T, std::uint16_t>) { return 2; }
  if constexpr (std::is_same_v<T, std::uint32_t>) { return 4; }
  if constexpr (std::is_same_v<T, std::int32_t>) { return 5; }
  if constexpr (std::is_same_v<T, float>) { return 6; }
  return 8;
}

/// Collects metadata and tensors; bytes() is the file.
struct Writer {
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;
  std::uint64_t value_count = 0;
  std::uint64_t tensor_count = 0;
  std::string values;
  std::string table;
  std::string data;

  template <class T>
  void value(std::string_view key, T x) {
    put_text(values, key);
    put(values, type_of<T>());
    put_one(x);
    ++value_count;
  }
  template <class T>
  void array(std::string_view key, const std::vector<T>& x) {
    put_text(values, key);
    put(values, std::uint32_t{9});
    put(values, type_of<T>());
    put(values, static_cast<std::uint64_t>(x.size()));
    for (const T& one : x) { put_one(one); }
    ++value_count;
  }
  void tensor(std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type, std::string_view content) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    put_text(table, name);
    put(table, static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t extent : shape) { put(table, extent); }
    put(table, type);
    put(table, static_cast<std::uint64_t>(data.size()));
    data += content;
    ++tensor_count;
  }
  [[nodiscard]] std::string bytes() const {
    std::string out = "GGUF";
    put(out, version);
    put(out, tensor_count);
    put(out, value_count);
    out += values + table;
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }

 private:
  template <class T>
  void put_one(const T& x) {
    if constexpr (std::is_same_v<T, std::string>) {
      put_text(values, x);
    } else {
      put(values, x);
    }
  }
};

/// A random model of two layers with F32 weights, columns that are not a multiple of a block, and a
/// byte-level vocabulary of the 256 bytes and a few words. `extra` adds metadata and tensors.
struct Model {
  std::uint32_t layers = 2, dim = 40, query_heads = 4, kv_heads = 2, head_dim = 12, hidden = 52, context = 64, rope_dims = 8;
  std::uint64_t vocabulary = 0;
  std::string architecture = "llama", rule = "gpt-2";

  template <class Extra>
  Writer write(const Extra& extra) {
    Writer out;
    out.value("general.architecture", architecture);
    out.value(architecture + ".block_count", layers);
    out.value(architecture + ".embedding_length", dim);
    out.value(architecture + ".feed_forward_length", hidden);
    out.value(architecture + ".context_length", context);
    out.value(architecture + ".attention.head_count", query_heads);
    out.value(architecture + ".attention.head_count_kv", kv_heads);
    out.value(architecture + ".attention.key_length", head_dim);
    out.value(architecture + ".attention.value_length", head_dim);
    out.value(architecture + ".attention.layer_norm_rms_epsilon", 1e-5F);
    out.value(architecture + ".rope.dimension_count", rope_dims);
    std::vector<std::string> tokens;
    for (const std::string& character : llama::byte_characters()) { tokens.push_back(character); }
    for (const char* word : {"he", "ll", "hell", "hello",
                             "\xC4\xA0"
                             "w"}) {
      tokens.emplace_back(word);
    }
    tokens.emplace_back("<end>");
    vocabulary = tokens.size();
    std::vector<std::int32_t> kinds(tokens.size(), 1);
    kinds.back() = 3;
    out.value("tokenizer.ggml.model", std::string("gpt2"));
    if (!rule.empty()) { out.value("tokenizer.ggml.pre", rule); }
    out.array("tokenizer.ggml.tokens", tokens);
    out.array("tokenizer.ggml.token_type", kinds);
    out.array("tokenizer.ggml.merges", std::vector<std::string>{"h e", "l l", "he ll", "hell o", "\xC4\xA0 w"});
    out.value("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(tokens.size() - 1));
    std::mt19937 random(7);
    const auto tensor = [&](const std::string& name, std::uint64_t columns, std::uint64_t rows) {
      std::normal_distribution<float> normal(rows == 1 ? 1.0F : 0.0F, rows == 1 ? 0.1F : 0.3F);
      std::string content;
      for (std::uint64_t i = 0; i < columns * rows; ++i) { put(content, normal(random)); }
      out.tensor(name, rows == 1 ? std::vector{columns} : std::vector{columns, rows}, 0, content);
    };
    tensor("token_embd.weight", dim, vocabulary);
    for (std::uint32_t i = 0; i < layers; ++i) {
      const std::string prefix = "blk." + std::to_string(i) + ".";
      tensor(prefix + "attn_norm.weight", dim, 1);
      tensor(prefix + "attn_q.weight", dim, query_heads * head_dim);
      tensor(prefix + "attn_k.weight", dim, kv_heads * head_dim);
      tensor(prefix + "attn_v.weight", dim, kv_heads * head_dim);
      tensor(prefix + "attn_output.weight", query_heads * head_dim, dim);
      tensor(prefix + "ffn_norm.weight", dim, 1);
      tensor(prefix + "ffn_gate.weight", dim, hidden);
      tensor(prefix + "ffn_up.weight", dim, hidden);
      tensor(prefix + "ffn_down.weight", hidden, dim);
    }
    tensor("output_norm.weight", dim, 1);
    tensor("output.weight", dim, vocabulary);
    extra(out);
    return out;
  }
  Writer write() {
    return write([](Writer&) {});
  }
};

/// The sentence that an action fails with; empty when it does not fail.
template <class Action>
std::string sentence_of(const Action& action) {
  try {
    action();
  } catch (const llama::Error& error) { return error.what(); }
  return {};
}

}  // namespace tiny
