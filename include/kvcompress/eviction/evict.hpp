// include/kvcompress/eviction/evict.hpp - an eviction made of parts: what rows are worth, how a budget is shared out, which rows stay.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"
#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/eviction/selectors/best.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What the rows of a lane are worth. Static functions over an Options value and a State per lane:
///
/// may, validate, state, row_bytes, and the functions that go with what `may` observes: as Eviction.
/// score(options, lane, rows, moment, out): one number a row, larger stays; written to `out`, or where the State has them.
/// join(options, set, scores), if there is one: changes the scores of a set once those of its lanes are added, as pooling does.
/// recent(options, budget): newest rows that stay whatever they score, unless Options::recent says otherwise.
template <class S>
concept Scorer = std::semiregular<typename S::Options> && RowState<typename S::State> &&
    requires(const typename S::Options options, const Shape& shape, const Site& site, const Memory& memory, const LaneView& lane,
             const RowTable& rows, const Moment& moment, std::span<float> out, std::size_t n) {
  { S::name } -> std::convertible_to<std::string_view>;
  { S::may } -> std::convertible_to<Needs>;
  S::validate(options, shape);
  { S::state(options, site, memory) } -> std::same_as<typename S::State>;
  { S::row_bytes(options, shape) } -> std::same_as<std::size_t>;
  { S::score(options, lane, rows, moment, out) } -> std::same_as<std::span<const float>>;
  { S::recent(options, n) } -> std::same_as<std::size_t>;
};

/// Shares out the budget at the end of a prompt among the lanes that it `sees`: allocate(options, allocation, budgets) changes the rows of
/// every set from what they are when all sets get the same.
template <class A>
concept BudgetAllocator = std::semiregular<typename A::Options> &&
    requires(const typename A::Options options, const Allocation& allocation, std::span<std::size_t> budgets) {
  { A::name } -> std::convertible_to<std::string_view>;
  { A::sees } -> std::convertible_to<Scope>;
  A::validate(options);
  A::allocate(options, allocation, budgets);
};

/// Marks the rows of a set that go, so that `budget` stay: choose(options, set, scores, protected_rows, budget).
template <class X>
concept Selector = std::semiregular<typename X::Options> &&
    requires(const typename X::Options options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
             std::size_t budget) {
  { X::name } -> std::convertible_to<std::string_view>;
  X::choose(options, set, scores, protected_rows, budget);
};

/// Rows that go are gone.
struct Drop {};

namespace detail {

/// What an eviction that is made of parts decides, with the options of its parts.
template <Scorer S, BudgetAllocator A, Selector X>
struct Deciding {
  const typename S::Options& scorer;
  const typename A::Options& allocator;
  const typename X::Options& selector;
  const Budget& budget;
  std::size_t sinks;
  std::size_t recent;
  std::size_t period;
  std::size_t decode_budget;
  Scope allocates = A::sees;

  /// Decoded rows among `rows` that a budget in bytes allows.
  static std::size_t decoded_rows(std::size_t decode_budget, std::size_t rows) noexcept {
    return decode_budget > 0 ? decode_budget : std::max<std::size_t>(1, rows / 4);
  }

  void select(std::span<RowSet> sets, const Moment& moment) const {
    if (S::may.decides == Decides::once && !moment.end_of_prompt) {
      for (RowSet& set : sets) { select_decoded(set, moment); }
    } else if (allocates == Scope::lane) {
      for (std::size_t i = 0; i < sets.size(); ++i) { select_scored(sets.subspan(i, 1), moment); }
    } else {
      select_scored(sets, moment);
    }
  }

