// include/kvcompress/cache/observation.hpp - what a lane remembers of the queries since the last commit.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

#include "kvcompress/attention/attend.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Probabilities seen since the last commit that truncate may still take back, in the order they were seen.
class Pending {
 public:
  explicit Pending(const Memory& memory) : entries_(Allocator<Entry>(memory)), probabilities_(Allocator<float>(memory)) {}

  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
  /// `row`: the query's own.
  void push(Position position, std::size_t row, std::size_t head, std::span<const float> probabilities) {
    entries_.push_back({position, row, head, probabilities.size()});
    probabilities_.insert(probabilities_.end(), probabilities.begin(), probabilities.end());
  }
  /// Forgets the queries at positions >= position, and what others said of the rows from `rows` on, which go.
  void truncate(Position position, std::size_t rows) noexcept {
    filter([&](Entry& entry, float* probabilities, float* to) {
      if (entry.position >= position) { return false; }
      entry.rows = std::min(entry.rows, rows);
      std::copy(probabilities, probabilities + entry.rows, to);
      return true;
    });
  }
  /// Of the rows from `first` on only the `kept` ones stay, ascending and counted from there, and with them what their queries saw.
  void keep(std::size_t first, std::span<const std::size_t> kept) noexcept {
    filter([&](Entry& entry, float* probabilities, float* to) {
      if (entry.row >= first) {
        std::size_t own = 0;
        while (own < kept.size() && kept[own] != entry.row - first) { ++own; }
        if (own == kept.size()) { return false; }
        entry.row = first + own;
      }
      to = std::copy(probabilities, probabilities + std::min(first, entry.rows), to);
      std::size_t rows = std::min(first, entry.rows);
      for (std::size_t i = 0; i < kept.size() && first + kept[i] < entry.rows; ++i, ++rows) { *to++ = probabilities[first + kept[i]]; }
      entry.rows = rows;
      return true;
    });
  }
  /// Room for `entries` more, of `rows` rows each.
  void make_room(std::size_t entries, std::size_t rows) {
    const auto grow = [](auto& vector, std::size_t more) {
      const std::size_t size = vector.size() + more;
      if (vector.capacity() < size) { vector.reserve(std::max(size, 2 * vector.capacity())); }
    };
    grow(entries_, entries);
    grow(probabilities_, entries * rows);
  }
  /// Calls count(position, head, probabilities) for every entry.
  template <class Count>
  void visit(Count&& count) const {
    const float* from = probabilities_.data();
    for (const Entry& entry : entries_) {
      count(entry.position, entry.head, std::span<const float>(from, entry.rows));
      from += entry.rows;
    }
  }
  void clear() noexcept {
    entries_.clear();
    probabilities_.clear();
  }
  /// Of a lane with `rows` rows and `group` query heads.
  static void persist(auto& self, auto& archive, std::size_t rows, std::size_t group) {
    std::size_t count = self.size();
    archive.count(count, sizeof(Position) + 3 * sizeof(std::size_t));
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) { self.entries_.resize(count); }
    std::size_t numbers = 0;
    for (auto& entry : self.entries_) {
      archive.number(entry.position);
      archive.number(entry.row);
      archive.number(entry.head);
      archive.number(entry.rows);
      archive.check(entry.row < rows && entry.head < group && entry.rows <= rows, "an observed query is not of its rows");
      numbers += entry.rows;
    }
    archive.vector(self.probabilities_);
    archive.check(self.probabilities_.size() == numbers, "the probabilities are not those of its observed queries");
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::policy_state, entries_);
    report.add(&MemoryReport::policy_state, probabilities_);
  }

 private:
  struct Entry {
    Position position;
    std::size_t row;
    std::size_t head;
    std::size_t rows;
  };
  /// Calls stays(entry, its probabilities, where they go) for every entry; it moves up what stays of them.
  void filter(auto&& stays) noexcept {
    float* from = probabilities_.data();
    float* to = from;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      Entry entry = entries_[i];
      const std::size_t rows = entry.rows;
      if (stays(entry, from, to)) {
        to += entry.rows;
        entries_[kept++] = entry;
      }
      from += rows;
    }
    entries_.resize(kept, Entry{});
    probabilities_.resize(static_cast<std::size_t>(to - probabilities_.data()));
  }
  Vector<Entry> entries_;
  Vector<float> probabilities_;  // of all entries, one behind the other
};

