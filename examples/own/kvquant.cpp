// examples/own/kvquant.cpp - a codec around a codec: the largest numbers of every row exact, as KVQuant's sparse outliers, the others dense.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>

#include "random_text.hpp"
using namespace kvcompress;

/// The `options.outliers` share of a row's numbers that are largest in magnitude are exact, beside `Dense`, which holds 0 in their place: what its
/// code makes of that is taken off again. Cost: 8 bytes an outlier. ("KVQuant: Towards 10 Million Context Length LLM Inference with KV Cache
/// Quantization", its sparse outliers alone: of a row, found online, keys rotated.)
template <Codec Dense>
class WithOutliers : public CodeBlocks {
  struct Outlier {
    float more;  // than Dense says
    std::uint32_t channel;
  };

 public:
  using exact_type = typename Dense::exact_type;
  static constexpr std::size_t row_multiple = Dense::row_multiple;
  static_assert(Dense::block_rows == CodeBlocks::block_rows);

  WithOutliers(const auto& options, std::size_t dim, const Memory& memory)
      : CodeBlocks(bytes_per_row(options, dim) * block_rows, memory), dim_(dim), count_(bytes_per_row(options, dim) / sizeof(Outlier)),
        dense_(options, dim, memory), rows_at_once_(row_multiple * dim, Allocator<float>(memory)) {}

  void append(const float* rows, std::size_t count) {
    for (std::size_t r = 0; r < count; r += row_multiple) {
      const std::size_t first = this->rows();
      for (std::size_t i = 0; i < row_multiple; ++i) {
        static_cast<void>(block_of_next());
        add_rows(1);
      }
      encode(first, rows + r * dim_, [&](const float* plain) { dense_.append(plain, row_multiple); });
    }
  }
  void replace(std::size_t first, const float* rows) requires(row_multiple > 1) {
    encode(first, rows, [&](const float* plain) { dense_.replace(first, plain); });
  }
  void move(std::size_t from, std::size_t to) requires(row_multiple == 1) {
    std::copy_n(outliers(from), count_, outliers_to_write(to));
    dense_.move(from, to);
  }
  void read(std::size_t row, float* out) const noexcept {
    dense_.read(row, out);
    for (std::size_t i = 0; i < count_; ++i) { out[outliers(row)[i].channel] += outliers(row)[i].more; }
  }
  void scores(RowRange range, const float* queries, std::size_t stride, std::size_t count, float* logits, std::size_t logit_stride,
              float* scratch) const noexcept requires requires(const Dense& dense) {
    dense.scores(range, queries, stride, count, logits, logit_stride, scratch);
  }
  {
    dense_.scores(range, queries, stride, count, logits, logit_stride, scratch);
    each(range, [&](std::size_t r, const Outlier& o) {
      for (std::size_t q = 0; q < count; ++q) { logits[q * logit_stride + r] += queries[q * stride + o.channel] * o.more; }
    });
  }
  void accumulate(RowRange range, const float* weights, std::size_t stride, std::size_t count, float* out, std::size_t out_stride,
                  float* scratch) const noexcept requires requires(const Dense& dense) {
    dense.accumulate(range, weights, stride, count, out, out_stride, scratch);
  }
  {
    dense_.accumulate(range, weights, stride, count, out, out_stride, scratch);
    each(range, [&](std::size_t r, const Outlier& o) {
      for (std::size_t q = 0; q < count; ++q) { out[q * out_stride + o.channel] += weights[q * stride + r] * o.more; }
    });
  }

