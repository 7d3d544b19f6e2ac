// examples/compare_policies/kv_measure.hpp - a cache fed with tensors of one's own, and how far its attention is from the exact one.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include "compare_policies/clock.hpp"
#include "compare_policies/kv_results.hpp"
#include "kvcompress/attention/attend.hpp"
#include "kvcompress/attention/rope.hpp"
#include "tensors/dump_data.hpp"

namespace comparison {

inline double dot(const float* a, const float* b, std::size_t count) {
  double lanes[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) { lanes[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]); }
  }
  double sum = 0.0;
  for (; i < count; ++i) { sum += static_cast<double>(a[i]) * static_cast<double>(b[i]); }
  for (const double lane : lanes) { sum += lane; }
  return sum;
}

inline double log_of_sum_exp(std::span<const double> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (const double logit : logits) { total += std::exp(logit - largest); }
  return largest + std::log(total);
}

/// What the dump's attention is without a cache, for the decoded tokens of one layer.
struct ExactLayer {
  std::vector<double> outputs;       // (decoded, query_heads, value_dim)
  std::vector<double> log_sum_exps;  // (decoded, query_heads)
};

/// The query of a token that is one of the newest.
inline const float* query_of(const tensors::Dump& dump, const tensors::LayerRows& rows, std::size_t token, std::size_t head) {
  return rows.queries.data() + ((token + dump.queries - dump.tokens) * dump.query_heads + head) * dump.key_dim;
}

/// softmax(q K^T / sqrt(key_dim)) V of the last `decoded` tokens, each over all rows up to its own, in double.
inline ExactLayer exact_attention(const tensors::Dump& dump, const tensors::LayerRows& rows, std::size_t decoded) {
  ExactLayer exact{std::vector<double>(decoded * dump.query_heads * dump.value_dim), std::vector<double>(decoded * dump.query_heads)};
  const double scale = 1.0 / std::sqrt(static_cast<double>(dump.key_dim));
  std::vector<double> logits;
  for (std::size_t d = 0; d < decoded; ++d) {
    const std::size_t token = dump.tokens - decoded + d;
    logits.resize(token + 1);
    for (std::size_t head = 0; head < dump.query_heads; ++head) {
      const std::size_t kv_head = head / (dump.query_heads / dump.kv_heads);
      const float* query = query_of(dump, rows, token, head);
      for (std::size_t j = 0; j <= token; ++j) {
        logits[j] = scale * dot(query, rows.keys.data() + (j * dump.kv_heads + kv_head) * dump.key_dim, dump.key_dim);
      }
      const double log_sum_exp = log_of_sum_exp(logits);
      double* out = exact.outputs.data() + (d * dump.query_heads + head) * dump.value_dim;
      for (std::size_t j = 0; j <= token; ++j) {
        const double weight = std::exp(logits[j] - log_sum_exp);
        const float* value = rows.values.data() + (j * dump.kv_heads + kv_head) * dump.value_dim;
        for (std::size_t c = 0; c < dump.value_dim; ++c) { out[c] += weight * static_cast<double>(value[c]); }
      }
      exact.log_sum_exps[d * dump.query_heads + head] = log_sum_exp;
    }
  }
  return exact;
}

/// One sequence through one cache. The prompt of every layer comes first, then the last tokens one by one, layer after layer, as in decoding.
template <class Cache>
class KvMeasuring {
 public:
  /// `retrieves`: a query reads fewer rows than the cache holds. Everything must outlive this object.
  KvMeasuring(Cache& cache, const kvcompress::Shape& shape, const tensors::Dump& dump, const std::vector<tensors::LayerRows>& layers,
              const std::vector<ExactLayer>& exact, std::size_t decoded, bool retrieves)
      : cache_(cache), dump_(dump), layers_(layers), exact_(exact), decoded_(decoded), retrieves_(retrieves), workspace_(shape, {}),
        rotation_(shape, {}), sums_(layers.size()), out_(dump.query_heads * dump.value_dim), log_sum_exps_(dump.query_heads),
        key_(dump.key_dim), value_(dump.value_dim), turned_(dump.query_heads / dump.kv_heads * dump.key_dim) {}

