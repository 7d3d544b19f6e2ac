// examples/llama/engine.hpp - the forward pass of a Llama model, every attention behind one interface.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "attention.hpp"
#include "error.hpp"
#include "matmul.hpp"
#include "model.hpp"
#include "thread_pool.hpp"
#include "vocabulary.hpp"

namespace llama {

/// The next tokens of one sequence, and where its cache is.
struct Slice {
  std::span<const Token> tokens;
  std::size_t position = 0;        // of the first token
  Attention* attention = nullptr;  // of this sequence; slices of one call must not share one
  std::span<float> logits = {};    // (n, vocabulary): filled for the last n tokens; n may be 0
  bool end_prompt = false;         // call end_prompt(layer) after each layer's attend
};

/// A model that runs. Not for several threads at once; give each its own. The logits do not depend on the
/// number of threads, on how many tokens are given at once, nor on which slices are given together.
class Engine {
 public:
  /// `context` positions will be used, 0 for all that the model knows.
  explicit Engine(const std::filesystem::path& path, std::size_t threads = 1, std::size_t context = 0)
      : model_(path, context), pool_(threads) {}

  [[nodiscard]] const Model& model() const noexcept { return model_; }
  [[nodiscard]] const Config& config() const noexcept { return model_.config; }
  [[nodiscard]] const Vocabulary& vocabulary() const noexcept { return model_.vocabulary; }
  [[nodiscard]] PlainAttention plain_attention() const {
    return {config().layers, config().query_heads, config().kv_heads, config().head_dim};
  }

  /// Runs the next tokens of one sequence.
  void forward(std::span<const Token> tokens, std::size_t position, Attention& attention, std::span<float> logits,
               bool end_prompt = false) {
    const Slice slice{tokens, position, &attention, logits, end_prompt};
    forward({&slice, 1});
  }

  /// Runs several sequences in step: the weights are read once for all of them.
  void forward(std::span<const Slice> slices);

 private:
  void prepare(std::span<const Slice> slices);
  void embed(std::span<const Slice> slices);
  void find_angles(std::span<const Slice> slices);
  void attend(const Layer& layer, std::size_t index, std::span<const Slice> slices);
  void feed_forward(const Layer& layer);
  void write_logits(std::span<const Slice> slices);

  void normalise(const std::vector<float>& weight);
  void rotate(std::vector<float>& heads, std::size_t count);
  void add_bias(std::vector<float>& rows, const std::vector<float>& bias) const;
  void add_product(const Tensor& weights, const std::vector<float>& bias, const std::vector<float>& in);

  Model model_;
  ThreadPool pool_;

