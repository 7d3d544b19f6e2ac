// include/kvcompress/retrieval/landmarks.hpp - ShadowKV's index: chunk means as landmarks, ill-represented chunks always read.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "kvcompress/concepts.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/pairs.hpp"
#include "kvcompress/kernels/softmax.hpp"
#include "kvcompress/retrieval/best.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The two classes of the official code: `accuracy` (ShadowKVCache), and `offload` (ShadowKVCache_CPU), which rounds the number of context
/// chunks down to a multiple of 8, takes 24 outlier chunks per 1024 rows of the budget, and starts from what the prompt's last query chose.
enum class ShadowKVClass { accuracy, offload };
/// What its values are called, in their order, in names of policies and in saved caches.
constexpr auto names_of(ShadowKVClass) noexcept { return std::array{"accuracy", "offload"}; }

/// Landmarks of one lane: (chunks, key width) means in T; outlier chunks have none. Chunks are `chunk` consecutive rows from row 0. Landmarks in
/// bfloat16 meet queries in bfloat16, as in the official code.
/// Bytes: key width * sizeof(T) + 4 per chunk.
template <class T>
class LandmarkState {
 public:
  LandmarkState(std::size_t chunk, std::size_t width, const Memory& memory)
      : chunk_(chunk), width_(width), means_(Allocator<T>(memory)), ids_(Allocator<Position>(memory)),
        outliers_(Allocator<RowRange>(memory)), first_(Allocator<RowRange>(memory)) {}

  [[nodiscard]] std::size_t chunk() const noexcept { return chunk_; }
  [[nodiscard]] std::size_t indexed() const noexcept { return chunks_ * chunk_; }
  /// Chunks that have a landmark, ascending, and their landmarks.
  [[nodiscard]] const Vector<Position>& ids() const noexcept { return ids_; }
  [[nodiscard]] const T* landmark(std::size_t index) const noexcept { return means_.data() + index * width_; }
  /// The rows of the outlier chunks, chunk by chunk, ascending.
  [[nodiscard]] const Vector<RowRange>& outliers() const noexcept { return outliers_; }
  [[nodiscard]] Reads reads() const noexcept {
    return {indexed(), chunk_, {outliers_.data(), outliers_.size()}, {first_.data(), first_.size()}};
  }
  void remember_first(const Vector<RowRange>& ranges) { first_.assign(ranges.begin(), ranges.end()); }

  static void reserve(std::size_t) noexcept {}
  /// Another row has come into an indexed chunk: it and later ones are read in full from now on.
  void move(std::size_t /*from*/, std::size_t to) noexcept { resize(to); }
  void resize(std::size_t rows) noexcept {
    if (rows < indexed()) { cut(rows / chunk_); }
  }
  void erase(std::size_t first, std::size_t count) noexcept {
    if (first >= indexed()) { return; }
    if (first % chunk_ != 0 || count % chunk_ != 0) { return cut(first / chunk_); }
    const std::size_t gone = std::min(count / chunk_, chunks_ - first / chunk_);
    remove(first / chunk_, gone);
    for (Position& id : ids_) { id -= id >= first / chunk_ ? static_cast<Position>(gone) : 0; }
    for (RowRange& range : outliers_) {
      if (range.first >= first) { range = {range.first - gone * chunk_, range.last - gone * chunk_}; }
    }
    chunks_ -= gone;
  }
  static void compact(std::size_t) noexcept {}

