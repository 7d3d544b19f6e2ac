// include/kvcompress/core/row_table.hpp - which position each row of a lane holds, its slot where positions are renumbered, its weight.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_scan.hpp"
#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows of a lane in store order. A row is alive and has a position, or is dead: evicted, its place not yet given back. While every
/// row r is alive at position r, nothing is allocated. With `renumber`, a live row also has a slot: its rank by position among
/// the live rows (StreamingLLM's in-cache position). A row that stands for several has a weight, of which attention adds the logarithm to its
/// logit; while none does, nothing is allocated.
class RowTable {
 public:
  RowTable(bool renumber, const Memory& memory)
      : renumber_(renumber), positions_(Allocator<Position>(memory)), slots_(Allocator<Position>(memory)),
        turned_(Allocator<Position>(memory)), log_weights_(Allocator<float>(memory)) {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t live() const noexcept { return live_; }
  [[nodiscard]] bool all_alive() const noexcept { return live_ == rows_; }
  [[nodiscard]] bool renumbers() const noexcept { return renumber_; }
  [[nodiscard]] bool alive(std::size_t row) const noexcept { return position(row) != no_position; }
  [[nodiscard]] Position position(std::size_t row) const noexcept {
    return positions_.empty() ? static_cast<Position>(row) : positions_[row];
  }
  /// The positions of all rows, no_position for dead ones; empty while they are implied.
  [[nodiscard]] std::span<const Position> positions() const noexcept { return {positions_.data(), positions_.size()}; }
  /// The first dead row from `row` on, or rows().
  [[nodiscard]] std::size_t next_dead(std::size_t row) const noexcept {
    if (positions_.empty() || row >= rows_) { return rows_; }
    return row + detail::row_at(positions().subspan(row), no_position);
  }
  /// The row's slot; its position unless the table renumbers.
  [[nodiscard]] Position slot(std::size_t row) const noexcept { return slots_.empty() ? position(row) : slots_[row]; }
  /// The position that the row's key is rotated to; its own unless positions were shifted since.
  [[nodiscard]] Position turned(std::size_t row) const noexcept { return turned_.empty() ? position(row) : turned_[row]; }
  /// Whether keys of different rows may be rotated further or less far than attention sees them.
  [[nodiscard]] bool shifts() const noexcept { return renumber_ || !turned_.empty(); }
  /// How far a row's key is rotated beyond where attention sees the row; 0 where the table neither renumbers nor was shifted.
  [[nodiscard]] std::int64_t shift(std::size_t row) const noexcept {
    return shifts() && !positions_.empty() ? std::int64_t{turned(row)} - std::int64_t{slot(row)} : 0;
  }
  /// Whether some row may have another weight than 1.
  [[nodiscard]] bool weighs() const noexcept { return !log_weights_.empty(); }
  /// The logarithm of the weight of a row: 0 for one that stands for itself, ln n for one that stands for n.
  [[nodiscard]] float log_weight(std::size_t row) const noexcept { return log_weights_.empty() ? 0.0F : log_weights_[row]; }
  /// Those of all rows; empty while all are 0.
  [[nodiscard]] std::span<const float> log_weights() const noexcept { return {log_weights_.data(), log_weights_.size()}; }
  /// The largest among the live rows of [first, last), or -infinity.
  [[nodiscard]] float largest_log_weight(std::size_t first, std::size_t last) const noexcept {
    float largest = -std::numeric_limits<float>::infinity();
    for (std::size_t row = first; row < last; ++row) {
      if (alive(row)) { largest = std::max(largest, log_weight(row)); }
    }
    return largest;
  }
  /// Live rows in [first, last).
  [[nodiscard]] std::size_t live_in(std::size_t first, std::size_t last) const noexcept {
    if (all_alive()) { return last - first; }
    return detail::count_between(positions().subspan(first, last - first), 0, no_position);
  }
  /// Whether there is one. Fast where there are many.
  [[nodiscard]] bool any_alive(std::size_t first, std::size_t last) const noexcept {
    while (first < last && !alive(first)) { ++first; }
    return first < last;
  }

  /// Room for `more` rows, the first of them at `position`, so that their append cannot fail.
  void make_room(std::size_t more, Position position) {
    if (!implicit_at(position)) { reserve(rows_ + more); }
  }
  /// A row at the end. Positions of live rows must be distinct and the new one the largest.
  void append(Position position) { append(position, static_cast<Position>(live_)); }
  /// The same with a slot, for rows of an open step that share positions, and with these slots (see KVCache::append).
  void append(Position position, Position slot) {
    if (!implicit_at(position) || (renumber_ && slot != position)) {
      reserve(rows_ + 1);
      spell_out();
      positions_.push_back(position);
      if (renumber_) { slots_.push_back(slot); }
      if (!turned_.empty()) { turned_.push_back(position); }
      if (weighs()) { log_weights_.push_back(0.0F); }
    }
    ++rows_;
    ++live_;
  }
  /// Afterwards kill and settle cannot fail, nor can the append of `more` rows. `order` is scratch for settle.
  void prepare_to_kill(Vector<Position>& order, std::size_t more = 0) {
    reserve(rows_ + more);
    if (renumber_ && order.capacity() < rows_) { order.reserve(rows_); }
  }
  /// Marks a live row dead. Call settle() once the last one is marked.
  void kill(std::size_t row) noexcept {
    spell_out();
    const Position gone = positions_[row];
    positions_[row] = no_position;
    --live_;
    ++unsettled_;
    if (renumber_ && unsettled_ <= few) {  // a few deaths: later rows close the gap; many: settle() ranks anew
      for (std::size_t r = 0; r < rows_; ++r) { slots_[r] -= positions_[r] != no_position && positions_[r] > gone ? 1U : 0U; }
    }
  }
  void settle(Vector<Position>& order) noexcept {
    if (renumber_ && unsettled_ > few) { rank(order); }
    unsettled_ = 0;
  }
  /// Row `from` takes the place of the dead row `to`.
  void move(std::size_t from, std::size_t to) noexcept {
    positions_[to] = std::exchange(positions_[from], no_position);
    if (renumber_) { slots_[to] = slots_[from]; }
    if (!turned_.empty()) { turned_[to] = turned_[from]; }
    if (weighs()) { log_weights_[to] = log_weights_[from]; }
  }
  /// Row `first` + i becomes what row order[i] was, for all rows from `first` on.
  void permute(std::size_t first, std::span<const Position> order) {
    reserve(rows_);
    spell_out();
    const auto gather = [&](auto& column) {
      if (column.empty()) { return; }
      const auto before = column;
      for (std::size_t i = 0; i < order.size(); ++i) { column[first + i] = before[order[i]]; }
    };
    gather(positions_);
    gather(slots_);
    gather(turned_);
    gather(log_weights_);
  }
  /// Forgets the rows from `rows` on.
  void resize(std::size_t rows) noexcept {
    live_ -= live_in(rows, rows_);
    rows_ = rows;
    if (!positions_.empty()) {
      positions_.resize(rows);
      if (renumber_) { slots_.resize(rows); }
      if (!turned_.empty()) { turned_.resize(rows); }
      if (weighs()) { log_weights_.resize(rows); }
    }
  }
  /// Of the rows from `first` on, all alive, the `kept` ones stay, ascending and counted from there. Their slots follow each other if they are
  /// `in_order`, else no positions between are gone. Cannot fail once reserve(rows()) has come.
  void keep(std::size_t first, std::span<const std::size_t> kept, bool in_order) noexcept {
    const bool all_first = kept.empty() || kept.back() + 1 == kept.size();
    if (!all_first) { spell_out(); }
    const std::size_t before = live_ - (rows_ - first);
    for (std::size_t i = 0; !positions_.empty() && i < kept.size(); ++i) {
      const auto move_up = [&](auto& column) {
        if (!column.empty()) { column[first + i] = column[first + kept[i]]; }
      };
      move_up(positions_);
      move_up(slots_);
      move_up(turned_);
      move_up(log_weights_);
      if (renumber_ && in_order) { slots_[first + i] = static_cast<Position>(before + i); }
    }
    resize(first + kept.size());
  }
  /// Removes the dead rows [first, first + count), later rows move up.
  void erase(std::size_t first, std::size_t count) noexcept {
    live_ -= live_in(first, first + count);
    positions_.erase(positions_.begin() + at(first), positions_.begin() + at(first + count));
    if (renumber_) { slots_.erase(slots_.begin() + at(first), slots_.begin() + at(first + count)); }
    if (!turned_.empty()) { turned_.erase(turned_.begin() + at(first), turned_.begin() + at(first + count)); }
    if (weighs()) { log_weights_.erase(log_weights_.begin() + at(first), log_weights_.begin() + at(first + count)); }
    rows_ -= count;
  }
  void reserve(std::size_t rows) {
    if (positions_.capacity() < rows) { positions_.reserve(std::max(rows, 2 * positions_.capacity())); }
    if (renumber_ && slots_.capacity() < rows) { slots_.reserve(positions_.capacity()); }
    if (!turned_.empty() && turned_.capacity() < rows) { turned_.reserve(positions_.capacity()); }
    if (weighs() && log_weights_.capacity() < rows) { log_weights_.reserve(positions_.capacity()); }
  }
  /// Afterwards weigh cannot fail, nor can the append of `more` rows.
  void prepare_to_weigh(std::size_t more = 0) {
    reserve(rows_ + more);
    log_weights_.reserve(positions_.capacity());
  }
  /// Gives a row a weight, by its logarithm; prepare_to_weigh has come before.
  void weigh(std::size_t row, float log_weight) noexcept {
    if (!weighs()) {
      spell_out();
      log_weights_.assign(positions_.size(), 0.0F);
    }
    log_weights_[row] = log_weight;
  }
  /// Whether rows at positions [first, last) can move by `delta`, past no other row.
  [[nodiscard]] bool can_shift(Position first, Position last, std::int64_t delta) const noexcept {
    const std::int64_t begin = delta < 0 ? std::int64_t{first} + delta : std::int64_t{last};
    const std::int64_t end = delta < 0 ? std::int64_t{first} : std::int64_t{last} + delta;
    for (std::size_t row = 0; row < rows_; ++row) {
      const Position p = position(row);
      if (p != no_position && std::int64_t{p} >= begin && std::int64_t{p} < end && (p < first || p >= last)) { return false; }
    }
    return true;
  }
  /// Afterwards shift_positions cannot fail.
  void prepare_to_shift() {
    reserve(rows_);
    turned_.reserve(positions_.capacity());
  }
  /// Moves the rows at positions [first, last) by `delta`. Their keys stay as they are: see turned.
  void shift_positions(Position first, Position last, std::int64_t delta) noexcept {
    spell_out();
    if (turned_.empty()) { turned_.assign(positions_.begin(), positions_.end()); }
    for (Position& p : positions_) {
      if (p >= first && p < last && p != no_position) { p = static_cast<Position>(std::int64_t{p} + delta); }
    }
  }
  /// Gives back capacity that a prompt needed and the rows left of it do not.
  void compact(std::size_t slack) {
    compact_vector(positions_, slack);
    compact_vector(slots_, slack);
    compact_vector(turned_, slack);
    compact_vector(log_weights_, slack);
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::positions, positions_);
    report.add(&MemoryReport::positions, slots_);
    report.add(&MemoryReport::positions, turned_);
    report.add(&MemoryReport::positions, log_weights_);
  }
  /// `next`: the position after the newest row; the last `beside` rows may share positions.
  static void persist(auto& self, auto& archive, Position next, std::size_t beside = 0) {
    archive.number(self.rows_);
    archive.vector(self.positions_);
    archive.check(self.rows_ <= (self.positions_.empty() ? std::size_t{next} : self.positions_.size()), "there are more rows than tokens");
    archive.vector(self.slots_);
    archive.vector(self.turned_);
    archive.vector(self.log_weights_);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      const bool spelt_out = !self.positions_.empty();
      archive.check(self.positions_.size() == (spelt_out ? self.rows_ : 0), "the positions are not those of its rows");
      archive.check(self.slots_.size() == (spelt_out && self.renumber_ ? self.rows_ : 0), "the slots are not those of its rows");
      archive.check(self.turned_.empty() || self.turned_.size() == self.positions_.size(), "the angles are not those of its rows");
      archive.check(self.log_weights_.empty() || self.log_weights_.size() == self.positions_.size(),
                    "the weights are not those of its rows");
      for (const float weight : self.log_weights_) {
        archive.check(weight >= -largest_log && weight <= largest_log, "the logarithm of a weight is out of bounds");
      }
      archive.check(self.distinct(next, beside), "its positions are not distinct, or newer than the newest token");
      self.live_ = self.rows_ - static_cast<std::size_t>(std::count(self.positions_.begin(), self.positions_.end(), no_position));
    }
  }

  /// Reallocates `vector` to size + slack when more than that and twice its size is allocated.
  template <class T>
  static void compact_vector(Vector<T>& vector, std::size_t slack) {
    if (vector.capacity() <= 2 * vector.size() + slack) { return; }
    Vector<T> smaller(vector.get_allocator());
    smaller.reserve(vector.size() + slack);
    smaller.assign(vector.begin(), vector.end());
    vector.swap(smaller);
  }

  static constexpr float largest_log = 1e4F;  ///< magnitude of the logarithm of a weight

 private:
  static constexpr std::size_t few = 4;

  static std::ptrdiff_t at(std::size_t row) noexcept { return static_cast<std::ptrdiff_t>(row); }
  [[nodiscard]] bool implicit_at(Position position) const noexcept { return positions_.empty() && position == rows_; }
  /// Whether live rows are at positions below `next`, different ones, but for the last `beside` rows.
  [[nodiscard]] bool distinct(Position next, std::size_t beside) const {
    Vector<Position> sorted(positions_);
    std::erase(sorted, no_position);
    const bool below = std::all_of(sorted.begin(), sorted.end(), [next](Position p) { return p < next; });
    sorted.resize(sorted.size() - std::min(sorted.size(), beside));
    std::sort(sorted.begin(), sorted.end());
    return below && std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  }
  /// reserve(rows_) must have come before, so that this cannot fail.
  void spell_out() noexcept {
    if (!positions_.empty() || rows_ == 0) { return; }
    positions_.resize(rows_);
    std::iota(positions_.begin(), positions_.end(), Position{0});
    if (renumber_) { slots_.assign(positions_.begin(), positions_.end()); }
  }
  void rank(Vector<Position>& order) noexcept {
    order.clear();
    for (const Position p : positions_) {
      if (p != no_position) { order.push_back(p); }
    }
    if (std::is_sorted(order.begin(), order.end())) {  // as after a prompt
      Position before = 0;
      for (std::size_t r = 0; r < rows_; ++r) {
        const bool lives = positions_[r] != no_position;
        slots_[r] = lives ? before : static_cast<Position>(order.size());
        before += lives ? 1U : 0U;
      }
      return;
    }
    std::sort(order.begin(), order.end());
    for (std::size_t r = 0; r < rows_; ++r) {
      slots_[r] = static_cast<Position>(std::lower_bound(order.begin(), order.end(), positions_[r]) - order.begin());
    }
  }

  bool renumber_;
  std::size_t rows_ = 0;
  std::size_t live_ = 0;
  std::size_t unsettled_ = 0;
  Vector<Position> positions_;  // empty while row r is alive at position r
  Vector<Position> slots_;      // beside positions_, if renumber_
  Vector<Position> turned_;     // beside positions_, once these were shifted
  Vector<float> log_weights_;   // beside positions_, once a row has stood for several
};

}  // namespace kvcompress
