// include/kvcompress/eviction/scorers/attention_moments.hpp - CAKE's score: mean and variance of the attention of the last queries.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What AttentionMoments remembers: of every row the sum of its attention and of its square for each query head, and the entropy of both.
class MomentSums : public RowScores {
 public:
  MomentSums(std::size_t group, const Memory& memory) : RowScores(2 * group + 1, memory), work_(Allocator<float>(memory)) {}

  void add(std::size_t head, std::span<const float> probabilities) noexcept {
    RowScores::add(2 * head, probabilities);
    const std::span<float> work(work_.data(), probabilities.size());
    for (std::size_t r = 0; r < work.size(); ++r) { work[r] = probabilities[r] * probabilities[r]; }
    RowScores::add(2 * head + 1, work);
    for (std::size_t r = 0; r < work.size(); ++r) { work[r] = -probabilities[r] * math::log(probabilities[r] + 1e-10F); }
    RowScores::add(columns() - 1, work);
  }
  void reserve(std::size_t rows) {
    RowScores::reserve(rows);
    if (work_.capacity() < rows) { work_.reserve(std::max(rows, 2 * work_.capacity())); }
  }
  void resize(std::size_t rows) {
    RowScores::resize(rows);
    work_.resize(rows);
  }
  void erase(std::size_t first, std::size_t count) noexcept {
    RowScores::erase(first, count);
    work_.resize(work_.size() - count);
  }
  void compact(std::size_t slack) {
    RowScores::compact(slack);
    RowTable::compact_vector(work_, slack);
  }
  void account(MemoryReport& report) const noexcept {
    RowScores::account(report);
    report.add(&MemoryReport::policy_state, work_);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    RowScores::persist(self, archive, rows);
    archive.number(self.queries);
    archive.number(self.in_prompt);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) { self.work_.resize(rows); }
  }

  std::size_t queries = 0;  // of one query head
  bool in_prompt = true;

 private:
  Vector<float> work_;
};

/// Mean + gamma * variance of the attention that the last `window` queries of a prompt give a row, averaged over `kernel` neighbours in text order, the
/// mean over the query heads of the KV head; after the prompt the attention of the newest query alone. The window itself stays. Of a lane it says
/// two facts, both without the window's own rows: the entropy of these attentions and the sum of their variances. Cost: the prompt's attention times
/// window/tokens and a logarithm of each, then column sums in attend; 8 * group + 8 bytes per row and lane.
///
/// Source: "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences"; antgroup/cakekv@c4675ce21b1d:cake/cake_cache.py.
/// Deviation: after the prompt that code averages over neighbours in the order in which it stores rows, by descending score.
struct AttentionMoments : ScoredRows {
  static constexpr std::string_view name = "attention_moments";
  static constexpr Needs may{.observes = Observes::last_queries};
  struct Options {
    std::size_t window = 32;  ///< observing queries, 2 or more
    std::size_t kernel = 5;   ///< pooling width, odd, at most 65535; 1 means none
    double gamma = 200.0;     ///< 0 to 1e6
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
      field("gamma", options.gamma);
    }
  };
  using State = MomentSums;

  static void validate(const Options& options, const Shape&) {
    WindowAttention::validate(WindowAttention::Options{options.window, options.kernel}, name);
    require(options.window >= 2, ErrorCode::option, "attention_moments: window is ", options.window, ", must be at least 2");
    require(options.gamma >= 0.0 && options.gamma <= 1e6, ErrorCode::option, "attention_moments: gamma is ", options.gamma,
            ", must be 0 to 1e6");
  }
  static std::size_t row_bytes(const Options&, const Shape& shape) noexcept { return RowScores::row_bytes(2 * shape.group() + 2); }
  static State state(const Options&, const Site& site, const Memory& memory) { return State(site.shape.group(), memory); }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static std::size_t recent(const Options& options, std::size_t /*budget*/) noexcept { return options.window; }
  static void start(const Options&, State& state) noexcept {
    state.forget();
    state.queries = 0;
    state.in_prompt = true;
  }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    if (head == 0 && !state.in_prompt) {
      state.forget();
      state.queries = 0;
    }
    state.queries += head == 0 ? 1U : 0U;
    state.add(head, probabilities);
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    State& state = lane.state<State>();
    const std::size_t group = lane.site.shape.group();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      double sum = 0.0;
      for (std::size_t h = 0; h < group; ++h) { sum += mean(state, r, h) + options.gamma * variance(state, r, h); }
      out[r] = static_cast<float>(sum / static_cast<double>(group));
    }
    state.in_prompt = state.in_prompt && !moment.end_of_prompt;
    return out;
  }
  static void join(const Options& options, RowSet& set, std::span<float> scores, const Moment& moment) {
    WindowAttention::join({options.window, options.kernel, Pooling::average}, set, scores, moment);
  }
  static LaneFacts facts(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment) {
    const State& state = lane.state<State>();
    LaneFacts facts{};
    const Vector<Position> order = rows_in_text_order(rows, moment);
    for (std::size_t i = 0; i + options.window < order.size(); ++i) {
      facts[0] += static_cast<double>(state.get(order[i], state.columns() - 1));
      for (std::size_t h = 0; h < lane.site.shape.group(); ++h) { facts[1] += variance(state, order[i], h); }
    }
    return facts;
  }

 private:
  static double mean(const State& state, std::size_t row, std::size_t head) noexcept {
    return static_cast<double>(state.get(row, 2 * head)) / static_cast<double>(std::max<std::size_t>(1, state.queries));
  }
  /// Unbiased.
  static double variance(const State& state, std::size_t row, std::size_t head) noexcept {
    if (state.queries < 2) { return 0.0; }
    const auto sum = static_cast<double>(state.get(row, 2 * head));
    const auto count = static_cast<double>(state.queries);
    return std::max(0.0, (static_cast<double>(state.get(row, 2 * head + 1)) - sum * sum / count) / (count - 1.0));
  }
};

}  // namespace kvcompress