  /// Calls step() after each decoded token.
  std::vector<KvSums> run(auto&& step) {
    const double empty = bytes();
    give_prompts();
    for (std::size_t d = 0; d < decoded_; ++d) {
      for (std::size_t layer = 0; layer < layers_.size(); ++layer) { decode(layer, d); }
      step();
    }
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      noting_bytes(layer, [&] {
        const Stopwatch watch(sums_[layer].decode_seconds);
        cache_.commit(layer);
      });
      const auto count = static_cast<double>(layers_.size());
      sums_[layer].bytes += empty / count;
      sums_[layer].decoded = static_cast<double>(decoded_);
      sums_[layer].values = static_cast<double>(dump_.tokens * dump_.kv_heads * (dump_.key_dim + dump_.value_dim));
    }
    return sums_;
  }

 private:
  [[nodiscard]] std::size_t prompt() const { return dump_.tokens - decoded_; }
  [[nodiscard]] double bytes() const {
    const kvcompress::MemoryReport report = cache_.memory();
    return static_cast<double>(report.fast() - report.scratch);
  }
  [[nodiscard]] double slow_bytes() const {
    const kvcompress::MemoryReport report = cache_.memory();
    return static_cast<double>(report.slow_tier + report.slow_file);
  }
  /// Does what changes one layer, and notes by how much it grew.
  void noting_bytes(std::size_t layer, auto&& change) {
    const double before = bytes();
    const double slow_before = slow_bytes();
    change();
    sums_[layer].bytes += bytes() - before;
    sums_[layer].slow_bytes += slow_bytes() - slow_before;
  }

  void append(std::size_t layer, std::size_t first, std::size_t last) {
    const tensors::LayerRows& rows = layers_[layer];
    cache_.append(layer,
                  kvcompress::Rows::tokens_first(rows.keys.data() + first * dump_.kv_heads * dump_.key_dim, last - first, dump_.kv_heads,
                                                 dump_.key_dim),
                  kvcompress::Rows::tokens_first(rows.values.data() + first * dump_.kv_heads * dump_.value_dim, last - first,
                                                 dump_.kv_heads, dump_.value_dim));
  }
  void give_prompt(std::size_t layer) {
    const Stopwatch watch(sums_[layer].prompt_seconds);
    append(layer, 0, prompt());
    std::vector<kvcompress::Position> positions(dump_.queries - decoded_);
    std::iota(positions.begin(), positions.end(), static_cast<kvcompress::Position>(dump_.tokens - dump_.queries));
    const auto queries = kvcompress::Rows::tokens_first(layers_[layer].queries.data(), positions.size(), dump_.query_heads, dump_.key_dim);
    cache_.observe(layer, queries, positions, {}, nullptr);
    cache_.end_prompt(layer);
  }
  /// Gives the prompts, and the first decoded row to each layer: one that is encoded together with later ones refuses it until these have
  /// their prompts, so it tells which layers share what they take.
  void give_prompts() {
    std::size_t first = 0;  // of the layers that wait
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      noting_bytes(layer, [&] { give_prompt(layer); });
      if (waits(layer) && layer + 1 < layers_.size()) { continue; }
      for (std::size_t l = first; l < layer; ++l) { open(l); }
      share(first, layer + 1);
      first = layer + 1;
    }
  }
  void open(std::size_t layer) {
    noting_bytes(layer, [&] {
      const Stopwatch watch(sums_[layer].decode_seconds);
      append(layer, prompt(), prompt() + 1);
    });
  }
  bool waits(std::size_t layer) {
    try {
      open(layer);
      return false;
    } catch (const kvcompress::Error& error) {
      if (error.code() != kvcompress::ErrorCode::phase || layer + 1 == layers_.size()) { throw; }
      return true;
    }
  }
  /// What layers that are encoded together take belongs to each of them in equal parts.
  void share(std::size_t first, std::size_t last) {
    for (const auto field : {&KvSums::bytes, &KvSums::slow_bytes, &KvSums::prompt_seconds}) {
      double sum = 0.0;
      for (std::size_t l = first; l < last; ++l) { sum += sums_[l].*field; }
      for (std::size_t l = first; l < last; ++l) { sums_[l].*field = sum / static_cast<double>(last - first); }
    }
  }

  void decode(std::size_t layer, std::size_t d) {
    const std::size_t token = prompt() + d;
    noting_bytes(layer, [&] {
      const Stopwatch watch(sums_[layer].decode_seconds);
      if (d > 0) { append(layer, token, token + 1); }
      const auto queries = kvcompress::Rows::tokens_first(query_of(dump_, layers_[layer], token, 0), 1, dump_.query_heads, dump_.key_dim);
      kvcompress::AttendOptions options;
      options.log_sum_exp = log_sum_exps_.data();
      cache_.attend(layer, queries, kvcompress::Output::tokens_first(out_.data(), 1, dump_.query_heads, dump_.value_dim), workspace_,
                    options, {});
    });
    KvSums& sums = sums_[layer];
    const double* exact = exact_[layer].outputs.data() + d * out_.size();
    for (std::size_t i = 0; i < out_.size(); ++i) {
      const double error = static_cast<double>(out_[i]) - exact[i];
      sums.error_square += error * error;
      sums.output_square += exact[i] * exact[i];
    }
    sums.queries += static_cast<double>(dump_.query_heads);
    const std::span<const double> log_sum_exps = std::span(exact_[layer].log_sum_exps).subspan(d * dump_.query_heads, dump_.query_heads);
    if (retrieves_) {
      compare_denominators(sums, log_sum_exps);
    } else {
      for (std::size_t kv_head = 0; kv_head < dump_.kv_heads; ++kv_head) { compare_rows(layer, token, kv_head, log_sum_exps); }
    }
  }
  /// Where a query reads some rows only, which ones is not known; their share of the softmax's denominator is the mass on them, and its
  /// logarithm the divergence, but for the error of their keys.
  void compare_denominators(KvSums& sums, std::span<const double> exact) const {
    for (std::size_t head = 0; head < dump_.query_heads; ++head) {
      const double lost = std::max(0.0, exact[head] - static_cast<double>(log_sum_exps_[head]));
      sums.mass += std::exp(-lost);
      sums.divergence += lost;
    }
  }
  /// Row by row: the keys that the cache holds against those of the dump.
  void compare_rows(std::size_t layer, std::size_t token, std::size_t kv_head, std::span<const double> exact) {
    const std::size_t group = dump_.query_heads / dump_.kv_heads;
    const double scale = 1.0 / std::sqrt(static_cast<double>(dump_.key_dim));
    const kvcompress::RowTable& table = cache_.table(layer, kv_head);
    std::int64_t own_shift = 0;  // of the token's own row
    for (std::size_t row = table.rows(); row-- > 0;) {
      if (table.position(row) == token) {
        own_shift = table.shift(row);
        break;
      }
    }
    std::vector<std::vector<double>> ours(group);
    std::vector<std::vector<double>> theirs(group);
    std::int64_t turned_by = 0;
    const float* queries = query_of(dump_, layers_[layer], token, kv_head * group);
    const float* turned = queries;
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (!table.alive(row)) { continue; }
      cache_.read(layer, kv_head, row, key_.data(), value_.data());
      const std::int64_t turn = static_cast<std::int64_t>(table.shift(row)) - own_shift;
      if (turn != turned_by) {  // in-cache positions: the query is turned instead of the key
        std::copy_n(queries, turned_.size(), turned_.begin());
        rotation_.turn_by(turn);
        for (std::size_t g = 0; g < group; ++g) { rotation_.apply(turned_.data() + g * dump_.key_dim); }
        turned = turned_.data();
        turned_by = turn;
      }
      const float* key = layers_[layer].keys.data() + (table.position(row) * dump_.kv_heads + kv_head) * dump_.key_dim;
      for (std::size_t g = 0; g < group; ++g) {
        ours[g].push_back(scale * dot(turned + g * dump_.key_dim, key_.data(), dump_.key_dim));
        theirs[g].push_back(scale * dot(queries + g * dump_.key_dim, key, dump_.key_dim));
      }
    }
    for (std::size_t g = 0; g < group; ++g) {
      const double exact_sum = exact[kv_head * group + g];
      const double our_sum = log_of_sum_exp(ours[g]);
      double divergence = 0.0;
      for (std::size_t i = 0; i < ours[g].size(); ++i) {
        const double log_ratio = (ours[g][i] - our_sum) - (theirs[g][i] - exact_sum);
        divergence += std::exp(ours[g][i] - our_sum) * log_ratio;
        sums_[layer].mass += std::exp(theirs[g][i] - exact_sum);
      }
      sums_[layer].divergence += std::max(0.0, divergence);  // below 0 only by rounding
    }
  }

  Cache& cache_;
  const tensors::Dump& dump_;
  const std::vector<tensors::LayerRows>& layers_;
  const std::vector<ExactLayer>& exact_;
  std::size_t decoded_;
  bool retrieves_;
  kvcompress::Workspace workspace_;
  kvcompress::Rotation rotation_;
  std::vector<KvSums> sums_;
  std::vector<float> out_;
  std::vector<float> log_sum_exps_;
  std::vector<float> key_;
  std::vector<float> value_;
  std::vector<float> turned_;  // (group, key_dim)
};

}  // namespace comparison
