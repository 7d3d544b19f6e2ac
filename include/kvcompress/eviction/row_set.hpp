// include/kvcompress/eviction/row_set.hpp - what an eviction decides over, and where it writes its decision.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "kvcompress/core/drop_worst.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_scan.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/site.hpp"
#include "kvcompress/core/tokens.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/eviction/writes.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

class Rotation;

/// A lane as an eviction sees it: where it stands, what it remembers, what its rows are. Of no policy in particular, so that parts need not
/// be compiled for each.
class LaneView {
 public:
  /// How the rows of a lane are decoded: functions of its policy.
  struct Reading {
    void (*keys)(const void* lane, RowRange rows, const RowTable& table, Rotation& rotation, std::size_t stride, float* out);
    void (*values)(const void* lane, RowRange rows, std::size_t stride, float* out);
    void (*turn)(Rotation& rotation, std::int64_t positions, float* row);
  };
  LaneView(const Site& of, void* state, const void* lane, const RowTable& table, Rotation& rotation, const Reading& reading) noexcept
      : site(of), state_(state), lane_(lane), table_(&table), rotation_(&rotation), reading_(&reading) {}

  Site site;

  /// What the eviction, whose State is S, remembers of the lane.
  template <class S>
  [[nodiscard]] S& state() const noexcept {
    return *static_cast<S*>(state_);
  }
  /// Decodes keys, rotated to their positions: `rows.size()` times the key width. Rows that died keep the key they had.
  void keys(RowRange rows, float* out) const { reading_->keys(lane_, rows, *table_, *rotation_, site.shape.key_width(), out); }
  /// Decodes values. Rows in a slow tier are fetched, which may fail.
  void values(RowRange rows, float* out) const { reading_->values(lane_, rows, site.shape.value_width(), out); }
  /// Turns a key or query by that many positions.
  void turn(std::int64_t positions, float* row) const noexcept { reading_->turn(*rotation_, positions, row); }
  /// The same lane with another memory, for an eviction that is made of parts with states of their own.
  [[nodiscard]] LaneView with_state(void* state) const noexcept { return {site, state, lane_, *table_, *rotation_, *reading_}; }

 private:
  void* state_;
  const void* lane_;
  const RowTable* table_;
  Rotation* rotation_;
  const Reading* reading_;
};

/// Rows that stay whatever they score: the `sinks` oldest and the `recent` newest, together at most the budget.
struct Protected {
  std::size_t sinks = 0;
  std::size_t recent = 0;
};

/// What becomes of a row, as RowSet::drop has it. A row only gets colder: one that is encoded already stays as it is.
enum class Fate : unsigned char { keep, drop, colder };

/// Lanes that keep the same rows: usually one. Padding is gone already (see KVCache::end_prompt).
struct RowSet {
  const RowTable& rows;             ///< positions, which rows are alive
  std::span<const LaneView> lanes;  ///< layer by layer, heads ascending; at least one
  std::size_t& budget;              ///< rows that an eviction with a budget keeps; what is set at the end of a prompt stays
  std::span<unsigned char> drop;    ///< one Fate per row, keep at entry; set to 1 to evict a live row
  Vector<Position>& order;          ///< scratch for sorting, any size
  Writes* writes = nullptr;         ///< what is written; null of an eviction that does not say that it rewrites rows
  std::size_t first_writable = 0;   ///< rows before this one are encoded, in a way that they cannot be written
  const Tokens* tokens = nullptr;   ///< what the caller has said of them; null: nothing
  std::span<const float> scores{};  ///< what the rows are worth, once an Evict has chosen; for a Disposer

  /// Row `row`, which must stay and be writable, gets another key, at the angle that the row's key is stored at, another value, or both; an empty
  /// one stays as it is. What LaneView::keys and values give is what was there before, until the commit is made.
  void write(const LaneView& lane, std::size_t row, std::span<const float> key, std::span<const float> value) const {
    writes->add(lane.site, row, key, value);
  }
  /// From now on it stands for e^log_weight rows, in all lanes of the set.
  void weigh(std::size_t row, float log_weight) const { writes->weigh(lanes.front().site, row, log_weight); }