 private:
  void select_scored(std::span<RowSet> sets, const Moment& moment) const {
    const auto due = [&](const RowSet& set) { return moment.end_of_prompt || set.rows.live() >= set.budget + period; };
    if (std::none_of(sets.begin(), sets.end(), due)) { return; }
    DecisionScratch& scratch = moment.scratch;
    std::size_t rows = 0;
    for (const RowSet& set : sets) { rows += set.rows.rows(); }
    if (scratch.numbers.size() < rows) { scratch.numbers.resize(rows); }
    scratch.scores.clear();
    scratch.budgets.clear();
    std::span<float> room(scratch.numbers.data(), rows);
    for (RowSet& set : sets) {
      scratch.scores.push_back(scores_of(set, moment, room.first(set.rows.rows())));
      scratch.budgets.push_back(set.budget);
      room = room.subspan(set.rows.rows());
    }
    if (moment.end_of_prompt && budget.bytes_of == 0) {
      const double even = budget.fraction_of > 0.0 ? budget.fraction_of * static_cast<double>(moment.prompt_tokens - moment.padding)
                                                   : static_cast<double>(budget.rows_of);
      A::allocate(allocator, {sets, scratch.scores, protected_rows(sets.front().budget), even, moment}, scratch.budgets);
    }
    for (std::size_t i = 0; i < sets.size(); ++i) {
      RowSet& set = sets[i];
      set.budget = scratch.budgets[i];
      set.scores = scratch.scores[i];
      const std::size_t decoded =
          S::may.decides == Decides::once && budget.bytes_of > 0 ? std::min(decoded_rows(decode_budget, set.budget), set.budget - 1) : 0;
      if (due(set)) { X::choose(selector, set, scratch.scores[i], protected_rows(set.budget - decoded), set.budget - decoded); }
    }
  }
  [[nodiscard]] Protected protected_rows(std::size_t rows) const noexcept {
    const std::size_t newest = std::min(recent != 0 ? recent : S::recent(scorer, rows), rows);
    return {std::min(sinks, rows - newest), newest};
  }
  /// The scores of a set, those of its lanes added.
  [[nodiscard]] std::span<const float> scores_of(RowSet& set, const Moment& moment, std::span<float> room) const {
    std::span<const float> scores;
    if (set.lanes.size() == 1) {
      scores = S::score(scorer, set.lanes.front(), set.rows, moment, room);
    } else {
      Vector<double>& sums = moment.scratch.sums;
      sums.assign(room.size(), 0.0);
      for (const LaneView& lane : set.lanes) {
        const std::span<const float> own = S::score(scorer, lane, set.rows, moment, room);
        for (std::size_t r = 0; r < own.size(); ++r) { sums[r] += static_cast<double>(own[r]); }
      }
      std::transform(sums.begin(), sums.end(), room.begin(), [](double sum) { return static_cast<float>(sum); });
      scores = room;
    }
    if constexpr (requires { S::join(scorer, set, room, moment); }) {
      if (scores.data() != room.data()) { std::copy(scores.begin(), scores.end(), room.begin()); }
      S::join(scorer, set, room, moment);
      scores = room;
    }
    return scores;
  }
  /// Of an eviction that decides once: decoded rows stay, but for a budget of their own or what one in bytes leaves to them.
  void select_decoded(RowSet& set, const Moment& moment) const {
    if (decode_budget == 0 && budget.bytes_of == 0) { return; }
    std::size_t of_prompt = 0;
    for (std::size_t r = 0; r < set.rows.rows(); ++r) {
      of_prompt += set.rows.alive(r) && set.rows.position(r) < moment.prompt_tokens ? 1U : 0U;
    }
    const std::size_t left = set.budget - std::min(set.budget, of_prompt);
    const std::size_t most = decode_budget > 0 ? decode_budget : std::min(left, moment.most_decoded);
    if (set.rows.live() - of_prompt <= most) { return; }
    const Position first_kept = most == 0 ? no_position : set.newest(most - 1);
    for (std::size_t r = 0; r < set.rows.rows(); ++r) {
      const Position p = set.rows.position(r);
      set.drop[r] = p >= moment.prompt_tokens && p < first_kept ? 1 : 0;
    }
  }
};

}  // namespace detail

/// Keeps `budget` rows per lane, shared out by the allocator A: the `sinks` oldest, the newest, and of the others those that the selector X
/// chooses by the scores of S. A scorer that decides once does so at the end of a prompt; rows decoded later stay then, unless `decode_budget`
/// bounds them. Others evict at every commit that finds `period` rows more than the budget. Cost: the scorer's, and O(rows) per decision.
///
/// What becomes of the rows that go, the fourth half, stands in eviction/dispose.hpp.
template <Scorer S, BudgetAllocator A = Uniform, Selector X = Best, class D = Drop>
struct Evict;
template <Scorer S, BudgetAllocator A, Selector X>
struct Evict<S, A, X, Drop> {
  static constexpr std::string_view name = S::name;
  static constexpr Needs may = S::may;
  using State = typename S::State;

