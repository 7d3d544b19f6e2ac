// include/kvcompress/eviction/deciding.hpp - the decision of an eviction that is made of parts, whatever parts.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/eviction/parts.hpp"
#include "kvcompress/eviction/selectors/best.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// What an eviction that is made of parts decides. Compiled once, for types and for names: the parts are called through functions, some for every
/// set that decides, none for a row.
struct Deciding {
  PartInUse<ScorerFunctions> scorer;
  PartInUse<AllocatorFunctions> allocator;
  PartInUse<SelectorFunctions> selector;
  const Budget& budget;
  std::size_t sinks;
  std::size_t recent;
  std::size_t period;
  std::size_t decode_budget;

  /// Decoded rows among `rows` that a budget in bytes allows.
  static std::size_t decoded_rows(std::size_t decode_budget, std::size_t rows) noexcept {
    return decode_budget > 0 ? decode_budget : std::max<std::size_t>(1, rows / 4);
  }
  [[nodiscard]] std::size_t least_rows() const {
    const std::size_t rows = sinks + newest_rows(1) + 1;
    if (scorer->decides != Decides::once) { return rows + period - 1; }
    return rows + (decode_budget > 0 ? decode_budget : rows / 3 + 1);
  }
  void validate(std::string_view name, const Shape& shape) const {
    const auto named = [&](const char* option) {
      Sentence sentence;
      sentence.add(name);
      sentence.add(": ");
      sentence.add(option);
      return sentence;
    };
    budget.validate(named("budget").c_str());
    check_bounds(named("sinks").c_str(), sinks);
    check_bounds(named("recent").c_str(), recent);
    check_bounds(named("period").c_str(), period, 1);
    check_bounds(named("decode_budget").c_str(), decode_budget);
    allocator->validate(allocator.options, shape);
    selector->validate(selector.options, shape);
    if (const std::size_t rows = budget.rows_of; rows > 0) {
      const std::size_t newest = newest_rows(rows);
      require(sinks < rows && newest <= rows - sinks, ErrorCode::option, name, ": sinks is ", sinks, " and the newest rows that stay are ",
              newest, ", must be at most budget = ", rows, " together");
    }
    require(!allocator->needs_facts || scorer->facts != nullptr, ErrorCode::option, name, ": the allocator is ", allocator->name,
            ", must be one that goes by scores: ", name, " says nothing of lanes as a whole");
    require(budget.bytes_of == 0 || allocator->name == Uniform::name, ErrorCode::option, name, ": budget is ", budget.bytes_of,
            " bytes, must be rows or a fraction with the allocator ", allocator->name);
  }

  void select(std::span<RowSet> sets, const Moment& moment) const {
    if (scorer->decides == Decides::once && !moment.end_of_prompt) {
      for (RowSet& set : sets) { select_decoded(set, moment); }
    } else if (allocator->sees == Scope::lane && scorer->compare == nullptr) {
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
    if (scorer->compare != nullptr) { compare(sets, moment); }
    if (moment.end_of_prompt && budget.bytes_of == 0) {
      const double even = budget.fraction_of > 0.0 ? budget.fraction_of * static_cast<double>(moment.prompt_tokens - moment.padding)
                                                   : static_cast<double>(budget.rows_of);
      Vector<LaneFacts> facts(Allocator<LaneFacts>(scratch.numbers.get_allocator()));
      if (allocator->needs_facts) {
        for (const RowSet& set : sets) {
          for (const LaneView& lane : set.lanes) { facts.push_back(scorer->facts(scorer.options, lane, set.rows, moment)); }
        }
      }
      allocator->allocate(allocator.options, {sets, scratch.scores, protected_rows(sets.front().budget), even, moment, facts},
                          scratch.budgets);
    }
    for (std::size_t i = 0; i < sets.size(); ++i) {
      RowSet& set = sets[i];
      set.budget = scratch.budgets[i];
      set.scores = scratch.scores[i];
      const std::size_t decoded =
          scorer->decides == Decides::once && budget.bytes_of > 0 ? std::min(decoded_rows(decode_budget, set.budget), set.budget - 1) : 0;
      if (due(set)) {
        selector->choose(selector.options, set, scratch.scores[i], protected_rows(set.budget - decoded), set.budget - decoded);
      }
    }
  }
  [[nodiscard]] std::size_t newest_rows(std::size_t rows) const { return recent != 0 ? recent : scorer->recent(scorer.options, rows); }
  [[nodiscard]] Protected protected_rows(std::size_t rows) const {
    const std::size_t newest = std::min(newest_rows(rows), rows);
    return {std::min(sinks, rows - newest), newest};
  }
  /// The scores of a set, those of its lanes added.
  [[nodiscard]] std::span<const float> scores_of(RowSet& set, const Moment& moment, std::span<float> room) const {
    std::span<const float> scores;
    if (set.lanes.size() == 1) {
      scores = scorer->score(scorer.options, set.lanes.front(), set.rows, moment, room);
    } else {
      Vector<double>& sums = moment.scratch.sums;
      sums.assign(room.size(), 0.0);
      for (const LaneView& lane : set.lanes) {
        const std::span<const float> own = scorer->score(scorer.options, lane, set.rows, moment, room);
        for (std::size_t r = 0; r < own.size(); ++r) { sums[r] += static_cast<double>(own[r]); }
      }
      std::transform(sums.begin(), sums.end(), room.begin(), [](double sum) { return static_cast<float>(sum); });
      scores = room;
    }
    const bool changed = scorer->join != nullptr || scorer->compare != nullptr;
    if (changed && scores.data() != room.data()) { std::copy(scores.begin(), scores.end(), room.begin()); }
    if (scorer->join != nullptr) { scorer->join(scorer.options, set, room, moment); }
    return changed ? room : scores;
  }
  /// All scores lie in scratch.numbers.
  void compare(std::span<RowSet> sets, const Moment& moment) const {
    DecisionScratch& scratch = moment.scratch;
    Vector<std::span<float>> all(Allocator<std::span<float>>(scratch.numbers.get_allocator()));
    for (const std::span<const float> own : scratch.scores) {
      all.emplace_back(scratch.numbers.data() + (own.data() - scratch.numbers.data()), own.size());
    }
    for (std::size_t first = 0, last = 0; first < sets.size(); first = last) {  // layer by layer
      const auto layer = [&](std::size_t i) { return sets[i].lanes.front().site.layer; };
      while (last < sets.size() && layer(last) == layer(first)) { ++last; }
      scorer->compare(scorer.options, sets.subspan(first, last - first), std::span(all).subspan(first, last - first), moment);
    }
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
/// Of parts that are known.
template <Scorer S, BudgetAllocator A, Selector X>
Deciding deciding(const typename S::Options& scorer, const typename A::Options& allocator, const typename X::Options& selector,
                  const Budget& budget, std::size_t sinks, std::size_t recent, std::size_t period, std::size_t decode_budget) {
  return {{&scorer_functions_of<S>, &scorer},
          in_use(allocator_functions_of<A>, allocator),
          in_use(selector_functions_of<X>, selector),
          budget,
          sinks,
          recent,
          period,
          decode_budget};
}

}  // namespace kvcompress::inline KVCOMPRESS_ABI::detail