  /// Position of the k-th oldest live row, k from 0. Cost: O(rows), fast while the oldest k + 1 positions are 0 to k.
  [[nodiscard]] Position oldest(std::size_t k) {
    const std::span<const Position> positions = rows.positions();
    const auto guess = static_cast<Position>(k);
    if (positions.empty() || detail::count_between(positions, 0, guess + 1) == k + 1) { return guess; }
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end());
    return *nth;
  }
  /// Position of the k-th newest live row, k from 0. Cost: O(rows), fast where the last row is the newest and the newest k + 1 positions have
  /// no gap, as in decoding.
  [[nodiscard]] Position newest(std::size_t k) {
    const std::span<const Position> positions = rows.positions();
    if (positions.empty()) { return static_cast<Position>(rows.rows() - 1 - k); }
    const Position last = positions.back();
    if (last != no_position && last >= k) {
      const Position guess = last - static_cast<Position>(k);
      if (detail::newest_without_gap(positions, guess, last + 1)) { return guess; }
    }
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end(), [](Position a, Position b) { return a > b; });
    return *nth;
  }
  /// Evicts down to `rows_to_keep` rows: the protected ones stay and, of the others, those with the largest score(row); ties go to the older
  /// row. Cost: O(rows).
  void keep_best(std::size_t rows_to_keep, const Protected& protected_rows, auto&& score) {
    if (rows.live() <= rows_to_keep) { return; }
    const Position first = protected_rows.sinks == 0 ? 0 : oldest(protected_rows.sinks);
    const Position end =
        protected_rows.recent == 0 ? no_position : newest(protected_rows.recent - 1);  // no_position, of dead rows, is the largest
    if (rows.live() == rows_to_keep + 1 && !rows.positions().empty()) {                // every step of decoding
      drop[worst_between(first, end, score)] = 1;
      return;
    }
    if constexpr (std::is_same_v<decltype(score(std::size_t{0})), float>) {
      return detail::drop_worst(rows, rows.live() - rows_to_keep, first, end, score, order, drop);
    }
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      const Position p = rows.position(r);
      if (p >= first && p < end) { order.push_back(static_cast<Position>(r)); }
    }
    const auto goes_before = [&](Position a, Position b) {
      const auto x = score(a);
      const auto y = score(b);
      return x != y ? x < y : rows.position(a) > rows.position(b);
    };
    const auto last_gone = order.begin() + static_cast<std::ptrdiff_t>(rows.live() - rows_to_keep - 1);
    std::nth_element(order.begin(), last_gone, order.end(), goes_before);
    for (auto row = order.begin(); row <= last_gone; ++row) { drop[*row] = 1; }
  }
  /// Live rows in ascending position, in `order`. Cost: a sort.
  void sort_rows() {
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { order.push_back(static_cast<Position>(r)); }
    }
    const auto older = [&](Position a, Position b) { return rows.position(a) < rows.position(b); };
    if (!std::is_sorted(order.begin(), order.end(), older)) { std::sort(order.begin(), order.end(), older); }
  }

 private:
  /// The row with the smallest score among those at positions [first, end); of equal ones the newest.
  [[nodiscard]] std::size_t worst_between(Position first, Position end, auto&& score) const {
    const std::span<const Position> positions = rows.positions();
    if constexpr (std::is_same_v<decltype(score(std::size_t{0})), float>) { return detail::worst_row(positions, first, end, score); }
    const std::size_t none = positions.size();
    std::size_t worst = none;
    auto least = score(std::size_t{0});
    for (std::size_t r = 0; r < positions.size(); ++r) {
      const auto own = score(r);
      if ((own > least && worst != none) || positions[r] >= end || positions[r] < first) { continue; }
      if (own == least && worst != none && positions[r] < positions[worst]) { continue; }
      least = own;
      worst = r;
    }
    return worst;
  }
  void gather() {
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { order.push_back(rows.position(r)); }
    }
  }
};

/// Buffers for decisions. They hold nothing between calls.
struct DecisionScratch {
  explicit DecisionScratch(const Memory& memory)
      : numbers(Allocator<float>(memory)), sums(Allocator<double>(memory)), rows(Allocator<float>(memory)),
        scores(Allocator<std::span<const float>>(memory)), budgets(Allocator<std::size_t>(memory)), sets(Allocator<RowSet>(memory)) {}
  /// For so many sets of `row_count` rows in all.
  void reserve(std::size_t set_count, std::size_t row_count) {
    numbers.reserve(row_count);
    scores.reserve(set_count);
    budgets.reserve(set_count);
    sets.reserve(set_count);
  }
  void shrink() noexcept {
    const auto give_back = [](auto& vector) {
      if (vector.capacity() > 64) { std::remove_reference_t<decltype(vector)>(vector.get_allocator()).swap(vector); }
    };
    give_back(numbers);
    give_back(sums);
    give_back(rows);
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, numbers);
    report.add(&MemoryReport::scratch, sums);
    report.add(&MemoryReport::scratch, rows);
    report.add(&MemoryReport::scratch, scores);
    report.add(&MemoryReport::scratch, budgets);
    report.add(&MemoryReport::scratch, sets);
  }

  Vector<float> numbers;                  // scores of all sets
  Vector<double> sums;                    // of the scores of the lanes of a set
  Vector<float> rows;                     // decoded keys or values
  Vector<std::span<const float>> scores;  // of every set
  Vector<std::size_t> budgets;            // of every set
  Vector<RowSet> sets;                    // of lanes that decide together
};

/// When a decision is made, and what it may use.
struct Moment {
  bool end_of_prompt;         ///< this commit closes a prompt
  std::size_t prompt_tokens;  ///< tokens up to the end of the last prompt, this one included
  std::size_t padding;        ///< how many of them are padding
  std::size_t most_decoded;   ///< decoded rows that a budget in bytes has room for
  DecisionScratch& scratch;
};

}  // namespace kvcompress