  struct Options {
    Budget budget = 1024;           ///< rows that stay, sinks and recent ones included
    std::size_t sinks = 0;          ///< oldest rows that always stay, fewer than the budget
    std::size_t recent = 0;         ///< newest rows that always stay, 1 to budget - sinks; 0: as the scorer says
    std::size_t period = 1;         ///< rows over the budget at which decoded rows make the next decision due, at least 1
    std::size_t decode_budget = 0;  ///< of a scorer that decides once: decoded rows that stay, 0: all
    typename S::Options scorer{};
    typename A::Options allocator{};
    typename X::Options selector{};
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("sinks", options.sinks);
      field("recent", options.recent);
      if constexpr (S::may.decides == Decides::once) {
        field("decode_budget", options.decode_budget);
      } else {
        field("period", options.period);
      }
      options.scorer.fields(options.scorer, field);
      options.allocator.fields(options.allocator, field);
      options.selector.fields(options.selector, field);
    }
  };

  static void validate(const Options& options, const Shape& shape) {
    const auto named = [](const char* option) {
      Sentence sentence;
      sentence.add(name);
      sentence.add(": ");
      sentence.add(option);
      return sentence;
    };
    options.budget.validate(named("budget").c_str());
    check_bounds(named("sinks").c_str(), options.sinks);
    check_bounds(named("recent").c_str(), options.recent);
    check_bounds(named("period").c_str(), options.period, 1);
    check_bounds(named("decode_budget").c_str(), options.decode_budget);
    S::validate(options.scorer, shape);
    A::validate(options.allocator);
    if (const std::size_t rows = options.budget.rows_of; rows > 0) {
      const std::size_t recent = options.recent != 0 ? options.recent : S::recent(options.scorer, rows);
      require(options.sinks < rows && recent <= rows - options.sinks, ErrorCode::option, name, ": sinks is ", options.sinks,
              " and the newest rows that stay are ", recent, ", must be at most budget = ", rows, " together");
    }
    require(options.budget.bytes_of == 0 || A::name == Uniform::name, ErrorCode::option, name, ": budget is ", options.budget.bytes_of,
            " bytes, must be rows or a fraction with the allocator ", A::name);
  }
  static constexpr bool renumbers(const Options&) noexcept { return false; }
  static std::size_t row_bytes(const Options& options, const Shape& shape) { return S::row_bytes(options.scorer, shape); }
  static State state(const Options& options, const Site& site, const Memory& memory) { return S::state(options.scorer, site, memory); }
  static std::size_t decoded_rows(const Options& options, std::size_t rows) noexcept requires(S::may.decides == Decides::once) {
    return detail::Deciding<S, A, X>::decoded_rows(options.decode_budget, rows);
  }
  static std::size_t least_rows(const Options& options) noexcept {
    const std::size_t rows = options.sinks + (options.recent != 0 ? options.recent : S::recent(options.scorer, 1)) + 1;
    if constexpr (S::may.decides != Decides::once) { return rows + options.period - 1; }
    return rows + (options.decode_budget > 0 ? options.decode_budget : rows / 3 + 1);
  }
  static std::size_t window(const Options& options) noexcept requires requires { S::window(options.scorer); }
  { return S::window(options.scorer); }
  static void start(const Options& options, State& state) requires requires { S::start(options.scorer, state); }
  { S::start(options.scorer, state); }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) requires requires {
    S::observe(options.scorer, state, head, probabilities);
  }
  { S::observe(options.scorer, state, head, probabilities); }
  static void make_room_for_queries(const Options& options, State& state, const Shape& shape) requires requires {
    S::make_room_for_queries(options.scorer, state, shape);
  }
  { S::make_room_for_queries(options.scorer, state, shape); }
  static void observe_query(const Options& options, State& state, std::size_t head, const float* query) noexcept requires requires {
    S::observe_query(options.scorer, state, head, query);
  }
  { S::observe_query(options.scorer, state, head, query); }
  static void observe_row(const Options& options, State& state, std::size_t row, std::span<const float> key,
                          std::span<const float> value) requires requires {
    S::observe_row(options.scorer, state, row, key, value);
  }
  { S::observe_row(options.scorer, state, row, key, value); }
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    detail::Deciding<S, A, X>{options.scorer, options.allocator, options.selector, options.budget,
                              options.sinks,  options.recent,    options.period,   options.decode_budget}
        .select(sets, moment);
  }
  /// What its name does not say of it, for saved caches.
  static void describe(auto&& fact) {
    fact("allocator", A::name);
    fact("selector", X::name);
    fact("agrees", may.agrees);
  }
};

}  // namespace kvcompress
