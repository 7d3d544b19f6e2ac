// include/kvcompress/retrieval/page_bounds.hpp - Quest's index: per page the smallest and largest key channels, an upper bound of q . k.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/attention/rope.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/softmax.hpp"
#include "kvcompress/retrieval/best.hpp"
#include "kvcompress/retrieval/reuse.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The largest T at most x (down) or the smallest at least x (up), so that rounding never breaks a bound.
template <class T>
T rounded(float x, bool up) noexcept {
  const T near(x);
  const auto value = static_cast<float>(near);
  if (up ? value >= x : value <= x) { return near; }
  const float apart = math::abs(value - x);
  for (float push = apart;; push *= 2.0F) {  // one or two steps
    const T next(up ? x + push : x - push);
    if (up ? static_cast<float>(next) >= x : static_cast<float>(next) <= x) { return next; }
  }
}

/// Bounds of the keys of every page of `page` rows: (pages, 2, key width) in T, minima first. A page whose rows changed is stale until
/// the next refresh. Bytes: 2 * key width * sizeof(T) per page.
template <class T>
class PageState {
 public:
  PageState(std::size_t page, std::size_t width, const Memory& memory)
      : page_(page), width_(width), bounds_(Allocator<T>(memory)), stale_(Allocator<unsigned char>(memory)) {}

  [[nodiscard]] std::size_t page() const noexcept { return page_; }
  [[nodiscard]] std::size_t pages() const noexcept { return stale_.size(); }
  [[nodiscard]] std::size_t indexed() const noexcept { return pages() * page_; }
  [[nodiscard]] Reads reads() const noexcept { return {indexed(), page_, {}, {}}; }
  static void remember_first(const Vector<RowRange>&) noexcept {}
  [[nodiscard]] const T* minima(std::size_t page) const noexcept { return bounds_.data() + 2 * page * width_; }
  [[nodiscard]] const T* maxima(std::size_t page) const noexcept { return minima(page) + width_; }

  void reserve(std::size_t rows) {
    bounds_.reserve(rows / page_ * 2 * width_);
    stale_.reserve(rows / page_);
  }
  void resize(std::size_t rows) noexcept {
    if (rows < indexed()) { cut(rows / page_); }
  }
  void move(std::size_t /*from*/, std::size_t to) noexcept {
    if (to >= indexed()) { return; }
    stale_[to / page_] = 1;
    first_stale_ = std::min(first_stale_, to / page_);
  }
  /// Rows [first, first + count) have left and later ones moved up.
  void erase(std::size_t first, std::size_t count) noexcept {
    if (first >= indexed()) { return; }
    if (first % page_ != 0 || count % page_ != 0) {
      cut(first / page_);  // what follows is indexed anew
      return;
    }
    const std::size_t gone = std::min(count / page_, pages() - first / page_);
    const auto at = [](auto& vector, std::size_t index) { return vector.begin() + static_cast<std::ptrdiff_t>(index); };
    bounds_.erase(at(bounds_, first / page_ * 2 * width_), at(bounds_, (first / page_ + gone) * 2 * width_));
    stale_.erase(at(stale_, first / page_), at(stale_, first / page_ + gone));
    first_stale_ = std::min(first_stale_, first / page_);
  }
  static void compact(std::size_t) noexcept {}

  /// Afterwards refresh of up to so many rows cannot fail.
  void make_room_to_refresh(std::size_t rows, Vector<float>& scratch) {
    const std::size_t complete = rows / page_;
    reserve_growing(bounds_, complete * 2 * width_);
    reserve_growing(stale_, complete);
    scratch.resize(std::max(scratch.size(), 3 * width_));
  }
  /// Computes the bounds of pages that are new and complete, or stale. Dead rows count with the key they had.
  void refresh(std::size_t rows, auto&& read, Vector<float>& scratch) {
    const std::size_t complete = rows / page_;
    make_room_to_refresh(rows, scratch);
    for (std::size_t p = std::min(first_stale_, pages()); p < complete; ++p) {
      if (p < pages() && stale_[p] == 0) { continue; }
      if (p == pages()) {
        bounds_.resize(bounds_.size() + 2 * width_);
        stale_.push_back(1);
      }
      measure(p, read, scratch.data());
      stale_[p] = 0;
    }
    first_stale_ = pages();
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.vector(self.bounds_);
    archive.vector(self.stale_);
    archive.check(self.bounds_.size() == self.pages() * 2 * self.width_ && self.indexed() <= rows, "the pages are not those of its rows");
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::indices, bounds_);
    report.add(&MemoryReport::indices, stale_);
  }

 private:
  void cut(std::size_t pages) noexcept {
    bounds_.resize(pages * 2 * width_);
    stale_.resize(pages);
  }
  void measure(std::size_t page, auto&& read, float* scratch) {
    float* row = scratch;
    float* low = row + width_;
    float* high = low + width_;
    for (std::size_t r = page * page_; r < (page + 1) * page_; ++r) {
      read(r, row);
      for (std::size_t c = 0; c < width_; ++c) {
        low[c] = r == page * page_ ? row[c] : std::min(low[c], row[c]);
        high[c] = r == page * page_ ? row[c] : std::max(high[c], row[c]);
      }
    }
    T* to = bounds_.data() + 2 * page * width_;
    for (std::size_t c = 0; c < width_; ++c) {
      to[c] = rounded<T>(std::clamp(low[c], -largest<T>, largest<T>), false);  // an infinite bound times 0 would be no number
      to[width_ + c] = rounded<T>(std::clamp(high[c], -largest<T>, largest<T>), true);
    }
  }

  std::size_t page_;
  std::size_t width_;
  Vector<T> bounds_;
  Vector<unsigned char> stale_;  // (pages)
  std::size_t first_stale_ = 0;  // no page before it is stale
};