/// Which queries attend and observe have shown since the last commit, and what those of the first prompt say about padding.
class Shown {
 public:
  /// Queries from `oldest` on, which do not see the rows before `start`.
  void add(Position oldest, Position start, bool first_prompt) noexcept {
    oldest_ = std::min(oldest_, oldest);
    if (first_prompt) { start_ = std::min(start_, start); }
  }
  /// The same of queries that are kept: only with all rows they are forgotten.
  void keep(Position start, bool first_prompt) noexcept { add(0, start, first_prompt); }
  [[nodiscard]] bool none() const noexcept { return oldest_ == no_position; }
  /// No query of the first prompt saw rows before this position; no_position if it had none.
  [[nodiscard]] Position start() const noexcept { return start_; }
  /// Rows at positions [first, last) move by `delta`.
  void shift(Position first, Position last, std::int64_t delta) noexcept {
    if (start_ != no_position && start_ >= first && start_ < last) { start_ = static_cast<Position>(std::int64_t{start_} + delta); }
  }
  /// What all queries since the commit said is forgotten with the last of them.
  void truncate(Position position, bool first_prompt) noexcept {
    if (position > oldest_) { return; }
    oldest_ = no_position;
    if (first_prompt) { start_ = no_position; }
  }
  void close() noexcept { oldest_ = no_position; }
  static void persist(auto& self, auto& archive) {
    archive.number(self.oldest_);
    archive.number(self.start_);
  }

 private:
  Position oldest_ = no_position;
  Position start_ = no_position;
};

/// The newest queries of the open rows, a window of them and those that may be taken back, in the stored keys' form.
class LastQueries {
 public:
  explicit LastQueries(const Memory& memory)
      : queries_(Allocator<float>(memory)), masses_(Allocator<float>(memory)), positions_(Allocator<Position>(memory)),
        until_(Allocator<Position>(memory)) {}

  [[nodiscard]] std::span<const Position> positions() const noexcept { return positions_; }
  /// Query `index` of the window: (group, key width) floats.
  [[nodiscard]] const float* query(std::size_t index, std::size_t width) const noexcept { return queries_.data() + index * width; }
  /// The log of what the softmax of queries from `index` on counted beside the rows, (positions, group), or null if it was nothing.
  [[nodiscard]] const float* masses(std::size_t index, std::size_t group) const noexcept {
    return masses_.empty() ? nullptr : masses_.data() + index * group;
  }
  /// The positions before which queries from `index` on see rows; empty: before their own.
  [[nodiscard]] std::span<const Position> until(std::size_t index) const noexcept {
    return until_.empty() ? std::span<const Position>() : std::span<const Position>(until_).subspan(index);
  }
  /// From which position on queries can be taken back, so that those of a whole window are left; 0 if none has had to make room.
  [[nodiscard]] Position revocable_from() const noexcept {
    if (!forgotten_) { return 0; }
    return positions_.size() < window_ || window_ == 0 ? no_position : positions_[window_ - 1] + 1;
  }

  /// How the newest queries attended.
  [[nodiscard]] const AttendOptions& options() const noexcept { return options_; }