  /// Indexes chunks up to `chunks`. The `outliers` new chunks whose rows are least like their mean (smallest minimum of their cosines, ties to
  /// the older chunk) get no landmark. The first `padding` rows count in no mean, and none of them makes an outlier.
  void grow(std::size_t chunks, std::size_t outliers, std::size_t padding, auto&& read, Vector<float>& scratch) {
    if (chunks <= chunks_) { return; }
    const std::size_t fresh = chunks - chunks_;
    Vector<RowRange> always(outliers_);  // what can fail comes first
    always.reserve(always.size() + std::min(outliers, fresh));
    reserve_growing(means_, means_.size() + fresh * width_);
    reserve_growing(ids_, ids_.size() + fresh);
    Vector<Position> order(fresh, 0, ids_.get_allocator());
    scratch.resize(std::max(scratch.size(), fresh + (chunk_ + 1) * width_));
    float* unlikeness = scratch.data();
    float* rows = unlikeness + fresh;
    for (std::size_t c = 0; c < fresh; ++c) {
      order[c] = static_cast<Position>(c);
      unlikeness[c] = -describe(chunks_ + c, padding, read, rows);
    }
    order.erase(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(std::min(fresh, hidden(chunks_, padding))));
    detail::keep_best_units(order, std::min(outliers, fresh), unlikeness);
    std::size_t next = 0;
    for (std::size_t c = 0; c < fresh; ++c) {
      if (next < order.size() && order[next] == c) {
        always.push_back({(chunks_ + c) * chunk_, (chunks_ + c + 1) * chunk_});
        ++next;
        continue;
      }
      describe(chunks_ + c, padding, read, rows);
      ids_.push_back(static_cast<Position>(chunks_ + c));
      for (std::size_t i = 0; i < width_; ++i) { means_.push_back(T(rows[chunk_ * width_ + i])); }
    }
    outliers_.swap(always);
    chunks_ = chunks;
  }
  /// Without what the prompt's last query chose, which nobody asks for after the prompt.
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.number(self.chunks_);
    archive.check(self.chunks_ <= rows / self.chunk_, "there are landmarks of more rows than there are");
    archive.vector(self.ids_);
    archive.vector(self.means_);
    archive.vector(self.outliers_);
    archive.check(self.means_.size() == self.ids_.size() * self.width_ && self.complete(), "its chunks are not its landmarks and outliers");
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::indices, means_);
    report.add(&MemoryReport::indices, ids_);
    report.add(&MemoryReport::indices, outliers_);
    report.add(&MemoryReport::indices, first_);
  }

 private:
  /// Chunks from `chunk` on that lie wholly in the first `padding` rows.
  [[nodiscard]] std::size_t hidden(std::size_t chunk, std::size_t padding) const noexcept {
    return padding / chunk_ - std::min(padding / chunk_, chunk);
  }
  /// Rows of a chunk to `rows`, their mean behind them; returns the smallest cosine between the mean and a row. In a chunk that begins with
  /// padding, only the others count.
  float describe(std::size_t chunk, std::size_t padding, auto&& read, float* rows) const {
    float* mean = rows + chunk_ * width_;
    const std::size_t first = padding / chunk_ == chunk ? padding % chunk_ : 0;
    for (std::size_t r = first; r < chunk_; ++r) { read(chunk * chunk_ + r, rows + r * width_); }
    double mean_length = 0.0;
    for (std::size_t c = 0; c < width_; ++c) {
      double sum = 0.0;
      for (std::size_t r = first; r < chunk_; ++r) { sum += static_cast<double>(rows[r * width_ + c]); }
      mean[c] = static_cast<float>(sum / static_cast<double>(chunk_ - first));
      mean_length += static_cast<double>(mean[c]) * static_cast<double>(mean[c]);
    }
    double smallest = 2.0;
    for (std::size_t r = first; r < chunk_; ++r) {
      double dot = 0.0;
      double length = 0.0;
      for (std::size_t c = 0; c < width_; ++c) {
        const auto x = static_cast<double>(rows[r * width_ + c]);
        dot += x * static_cast<double>(mean[c]);
        length += x * x;
      }
      smallest = std::min(smallest, dot / std::max(math::sqrt(length * mean_length), 1e-8));
    }
    return static_cast<float>(smallest);
  }
  /// Whether every chunk has a landmark or is an outlier.
  [[nodiscard]] bool complete() const noexcept {
    std::size_t id = 0;
    std::size_t outlier = 0;
    for (std::size_t c = 0; c < chunks_; ++c) {
      if (id < ids_.size() && ids_[id] == c) {
        ++id;
      } else if (outlier < outliers_.size() && outliers_[outlier].first == c * chunk_ && outliers_[outlier].size() == chunk_) {
        ++outlier;
      } else {
        return false;
      }
    }
    return id == ids_.size() && outlier == outliers_.size();
  }
  void cut(std::size_t chunks) noexcept {
    remove(chunks, chunks_ - chunks);
    chunks_ = chunks;
  }
  /// Forgets landmarks and outliers of the chunks [first, first + count).
  void remove(std::size_t first, std::size_t count) noexcept {
    const auto at = [](auto& vector, std::size_t index) { return vector.begin() + static_cast<std::ptrdiff_t>(index); };
    const auto begin = static_cast<std::size_t>(std::lower_bound(ids_.begin(), ids_.end(), first) - ids_.begin());
    const auto end = static_cast<std::size_t>(std::lower_bound(ids_.begin(), ids_.end(), first + count) - ids_.begin());
    ids_.erase(at(ids_, begin), at(ids_, end));
    means_.erase(at(means_, begin * width_), at(means_, end * width_));
    std::erase_if(outliers_, [&](RowRange range) { return range.first >= first * chunk_ && range.last <= (first + count) * chunk_; });
    first_.clear();
  }

  std::size_t chunk_;
  std::size_t width_;
  std::size_t chunks_ = 0;
  Vector<T> means_;            // (landmarks, key width), keys as they are stored: rotated
  Vector<Position> ids_;       // (landmarks) their chunks
  Vector<RowRange> outliers_;  // always read
  Vector<RowRange> first_;     // what the prompt's last query chose
};