/// A query reads the `budget / page` pages whose keys could have the largest dot product with it: sum over channels of
/// max(q_c * minimum_c, q_c * maximum_c), the largest bound among the query heads of a KV head. The newest rows, from the last
/// complete page on, are always read and count as one page. Pages of which the query sees no row are no candidates, and where all that it
/// sees is no more than `budget` rows, all of it is read. The first `dense_layers` layers are read in full, and so are prompts.
///
/// Source: "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference"; mit-han-lab/Quest@01c1623bf939, by the rule of its kernels:
/// the newest page and the budget - 1 best of the others (its evaluation code forces no page and takes at least 3). Beyond it: grouped
/// queries (its kernels have one query head per KV head), and choices that serve `reuse` tokens, as in LServe (see reuse). Ties go to the older page.
/// Cost: 2 / page of the bytes of the keys in f16, per token; refreshing: a page's keys once. Tried without gain: asking for the keys of the next
/// page, or for all of a batch, while one is read (for the values of a page while its keys are met: a tenth faster at 128k rows).
/// Loses: rows of pages that are not chosen, for this query only.
template <class T>
struct PageBounds {
  static constexpr std::string_view name = "page_bounds";
  static constexpr float largest_key = largest<T>;  ///< a bound has it
  static constexpr bool follows_writes = true;
  using State = PageState<T>;