  // What both do.
  void resize(std::size_t rows) noexcept { CodeBlocks::resize(rows), dense_.resize(rows); }
  void erase_block(std::size_t first) noexcept { CodeBlocks::erase_block(first), dense_.erase_block(first); }
  void make_room(std::size_t more) { CodeBlocks::make_room(more), dense_.make_room(more); }
  void reserve(std::size_t rows) { CodeBlocks::reserve(rows), dense_.reserve(rows); }
  void unshare() { CodeBlocks::unshare(), dense_.unshare(); }
  void hold() noexcept { CodeBlocks::hold(), dense_.hold(); }
  void release() noexcept { CodeBlocks::release(), dense_.release(); }
  void take_room(WithOutliers& from) noexcept { CodeBlocks::take_room(from), dense_.take_room(from.dense_); }
  void hold_at_most(std::size_t rows) noexcept { CodeBlocks::hold_at_most(rows), dense_.hold_at_most(rows); }
  [[nodiscard]] std::size_t scratch_floats(std::size_t dim, std::size_t queries) const noexcept {
    return dense_.scratch_floats(dim, queries);
  }
  static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return Dense::bytes_for(rows, dim, options) + bytes_in_blocks(rows, bytes_per_row(options, dim) * block_rows);
  }
  static constexpr std::size_t most_bytes(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return Dense::most_bytes(rows, dim, options) + most_bytes_in_blocks(rows, bytes_per_row(options, dim) * block_rows);
  }
  void account(MemoryReport& report) const noexcept {
    dense_.account(report);
    account_blocks(report, rows() * count_ * sizeof(Outlier), 0);
    report.add(&MemoryReport::scratch, rows_at_once_);
  }
  static void describe(auto&& fact) {
    Dense::describe(fact);
    fact("outliers", "of a row");
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    const std::size_t bytes = self.count_ * sizeof(Outlier);
    persist_blocks(self, archive, rows, bytes, [&](auto* block, std::size_t here) { archive.bytes(block, here * bytes); });
    Dense::persist(self.dense_, archive, rows);
  }

 private:
  static constexpr std::size_t bytes_per_row(const auto& options, std::size_t dim) noexcept {
    return std::max<std::size_t>(1, static_cast<std::size_t>(options.outliers * static_cast<double>(dim) + 0.5)) * sizeof(Outlier);
  }
  [[nodiscard]] const Outlier* outliers(std::size_t row) const noexcept {
    return reinterpret_cast<const Outlier*>(block_of(row)) + row % block_rows * count_;
  }
  [[nodiscard]] Outlier* outliers_to_write(std::size_t row) {
    return reinterpret_cast<Outlier*>(block_to_write(row)) + row % block_rows * count_;
  }
  void each(RowRange range, auto&& work) const noexcept {
    for (std::size_t row = range.first; row < range.last; ++row) {
      for (std::size_t i = 0; i < count_; ++i) { work(row - range.first, outliers(row)[i]); }
    }
  }
  void encode(std::size_t first, const float* rows, auto&& dense) {
    float* plain = rows_at_once_.data();
    std::copy_n(rows, row_multiple * dim_, plain);
    for (std::size_t r = 0; r < row_multiple; ++r, plain += dim_) {
      for (std::size_t i = 0; i < count_; ++i) {
        const float* most = std::max_element(plain, plain + dim_, [](float a, float b) { return std::abs(a) < std::abs(b); });
        const auto channel = static_cast<std::uint32_t>(most - plain);
        outliers_to_write(first + r)[i] = {std::exchange(plain[channel], 0.0F), channel};
      }
    }
    dense(rows_at_once_.data());
    for (std::size_t r = 0; r < row_multiple; ++r) {
      dense_.read(first + r, rows_at_once_.data());
      for (std::size_t i = 0; i < count_; ++i) {
        Outlier& outlier = outliers_to_write(first + r)[i];
        outlier.more -= rows_at_once_[outlier.channel];
      }
    }
  }

  std::size_t dim_;
  std::size_t count_;  // outliers of a row
  Dense dense_;
  Vector<float> rows_at_once_;  // what is encoded now; holds nothing between calls
};

template <int Bits>
struct KVQuantLike {
  struct Storage {
    using Keys = Buffered<WithOutliers<PerChannel<Bits, 32, half>>, FlushAll>;
    using Values = Buffered<WithOutliers<PerToken<Bits, 32, half>>, FlushOldest>;
    struct Options {
      std::size_t residual = 32;
      double outliers = 0.01;
      Accumulation accumulation = Accumulation::near_exact;
      static void fields(auto& options, auto&& field) {
        field("residual", options.residual);
        field("outliers", options.outliers);
        field("accumulation", options.accumulation);
      }
    };
    static void validate(const Options& options) {
      require(options.residual > 0 && options.residual % 32 == 0, ErrorCode::option, "kvquant: residual is ", options.residual,
              ", must be a positive multiple of 32");
      require(options.outliers > 0.0 && options.outliers < 0.5, ErrorCode::option, "kvquant: outliers is ", options.outliers,
              ", must be in (0, 0.5)");
    }
  };
};

template <class Policy>
double error_of(RandomText& text, std::size_t prompt, const PolicyOptions<Policy>& options, double& bits) {
  KVCache<Policy> cache(text.shape, options);
  text.append(cache, 0, 0, prompt);
  text.attend(cache, 0, 0, prompt);
  cache.end_prompt(0);
  double worst = 0.0;
  for (std::size_t t = prompt; t < text.tokens; ++t) {
    text.append(cache, 0, t, t + 1);
    worst = std::max(worst, text.error(text.attend(cache, 0, t, t + 1), 0, t));
  }
  bits = cache.bits_per_value();
  return worst;
}

int main() {
  RandomText text({.query_heads = 4, .kv_heads = 2, .head_dim = 64}, 600);
  for (std::size_t i = 0; i < text.keys.size(); i += 71) { text.keys[i] *= 12.0F; }  // 1.4 %, of any channel
  for (std::size_t i = 0; i < text.values.size(); i += 73) { text.values[i] *= 12.0F; }
  double bits = 0.0;
  double bits_dense = 0.0;
  const double dense = error_of<Kivi<3>>(text, 560, {.storage = {.residual = 32}}, bits_dense);
  const double sparse = error_of<KVQuantLike<3>>(text, 560, {.storage = {.outliers = 0.03}}, bits);
  std::printf("worst relative error %.4f in %.2f bits with outliers apart, %.4f in %.2f bits without\n", sparse, bits, dense, bits_dense);

  KVCache<KVQuantLike<3>> cache(text.shape);
  text.append(cache, 0, 0, 560);
  text.attend(cache, 0, 0, 560);
  cache.end_prompt(0);
  float key[64];
  float value[64];
  bool exact = true;  // the largest of a row, as half holds it
  for (std::size_t row = 0; row < 512; ++row) {
    cache.read(0, 0, row, key, value);
    const float* was = text.key(0, row, 0);
    const auto largest = std::max_element(was, was + 64, [](float a, float b) { return std::abs(a) < std::abs(b); }) - was;
    exact = exact && std::abs(key[largest] - was[largest]) <= std::abs(was[largest]) * 1e-3F;
  }
  std::printf("the largest number of every row is %s\n", exact ? "exact" : "not exact");
  return exact && sparse < 0.6 * dense ? 0 : 1;
}