  // Buffers of one call, kept for the next.
  std::size_t rows_ = 0;        // tokens of all slices
  std::vector<float> stream_;   // (rows, dim) the residual stream
  std::vector<float> normed_;   // (rows, dim)
  std::vector<float> queries_;  // (rows, query_heads, head_dim)
  std::vector<float> keys_;     // (rows, kv_heads, head_dim)
  std::vector<float> values_;   // (rows, kv_heads, head_dim)
  std::vector<float> mixed_;    // (rows, query_heads, head_dim) what attention returns
  std::vector<float> gate_;     // (rows, hidden)
  std::vector<float> up_;       // (rows, hidden)
  std::vector<float> update_;   // (rows, dim)
  std::vector<float> cosine_;   // (rows, rope_dims / 2)
  std::vector<float> sine_;     // (rows, rope_dims / 2)
  std::vector<float> logits_;   // (wanted rows, vocabulary)
};

inline void Engine::forward(std::span<const Slice> slices) {
  prepare(slices);
  if (rows_ == 0) { return; }
  embed(slices);
  find_angles(slices);
  for (std::size_t i = 0; i < config().layers; ++i) {
    attend(model_.layers[i], i, slices);
    feed_forward(model_.layers[i]);
  }
  write_logits(slices);
}

inline void Engine::embed(std::span<const Slice> slices) {
  float* row = stream_.data();
  for (const Slice& slice : slices) {
    for (const Token token : slice.tokens) {
      decode_row(model_.embedding, token, row);
      row += config().dim;
    }
  }
}

/// stream += Wo attention(norm(stream))
inline void Engine::attend(const Layer& layer, std::size_t index, std::span<const Slice> slices) {
  const Config& c = config();
  normalise(layer.attention_norm);
  const Product products[] = {{&layer.query, queries_.data()}, {&layer.key, keys_.data()}, {&layer.value, values_.data()}};
  multiply(products, normed_.data(), rows_, pool_);
  add_bias(queries_, layer.query_bias);
  add_bias(keys_, layer.key_bias);
  add_bias(values_, layer.value_bias);
  rotate(queries_, c.query_heads);
  rotate(keys_, c.kv_heads);

  // One sequence: its KV heads go to the threads. Several: each goes to one thread as a whole.
  std::vector<std::size_t> first_row;
  for (std::size_t row = 0; const Slice& slice : slices) {
    first_row.push_back(row);
    row += slice.tokens.size();
  }
  const auto append = [&](std::size_t s) {
    const std::size_t at = first_row[s] * c.kv_heads * c.head_dim;
    slices[s].attention->append(index, keys_.data() + at, values_.data() + at, slices[s].tokens.size());
  };
  const auto attend_heads = [&](std::size_t s, std::size_t first, std::size_t last) {
    const std::size_t at = first_row[s] * c.query_heads * c.head_dim;
    slices[s].attention->attend(index, queries_.data() + at, slices[s].tokens.size(), mixed_.data() + at, first, last);
  };
  const auto end = [&](std::size_t s) {
    if (slices[s].end_prompt) { slices[s].attention->end_prompt(index); }
  };
  if (slices.size() == 1) {
    append(0);
    pool_.parallel_for(c.kv_heads, [&](std::size_t first, std::size_t last) { attend_heads(0, first, last); });
    end(0);
  } else {
    pool_.parallel_for(slices.size(), [&](std::size_t first, std::size_t last) {
      for (std::size_t s = first; s < last; ++s) {
        append(s);
        attend_heads(s, 0, c.kv_heads);
        end(s);
      }
    });
  }
  add_product(layer.attention_output, layer.attention_output_bias, mixed_);
}

/// stream += Wdown (silu(Wgate norm(stream)) * Wup norm(stream))
inline void Engine::feed_forward(const Layer& layer) {
  normalise(layer.ffn_norm);
  const Product products[] = {{&layer.gate, gate_.data()}, {&layer.up, up_.data()}};
  multiply(products, normed_.data(), rows_, pool_);
  const std::size_t hidden = config().hidden;
  const auto activate = [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first * hidden; i < last * hidden; ++i) { gate_[i] *= up_[i] / (1.0F + std::exp(-gate_[i])); }
  };
  pool_.parallel_for(rows_, activate);
  add_product(layer.down, {}, gate_);
}

/// logits = Wout norm(stream), for the rows that were asked for.
inline void Engine::write_logits(std::span<const Slice> slices) {
  const Config& c = config();
  normalise(model_.output_norm);
  std::size_t wanted = 0;  // move those rows to the front of normed_
  std::size_t end = 0;
  for (const Slice& slice : slices) {
    end += slice.tokens.size();
    const std::size_t count = slice.logits.size() / c.vocabulary;
    std::copy_n(normed_.data() + (end - count) * c.dim, count * c.dim, normed_.data() + wanted * c.dim);
    wanted += count;
  }
  if (wanted == 0) { return; }
  logits_.resize(wanted * c.vocabulary);
  multiply(model_.output, normed_.data(), wanted, logits_.data(), pool_);
  const float* from = logits_.data();
  for (const Slice& slice : slices) {
    std::copy_n(from, slice.logits.size(), slice.logits.data());
    from += slice.logits.size();
  }
}

/// normed = stream / rms(stream) * weight
inline void Engine::normalise(const std::vector<float>& weight) {
  const std::size_t dim = config().dim;
  pool_.parallel_for(rows_, [&](std::size_t first, std::size_t last) {
    for (std::size_t row = first; row < last; ++row) {
      const float* in = stream_.data() + row * dim;
      float* out = normed_.data() + row * dim;
      double squares = 0.0;
      for (std::size_t i = 0; i < dim; ++i) { squares += static_cast<double>(in[i]) * static_cast<double>(in[i]); }
      const float scale = 1.0F / std::sqrt(static_cast<float>(squares / static_cast<double>(dim)) + config().norm_epsilon);
      for (std::size_t i = 0; i < dim; ++i) { out[i] = in[i] * scale * weight[i]; }
    }
  });
}