  /// Afterwards `count` queries, attended so, can be remembered without failing.
  void make_room(std::size_t count, std::size_t window, std::size_t group, std::size_t width, const AttendOptions& options) {
    const std::size_t size = positions_.size() + std::min(window, count);
    positions_.reserve(size);
    queries_.reserve(size * group * width);
    if (beside(options) || !masses_.empty()) { masses_.reserve(size * group); }
    if (!options.until.empty() || !until_.empty()) { until_.reserve(size); }
  }
  /// Adds queries at ascending `positions`; load(t, to) writes those of token t, group * width floats, mass(t, head) is what their softmax
  /// counted beside the rows. Keeps the newest `window`, and `revocable` before them. There must be room for both.
  void remember(std::span<const Position> positions, const AttendOptions& options, std::size_t window, std::size_t revocable,
                std::size_t group, std::size_t width, auto&& load, auto&& mass) {
    window_ = window;
    window += revocable;
    const std::size_t fresh = std::min(window, positions.size());
    forget_from(positions.front(), group, width);  // a repeated call replaces what the first one left
    const std::size_t leaving = positions_.size() + fresh > window ? positions_.size() + fresh - window : 0;
    forgotten_ = forgotten_ || leaving > 0 || fresh < positions.size();
    const auto forget = [leaving](auto& vector, std::size_t numbers) {
      vector.erase(vector.begin(), vector.begin() + static_cast<std::ptrdiff_t>(std::min(leaving * numbers, vector.size())));
    };
    forget(positions_, 1);
    forget(queries_, group * width);
    forget(masses_, group);
    forget(until_, 1);
    const bool with_until = !options.until.empty() || !until_.empty();
    for (std::size_t i = until_.size(); with_until && i < positions_.size(); ++i) { until_.push_back(positions_[i] + 1); }
    const bool with_masses = beside(options) || !masses_.empty();
    if (with_masses) { masses_.resize(positions_.size() * group, kernels::minus_infinity); }
    for (std::size_t t = positions.size() - fresh; t < positions.size(); ++t) {
      positions_.push_back(positions[t]);
      if (with_until) { until_.push_back(options.until.empty() ? positions[t] + 1 : options.until[t]); }
      queries_.resize(positions_.size() * group * width);
      load(t, queries_.data() + (positions_.size() - 1) * group * width);
      for (std::size_t h = 0; with_masses && h < group; ++h) { masses_.push_back(mass(t, h)); }
    }
    options_ = options;
    options_.log_sum_exp = nullptr;
    options_.sinks = {};
    options_.partials = {};
    options_.plan = nullptr;
    options_.until = {};
  }
  void truncate(Position position, std::size_t group, std::size_t width) noexcept {
    forget_from(position, group, width);
    for (Position& end : until_) { end = std::min(end, position); }
  }
  /// Forgets the queries at positions that do not stay.
  void keep(auto&& stays) noexcept {
    std::size_t kept = 0;
    const auto move_up = [&](auto& vector, std::size_t from) {
      const std::size_t numbers = vector.size() / positions_.size();
      std::copy_n(vector.begin() + static_cast<std::ptrdiff_t>(from * numbers), numbers,
                  vector.begin() + static_cast<std::ptrdiff_t>(kept * numbers));
    };
    for (std::size_t i = 0; i < positions_.size(); ++i) {
      if (!stays(positions_[i])) { continue; }
      if (kept != i) {
        move_up(queries_, i);
        move_up(masses_, i);
        move_up(until_, i);
        positions_[kept] = positions_[i];
      }
      ++kept;
    }
    if (kept == positions_.size()) { return; }
    for (auto* vector : {&queries_, &masses_}) { vector->resize(vector->size() / positions_.size() * kept); }
    if (!until_.empty()) { until_.resize(kept); }
    positions_.resize(kept);
  }
  /// Forgets everything; after a prompt the memory goes back too.
  void clear(bool release) noexcept {
    positions_.clear();
    queries_.clear();
    masses_.clear();
    until_.clear();
    forgotten_ = false;
    if (release) {
      Vector<Position>(positions_.get_allocator()).swap(positions_);
      Vector<float>(queries_.get_allocator()).swap(queries_);
      Vector<float>(masses_.get_allocator()).swap(masses_);
      Vector<Position>(until_.get_allocator()).swap(until_);
    }
  }
  /// Queries of `group` heads, `width` floats each; `next`: the position after the newest row.
  static void persist(auto& self, auto& archive, Position next, std::size_t group, std::size_t width) {
    archive.vector(self.positions_);
    archive.vector(self.queries_);
    archive.vector(self.masses_);
    archive.vector(self.until_);
    const std::size_t heads = self.positions_.size() * group;
    archive.check(self.queries_.size() == heads * width && (self.masses_.empty() || self.masses_.size() == heads),
                  "the last queries are not of its shape");
    archive.check(
        std::is_sorted(self.positions_.begin(), self.positions_.end()) && (self.positions_.empty() || self.positions_.back() < no_position),
        "the last queries are not in order");
    bool within = self.until_.empty() || self.until_.size() == self.positions_.size();
    for (std::size_t i = 0; within && i < self.until_.size(); ++i) {
      within = self.until_[i] > self.positions_[i] && self.until_[i] <= std::max(next, self.positions_[i] + 1);
    }
    archive.check(within, "the last queries see rows that are not there");
    archive.number(self.options_.scale);
    archive.number(self.options_.soft_cap);
    archive.number(self.options_.window);
    archive.number(self.options_.start);
    archive.check(self.options_.scale >= 0.0F && self.options_.scale <= std::numeric_limits<float>::max() && self.options_.soft_cap >= 0.0F,
                  "the last queries attended with a scale or cap that no query can have");
    archive.number(self.forgotten_);
    archive.number(self.window_);
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::policy_state, queries_);
    report.add(&MemoryReport::policy_state, masses_);
    report.add(&MemoryReport::policy_state, positions_);
    report.add(&MemoryReport::policy_state, until_);
  }

 private:
  void forget_from(Position position, std::size_t group, std::size_t width) noexcept {
    while (!positions_.empty() && positions_.back() >= position) { positions_.pop_back(); }
    queries_.resize(positions_.size() * group * width);
    if (!masses_.empty()) { masses_.resize(positions_.size() * group); }
    if (!until_.empty()) { until_.resize(positions_.size()); }
  }
  static bool beside(const AttendOptions& options) noexcept { return !options.sinks.empty() || !options.partials.empty(); }

  Vector<float> queries_;       // (positions, group, key width)
  Vector<float> masses_;        // (positions, group), or empty: nothing beside the rows
  Vector<Position> positions_;  // ascending
  Vector<Position> until_;      // (positions) see AttendOptions::until, or empty
  AttendOptions options_{};
  bool forgotten_ = false;
  std::size_t window_ = 0;  // that is asked for at the end of a prompt
};

}  // namespace kvcompress::detail
