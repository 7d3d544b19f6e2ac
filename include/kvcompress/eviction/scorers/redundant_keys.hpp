// include/kvcompress/eviction/scorers/redundant_keys.hpp - R-KV's score: what the newest queries look at, less what other keys say already.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/scorers/prompt_queries.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What RedundantKeys remembers: of every row the attention of the last `window` queries, in turn.
class NewestAttention : public RowScores {
 public:
  NewestAttention(std::size_t window, const Memory& memory) : RowScores(window, memory) {}

  /// A query begins: its place was that of the oldest.
  void next_query() noexcept {
    at_ = seen_ == 0 ? 0 : (at_ + 1) % columns();
    seen_ = std::min(seen_ + 1, columns());
    for (std::size_t r = 0; r < rows(); ++r) { set(r, at_, 0.0F); }
  }
  void add(std::span<const float> probabilities) noexcept { RowScores::add(at_, probabilities); }
  void forget() noexcept {
    RowScores::forget();
    at_ = seen_ = 0;
  }
  [[nodiscard]] std::size_t seen() const noexcept { return seen_; }
  static void persist(auto& self, auto& archive, std::size_t count) {
    RowScores::persist(self, archive, count);
    archive.number(self.at_);
    archive.number(self.seen_);
    archive.check(self.at_ < self.columns() && self.seen_ <= self.columns(), "the newest queries are not those of its window");
  }

 private:
  std::size_t at_ = 0;    // column of the newest query
  std::size_t seen_ = 0;  // columns that a query has
};

/// attention_share times the attention that the last `window` queries give a row, less (1 - attention_share) times its redundancy. The window itself
/// stays. Attention: without what the window's own rows got, the mean over the queries, the largest of `kernel` neighbours. Redundancy: the
/// mean of the cosines of all keys of the lane with its key, but that each key leaves out itself and the newest one that is nearer to it than
/// `threshold`; a softmax over the rows.
///
/// Observes: the last queries of a prompt and every later one. Acts at every commit that finds `period` rows more than the budget: let that be many
/// (there 128), since a decision compares all keys of the lane with each other. Bytes: 4 * window per row and lane (8 while a first prompt is open);
/// at a decision 4 * key width + 16 per row of scratch, and rows^2 * key width products. Drafts can be taken back, up to `speculation`. Loses: what
/// neither the newest queries look at nor is unlike the rest, for good.
///
/// Source: "R-KV: Redundancy-aware KV Cache Compression for Reasoning Models"; Zefan-Cai/R-KV@d15c9767e67c:rkv/compression/r1_kv.py. Deviations: with
/// several query heads per KV head their attention is averaged, there each row has the largest of their logits; a key without any that is near leaves
/// out itself alone, there also the oldest row.
struct RedundantKeys : ScoredRows {
  static constexpr std::string_view name = "redundant_keys";
  static constexpr Needs may{.observes = Observes::last_queries};
  struct Options {
    std::size_t window = 8;         ///< observing queries, 1 to 4096
    std::size_t kernel = 7;         ///< pooling width, odd, at most 65535; 1 means none
    double attention_share = 0.07;  ///< 0 to 1
    double threshold = 0.5;         ///< cosine of keys that are near, -1 to 1
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
      field("attention_share", options.attention_share);
      field("threshold", options.threshold);
    }
  };
  using State = NewestAttention;

  static void validate(const Options& options, const Shape&) {
    check_bounds("redundant_keys: window", options.window, 1, 4096);
    WindowAttention::validate(WindowAttention::Options{options.window, options.kernel}, name);
    require(options.attention_share >= 0.0 && options.attention_share <= 1.0, ErrorCode::option, "redundant_keys: attention_share is ",
            options.attention_share, ", must be 0 to 1");
    require(options.threshold >= -1.0 && options.threshold <= 1.0, ErrorCode::option, "redundant_keys: threshold is ", options.threshold,
            ", must be -1 to 1");
  }
  static std::size_t row_bytes(const Options& options, const Shape&) noexcept { return RowScores::row_bytes(options.window); }
  static State state(const Options& options, const Site&, const Memory& memory) { return State(options.window, memory); }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static std::size_t recent(const Options& options, std::size_t /*budget*/) noexcept { return options.window; }
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    if (head == 0) { state.next_query(); }
    state.add(probabilities);
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Vector<Position> order = rows_in_text_order(rows, moment);
    const std::size_t before = order.size() - std::min(order.size(), options.window);
    std::fill(out.begin(), out.end(), 0.0F);
    const Vector<double> looks = attention(options, lane, {order.data(), before}, moment);
    const Vector<double> known = redundancy(options.threshold, lane, {order.data(), order.size()}, moment);
    for (std::size_t i = 0; i < before; ++i) {
      out[order[i]] = static_cast<float>(options.attention_share * looks[i] - (1.0 - options.attention_share) * known[i]);
    }
    return out;
  }

  /// Of the rows `order`, those before the window.
  static Vector<double> attention(const Options& options, const LaneView& lane, std::span<const Position> order, const Moment& moment) {
    const State& state = lane.state<State>();
    Vector<double> means = numbers_of<double>(moment, order.size());
    for (std::size_t q = 0; q < state.seen(); ++q) {
      double sum = 0.0;
      for (const Position row : order) { sum += static_cast<double>(state.get(row, q)); }
      const double share = 1.0 / (std::max(sum, 1e-30) * static_cast<double>(state.seen()));
      for (std::size_t i = 0; i < order.size(); ++i) { means[i] += share * static_cast<double>(state.get(order[i], q)); }
    }
    Vector<double> pooled(means);
    const std::size_t reach = options.kernel / 2;
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t j = i - std::min(i, reach); j < std::min(i + reach + 1, order.size()); ++j) {
        pooled[i] = std::max(pooled[i], means[j]);
      }
    }
    return pooled;
  }
  /// Of the rows `order`, in text order.
  static Vector<double> redundancy(double threshold, const LaneView& lane, std::span<const Position> order, const Moment& moment) {
    const std::size_t width = lane.site.shape.key_width();
    const std::size_t count = order.size();
    Vector<float> keys = numbers_of<float>(moment, count * width);  // of length 1
    for (std::size_t i = 0; i < count; ++i) {
      float* const key = keys.data() + i * width;
      lane.keys({order[i], order[i] + std::size_t{1}}, key);
      double square = 0.0;
      for (std::size_t c = 0; c < width; ++c) { square += static_cast<double>(key[c]) * static_cast<double>(key[c]); }
      const double scale = 1.0 / (math::sqrt(square) + 1e-8);
      for (std::size_t c = 0; c < width; ++c) { key[c] = static_cast<float>(scale * static_cast<double>(key[c])); }
    }
    Vector<double> sums = numbers_of<double>(moment, count);
    for (std::size_t i = 0; i < count; ++i) {
      std::size_t newest = count;
      double left_out = 0.0;
      for (std::size_t j = 0; j < count; ++j) {
        if (i == j) { continue; }
        const auto cosine = static_cast<double>(detail::dot_of(keys.data() + i * width, keys.data() + j * width, width));
        sums[j] += cosine;
        if (cosine > threshold) {
          newest = j;
          left_out = cosine;
        }
      }
      if (newest < count) { sums[newest] -= left_out; }
    }
    double total = 0.0;
    double largest = -1e300;
    for (double& sum : sums) {
      sum /= static_cast<double>(count);
      largest = std::max(largest, sum);
    }
    for (double& sum : sums) {
      sum = math::exp(sum - largest);
      total += sum;
    }
    for (double& sum : sums) { sum /= total; }
    return sums;
  }
};

}  // namespace kvcompress