  struct Options {
    std::size_t budget = 2048;     ///< rows that a query reads, at least 2 pages
    std::size_t page = 16;         ///< rows of a page, a multiple of 8
    std::size_t dense_layers = 2;  ///< first layers that are read in full
    std::size_t reuse = 1;         ///< tokens that one choice of pages serves, at least 1
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("page", options.page);
      field("dense_layers", options.dense_layers);
      field("reuse", options.reuse);
    }
  };

  static void validate(const Options& options, const Shape&) {
    require(options.page >= 8 && options.page % 8 == 0, ErrorCode::option, "quest: page is ", options.page, ", must be a multiple of 8");
    check_bounds("quest: page", options.page);
    check_bounds("quest: budget", options.budget);
    check_bounds("quest: reuse", options.reuse, 1);
    require(options.budget >= 2 * options.page, ErrorCode::option, "quest: budget is ", options.budget,
            ", must be at least 2 * page = ", 2 * options.page);
  }
  static bool reads_all(const Options& options, const Site& site) noexcept { return site.layer < options.dense_layers; }
  static constexpr bool wants_last_query(const Options&, const Site&) noexcept { return false; }
  static constexpr bool renumbers(const Options&, const Site&) noexcept { return true; }
  static void describe(auto&& fact) { fact("numbers", number_name<T>); }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    return State(options.page, site.shape.key_width(), memory);
  }
  static std::size_t bytes_for(const Options& options, const Site& site, std::size_t rows) noexcept {
    return rows / options.page * (2 * site.shape.key_width() * sizeof(T) + 1);
  }
  static void make_room_to_refresh(const Options&, State& state, std::size_t rows, Vector<float>& scratch) {
    state.make_room_to_refresh(rows, scratch);
  }
  static void refresh(const Options&, State& state, const RowTable& table, bool /*end_of_prompt*/, std::size_t padding, auto&& read,
                      Vector<float>& scratch) {
    const auto read_seen = [&](std::size_t row, float* out) {  // in a page that begins with padding its first other row stands for it
      read(row < padding && padding < (row / state.page() + 1) * state.page() ? padding : row, out);
    };
    state.refresh(table.rows(), read_seen, scratch);
  }

  static void select(const Options& options, const State& state, const Retrieving& in, Vector<RowRange>& ranges) {
    const std::size_t pages = state.pages();
    const std::size_t wanted = options.budget / options.page - 1;
    const auto first_row = [&](Position p) { return p * state.page(); };
    detail::visible_units(in.table, in.visible, pages, state.page(), first_row, in.order);
    if (in.order.size() > wanted && !fits(options.budget, state, in)) {
      const std::size_t first = in.order.front();
      in.scratch.resize(std::max(in.scratch.size(), pages + in.group * in.stride + scratch_floats(in)));
      float* scores = in.scratch.data();
      float* turned = scores + pages;
      float* scratch = turned + in.group * in.stride;
      if (!in.table.shifts()) {
        bounds(in, in.queries, state, first, in.order.back() + 1 - first, scores + first, scratch);
      } else {
        turned_bounds(in, state, scores, turned, scratch);
      }
      if (in.table.weighs()) { weigh(in, state.page(), scores); }
      detail::keep_best_units(in.order, wanted, scores);
    }
    detail::append_units({in.order.data(), in.order.size()}, state.page(), ranges);
  }

  static bool remembers(const Options& options) noexcept { return options.reuse > 1; }
  static bool select(const Options& options, const State& state, const Retrieving& in, const Memo& before, Memo& after,
                     Vector<RowRange>& ranges) {
    return kvcompress::reuse(options.reuse, state.indexed(), in, before, after, ranges, [&] { select(options, state, in, ranges); });
  }

  /// scores[i]: the largest bound of page first + i among the queries of a group. max(x * low, x * high) = min(x, 0) * low + max(x, 0) * high, so
  /// that bounds are dot products with rows of twice the width. `scratch` has scratch_floats(in) numbers.
  static void bounds(const Retrieving& in, const float* queries, const State& state, std::size_t first, std::size_t count, float* scores,
                     float* scratch) noexcept {
    const std::size_t width = in.key_width;
    const std::size_t stride = kernels::padded(2 * width);
    float* halves = scratch;
    float* found = halves + in.group * stride;
    std::fill_n(halves, in.group * stride, 0.0F);
    for (std::size_t q = 0; q < in.group; ++q) {
      for (std::size_t c = 0; c < width; ++c) {
        const float x = queries[q * in.stride + c];
        halves[q * stride + c] = std::min(x, 0.0F);
        halves[q * stride + width + c] = std::max(x, 0.0F);
      }
    }
    for (std::size_t i = 0; i < count; i += at_once) {
      const std::size_t now = std::min(at_once, count - i);
      const T* ahead = i + 2 * at_once <= count ? state.minima(first + i + at_once) : nullptr;
      kernels::dot_rows(state.minima(first + i), now, 2 * width, halves, stride, in.group, found, at_once, ahead);
      for (std::size_t p = 0; p < now; ++p) {
        float largest = found[p];
        for (std::size_t q = 1; q < in.group; ++q) { largest = std::max(largest, found[q * at_once + p]); }
        scores[i + p] = largest;
      }
    }
  }
  static std::size_t scratch_floats(const Retrieving& in) noexcept { return in.group * (kernels::padded(2 * in.key_width) + at_once); }

 private:
  static constexpr std::size_t at_once = 64;  // pages

  /// Bounds of logits become bounds of what the softmax sees: the heaviest row of a page may have any of its logits.
  static void weigh(const Retrieving& in, std::size_t page, float* scores) noexcept {
    for (const Position p : in.order) {
      if (in.soft_cap > 0.0F) { kernels::soft_cap(scores + p, 1, in.soft_cap); }
      scores[p] += in.table.largest_log_weight(p * page, (p + 1) * page);
    }
  }
  /// Whether all that the queries see, of the pages in in.order and behind them, is no more than the budget.
  static bool fits(std::size_t budget, const State& state, const Retrieving& in) {
    std::size_t newer = in.table.rows();
    while (newer > state.indexed() && in.table.position(newer - 1) > in.visible.at) { --newer; }
    if (in.visible.all()) { return in.table.live() - (in.table.rows() - newer) <= budget; }
    const std::size_t behind = in.visible.count(in.table, state.indexed(), newer);
    return behind <= budget &&
           detail::see_at_most(budget - behind, in.order, in.table, in.visible, state.page(), [&](Position p) { return p * state.page(); });
  }
  /// The same where in-cache positions move the rows of a page apart: a page has a bound for every distance.
  static void turned_bounds(const Retrieving& in, const State& state, float* scores, float* turned, float* scratch) noexcept {
    const float* queries = in.queries;
    std::int64_t at = in.shift;
    for (const Position p : in.order) {
      scores[p] = kernels::minus_infinity;
      for (std::size_t r = p * state.page(); r < (p + 1) * state.page(); ++r) {
        if (!in.table.alive(r)) { continue; }
        const std::int64_t shift = in.table.shift(r);
        if (shift == at && scores[p] != kernels::minus_infinity) { continue; }
        if (shift != at) { queries = turn(in, shift, turned); }
        at = shift;
        float bound = 0.0F;
        bounds(in, queries, state, p, 1, &bound, scratch);
        scores[p] = std::max(scores[p], bound);
      }
    }
  }
  static const float* turn(const Retrieving& in, std::int64_t shift, float* turned) noexcept {
    if (shift == in.shift) { return in.queries; }
    in.rotation.turn_by(shift - in.shift);
    std::copy_n(in.queries, in.group * in.stride, turned);
    for (std::size_t q = 0; q < in.group; ++q) { in.rotation.apply(turned + q * in.stride); }
    return turned;
  }
};

}  // namespace kvcompress