inline void Engine::find_angles(std::span<const Slice> slices) {
  std::size_t at = 0;
  for (const Slice& slice : slices) {
    for (std::size_t t = 0; t < slice.tokens.size(); ++t) {
      for (const double frequency : model_.rope_frequency) {
        const double angle = static_cast<double>(slice.position + t) * frequency;
        cosine_[at] = static_cast<float>(config().rope_magnitude * std::cos(angle));
        sine_[at] = static_cast<float>(config().rope_magnitude * std::sin(angle));
        ++at;
      }
    }
  }
}

/// RoPE in place. heads: (rows, count, head_dim)
inline void Engine::rotate(std::vector<float>& heads, std::size_t count) {
  const std::size_t pairs = config().rope_dims / 2;
  const std::size_t step = config().rope_halves ? 1 : 2;       // from a pair to the next
  const std::size_t apart = config().rope_halves ? pairs : 1;  // from the first of a pair to its second
  for (std::size_t i = 0; i < rows_ * count; ++i) {
    float* head = heads.data() + i * config().head_dim;
    const float* cosine = cosine_.data() + i / count * pairs;
    const float* sine = sine_.data() + i / count * pairs;
    for (std::size_t p = 0; p < pairs; ++p) {
      const float x = head[step * p];
      const float y = head[step * p + apart];
      head[step * p] = x * cosine[p] - y * sine[p];
      head[step * p + apart] = x * sine[p] + y * cosine[p];
    }
  }
}

/// rows += bias, for each row; nothing when there is none. rows: (rows, bias.size())
inline void Engine::add_bias(std::vector<float>& rows, const std::vector<float>& bias) const {
  if (bias.empty()) { return; }
  for (std::size_t row = 0; row < rows_; ++row) {
    for (std::size_t i = 0; i < bias.size(); ++i) { rows[row * bias.size() + i] += bias[i]; }
  }
}

inline void Engine::add_product(const Tensor& weights, const std::vector<float>& bias, const std::vector<float>& in) {
  multiply(weights, in.data(), rows_, update_.data(), pool_);
  add_bias(update_, bias);
  for (std::size_t i = 0; i < rows_ * config().dim; ++i) { stream_[i] += update_[i]; }
}

/// Every argument is checked here, before anything is touched; then the buffers are made to fit.
inline void Engine::prepare(std::span<const Slice> slices) {
  const Config& c = config();
  std::size_t rows = 0;
  for (const Slice& slice : slices) {
    const std::size_t count = slice.tokens.size();
    if (slice.attention == nullptr) { fail("forward: a slice has no attention."); }
    if (count == 0) { fail("forward: a slice has no tokens."); }
    if (count > c.context || slice.position > c.context - count) {
      fail("forward: {} tokens at position {} do not fit the model's context of {}.", count, slice.position, c.context);
    }
    if (slice.logits.size() % c.vocabulary != 0 || slice.logits.size() / c.vocabulary > count) {
      fail(
          "forward: logits has {} values; it must be a multiple of {}, the vocabulary, for at most {} "
          "tokens.",
          slice.logits.size(), c.vocabulary, count);
    }
    for (const Token token : slice.tokens) {
      if (token >= c.vocabulary) { fail("forward: token {} lies outside the vocabulary of {}.", token, c.vocabulary); }
    }
    rows += count;
  }
  rows_ = rows;
  for (std::vector<float>* buffer : {&stream_, &normed_, &update_}) { buffer->resize(rows * c.dim); }
  for (std::vector<float>* buffer : {&queries_, &mixed_}) { buffer->resize(rows * c.query_heads * c.head_dim); }
  for (std::vector<float>* buffer : {&keys_, &values_}) { buffer->resize(rows * c.kv_heads * c.head_dim); }
  for (std::vector<float>* buffer : {&gate_, &up_}) { buffer->resize(rows * c.hidden); }
  for (std::vector<float>* buffer : {&cosine_, &sine_}) { buffer->resize(rows * model_.rope_frequency.size()); }
}

}  // namespace llama