/// Chunks of `chunk` rows of the prompt, each represented by the mean of its keys. A query reads the `budget / chunk` chunks whose landmark
/// gets the largest softmax probability among the landmarks of chunks of which it sees a row (the largest over the query heads of the KV
/// head; ties to the older chunk), or all of these where it sees no more than `budget` of their rows; besides, as far as it sees them, the
/// `outlier_chunks` whose keys are least like their mean, the last `local_chunks` of the prompt with what follows them, and every row
/// decoded later.
///
/// Source: "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference"; ByteDance-Seed/ShadowKV@e51904cdeab7:
/// models/kv_cache.py. Deviations: probabilities are compared as logarithms in fp32 (the code rounds them to the model's dtype); the logits have
/// the attention's own scale and soft cap (the code: 1/sqrt(128), none); a prompt too short for the budget is read in full.
/// Cost: a dot product per landmark and query head; 1 / chunk of the bytes of the keys. Loses: what chunk means do not show, for this query.
/// A later end_prompt indexes nothing new, unless `fold_in` is set.
template <class T>
struct LandmarkIndex {
  static constexpr std::string_view name = "landmarks";
  static constexpr float largest_key = largest<T>;  ///< a mean of keys has it
  using State = LandmarkState<T>;

  struct Options {
    std::size_t budget = 2048;        ///< rows that a query chooses, in whole chunks
    std::size_t chunk = 8;            ///< rows of a chunk, a divisor of 128
    std::size_t local_chunks = 4;     ///< last chunks of the prompt, always read
    std::size_t outlier_chunks = 48;  ///< always read; the offload class takes 24 per 1024 rows of the budget
    std::size_t fold_in = 0;          ///< index decoded rows when this many are there, a multiple of chunk; 0 leaves them always read
    ShadowKVClass behaviour = ShadowKVClass::accuracy;
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("chunk", options.chunk);
      field("local_chunks", options.local_chunks);
      field("outlier_chunks", options.outlier_chunks);
      field("fold_in", options.fold_in);
      field("behaviour", options.behaviour);
    }
  };

  static void validate(const Options& options, const Shape&) {
    require(options.chunk > 0 && 128 % options.chunk == 0, ErrorCode::option, "landmarks: chunk is ", options.chunk, ", must divide 128");
    require(options.budget >= options.chunk, ErrorCode::option, "landmarks: budget is ", options.budget,
            ", must be at least chunk = ", options.chunk);
    check_bounds("landmarks: budget", options.budget);
    check_bounds("landmarks: local_chunks", options.local_chunks);
    check_bounds("landmarks: outlier_chunks", options.outlier_chunks);
    check_bounds("landmarks: fold_in", options.fold_in);
    check_named("landmarks: behaviour", options.behaviour);
    require(options.fold_in % options.chunk == 0, ErrorCode::option, "landmarks: fold_in is ", options.fold_in,
            ", must be a multiple of chunk = ", options.chunk);
  }
  static constexpr bool reads_all(const Options&, const Site&) noexcept { return false; }
  static bool wants_last_query(const Options& options, const Site&) noexcept { return options.behaviour == ShadowKVClass::offload; }
  static constexpr bool renumbers(const Options&, const Site&) noexcept { return false; }
  static void describe(auto&& fact) { fact("numbers", number_name<T>); }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    return State(options.chunk, site.shape.key_width(), memory);
  }
  static std::size_t bytes_for(const Options& options, const Site& site, std::size_t rows) noexcept {
    return rows / options.chunk * (site.shape.key_width() * sizeof(T) + sizeof(Position));
  }

  /// Rows of a prompt that a query reads: chosen, outlier and local ones.
  static std::size_t rows_read(const Options& options, const Site&, std::size_t rows) noexcept {
    return std::min(rows, options.budget + outlier_chunks(options) * options.chunk + rows - context_chunks(options, rows) * options.chunk);
  }
  /// Chunks of a prompt of `rows` rows that are indexed.
  static std::size_t context_chunks(const Options& options, std::size_t rows) noexcept {
    const std::size_t chunks = rows / options.chunk - std::min(rows / options.chunk, options.local_chunks);
    return options.behaviour == ShadowKVClass::offload ? chunks / 8 * 8 : chunks;
  }
  static std::size_t outlier_chunks(const Options& options) noexcept {
    return options.behaviour == ShadowKVClass::offload ? 24 * (options.budget / 1024) : options.outlier_chunks;
  }

  /// Whether a commit that finds `rows` rows would index some.
  static bool grows_at(const Options& options, const State& state, std::size_t rows) noexcept {
    return options.fold_in > 0 && rows >= state.indexed() + options.local_chunks * options.chunk + options.fold_in;
  }
  static void refresh(const Options& options, State& state, const RowTable& table, bool end_of_prompt, std::size_t padding, auto&& read,
                      Vector<float>& scratch) {
    const std::size_t local = options.local_chunks * options.chunk;
    const bool first = end_of_prompt && state.indexed() == 0;
    const bool fold = !first && grows_at(options, state, table.rows());
    if (first) {
      state.grow(context_chunks(options, table.rows()), outlier_chunks(options), padding, read, scratch);
    } else if (fold) {
      state.grow((table.rows() - local) / options.chunk, 0, padding, read, scratch);
    }
  }

  static void select(const Options& options, const State& state, const Retrieving& in, Vector<RowRange>& ranges) {
    const auto& ids = state.ids();
    const std::size_t wanted = options.budget / options.chunk;
    const auto first_row = [&](Position i) { return ids[i] * options.chunk; };
    detail::visible_units(in.table, in.visible, ids.size(), options.chunk, first_row, in.order);
    if (in.order.size() > wanted && !detail::see_at_most(options.budget, in.order, in.table, in.visible, options.chunk, first_row)) {
      detail::keep_best_units(in.order, wanted, log_probabilities(state, in));
    }
    for (Position& unit : in.order) { unit = ids[unit]; }
    const std::size_t before = ranges.size();
    detail::append_units({in.order.data(), in.order.size()}, options.chunk, ranges);
    for (const RowRange outlier : state.outliers()) {
      if (in.visible.any(in.table, outlier.first, outlier.last)) { ranges.push_back(outlier); }
    }
    std::sort(ranges.begin() + static_cast<std::ptrdiff_t>(before), ranges.end(), [](RowRange a, RowRange b) { return a.first < b.first; });
  }

 private:
  /// (landmarks): the logarithm of the largest probability that a query head of the group gives each landmark of in.order, among these. Landmarks that lie interleaved, 16
  /// side by side, so that no sum crosses lanes, took 1.47 instead of 1.55 ms for 8 heads of 16384 (Zen 4, half, cold): not worth a layout of their own.
  /// In bfloat16, by pairs, a landmark takes 11.7 instead of 13.4 ns; left to the hardware's own prefetching 10.4 by themselves, but 10 % more in a
  /// step of ShadowKV.
  static const float* log_probabilities(const State& state, const Retrieving& in) {
    const std::size_t first = in.order.front();
    const std::size_t count = in.order.back() + 1 - first;
    in.scratch.resize(std::max(in.scratch.size(), first + (in.group + 1) * count + in.group * (1 + in.key_width)));
    float* largest = in.scratch.data();
    float* logits = largest + first + count;
    float* sums = logits + in.group * count;
    constexpr bool by_pairs = std::is_same_v<T, bfloat16>;
    auto* rounded = reinterpret_cast<bfloat16*>(sums + in.group);  // queries
    if constexpr (by_pairs) {
      for (std::size_t q = 0; q < in.group; ++q) { kernels::convert(in.queries + q * in.stride, rounded + q * in.key_width, in.key_width); }
    }
    constexpr std::size_t at_once = 64;
    for (std::size_t i = 0; i < count; i += at_once) {
      const std::size_t now = std::min(at_once, count - i);
      const T* ahead = i + 2 * at_once <= count ? state.landmark(first + i + at_once) : nullptr;
      if constexpr (by_pairs) {
        kernels::dot_pairs(state.landmark(first + i), now, in.key_width, rounded, in.key_width, in.group, logits + i, count, ahead);
      } else {
        kernels::dot_rows(state.landmark(first + i), now, in.key_width, in.queries, in.stride, in.group, logits + i, count, ahead);
      }
    }
    for (std::size_t q = 0; q < in.group; ++q) {
      float* of_query = logits + q * count;
      if (in.soft_cap > 0.0F) { kernels::soft_cap(of_query, count, in.soft_cap); }
      if (in.order.size() < count) { leave_out_others(in, first, count, of_query); }
      sums[q] = kernels::log_sum_exp(of_query, count);
    }
    kernels::largest_less_shift(logits, count, in.group, count, sums, largest + first);
    return largest;
  }
  /// The logits of landmarks that are not in in.order become -infinity.
  static void leave_out_others(const Retrieving& in, std::size_t first, std::size_t count, float* logits) noexcept {
    std::size_t at = 0;
    for (const Position unit : in.order) {
      std::fill(logits + at, logits + (unit - first), kernels::minus_infinity);
      at = unit - first + 1;
    }
    std::fill(logits + at, logits + count, kernels::minus_infinity);
  }
};

}  // namespace kvcompress
