// include/kvcompress/eviction/parts.hpp - the parts of an eviction: what rows are worth, how a budget is shared out, which rows stay.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What the rows of a lane are worth. Static functions over an Options value and a State per lane:
///
/// may, validate, state, row_bytes, and the functions that go with what `may` observes: as Eviction.
/// score(options, lane, rows, moment, out): one number a row, larger stays; written to `out`, or where the State has them.
/// join(options, set, scores, moment), if there is one: changes the scores of a set once those of its lanes are added, as pooling does.
/// compare(options, sets, scores, moment), if there is one: changes the scores of all sets of a layer, as a common scale does.
/// facts(options, lane, rows, moment), if there is one: a LaneFacts of a lane whose rows have been scored, for allocators that need facts.
/// sinks, if there is one: the oldest rows that stay by default.
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

/// Shares out the budget at the end of a prompt among the lanes that it `sees`, those of the whole model with Scope::model: allocate(options, allocation, budgets) changes the rows of
/// every set from what they are when all sets get the same. validate(options), or validate(options, shape). With `needs_facts` it goes with
/// scorers that have facts only.
template <class A>
concept BudgetAllocator = std::semiregular<typename A::Options> &&
    requires(const typename A::Options options, const Allocation& allocation, std::span<std::size_t> budgets) {
  { A::name } -> std::convertible_to<std::string_view>;
  { A::sees } -> std::convertible_to<Scope>;
  A::allocate(options, allocation, budgets);
};

/// Marks the rows of a set that go, so that `budget` stay: choose(options, set, scores, protected_rows, budget). validate(options) or
/// validate(options, shape), if there is one.
template <class X>
concept Selector = std::semiregular<typename X::Options> &&
    requires(const typename X::Options options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
             std::size_t budget) {
  { X::name } -> std::convertible_to<std::string_view>;
  X::choose(options, set, scores, protected_rows, budget);
};

namespace detail {

/// What a decision asks of a scorer, as functions over its Options. Those that it lacks are null.
struct ScorerFunctions {
  std::string_view name;
  Decides decides;
  std::span<const float> (*score)(const void* options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                  std::span<float> out);
  void (*join)(const void* options, RowSet& set, std::span<float> scores, const Moment& moment);
  void (*compare)(const void* options, std::span<RowSet> sets, std::span<const std::span<float>> scores, const Moment& moment);
  LaneFacts (*facts)(const void* options, const LaneView& lane, const RowTable& rows, const Moment& moment);
  std::size_t (*recent)(const void* options, std::size_t budget);
};
struct AllocatorFunctions {
  std::string_view name;
  Scope sees;
  bool needs_facts;
  void (*validate)(const void* options, const Shape& shape);
  void (*allocate)(const void* options, const Allocation& allocation, std::span<std::size_t> budgets);
};
struct SelectorFunctions {
  std::string_view name;
  void (*validate)(const void* options, const Shape& shape);
  void (*choose)(const void* options, RowSet& set, std::span<const float> scores, const Protected& protected_rows, std::size_t budget);
  bool needs_tokens;
};

template <class Part>
const typename Part::Options& options_of(const void* options) noexcept {
  return *static_cast<const typename Part::Options*>(options);
}
template <class Part>
void validate_part(const void* options, const Shape& shape) {
  if constexpr (requires { Part::validate(options_of<Part>(options), shape); }) {
    Part::validate(options_of<Part>(options), shape);
  } else if constexpr (requires { Part::validate(options_of<Part>(options)); }) {
    Part::validate(options_of<Part>(options));
  }
}

template <Scorer S>
inline constexpr ScorerFunctions scorer_functions_of = [] {
  ScorerFunctions all{S::name, S::may.decides, nullptr, nullptr, nullptr, nullptr, nullptr};
  all.score = [](const void* o, const LaneView& lane, const RowTable& rows, const Moment& moment, std::span<float> out) {
    return S::score(options_of<S>(o), lane, rows, moment, out);
  };
  if constexpr (requires(const typename S::Options& o, RowSet& set, std::span<float> scores, const Moment& moment) {
                  S::join(o, set, scores, moment);
                }) {
    all.join = [](const void* o, RowSet& set, std::span<float> scores, const Moment& moment) {
      S::join(options_of<S>(o), set, scores, moment);
    };
  }
  if constexpr (requires(const typename S::Options& o, std::span<RowSet> sets, std::span<const std::span<float>> scores,
                         const Moment& moment) { S::compare(o, sets, scores, moment); }) {
    all.compare = [](const void* o, std::span<RowSet> sets, std::span<const std::span<float>> scores, const Moment& moment) {
      S::compare(options_of<S>(o), sets, scores, moment);
    };
  }
  if constexpr (requires(const typename S::Options& o, const LaneView& lane, const RowTable& rows, const Moment& moment) {
                  S::facts(o, lane, rows, moment);
                }) {
    all.facts = [](const void* o, const LaneView& lane, const RowTable& rows, const Moment& moment) -> LaneFacts {
      return S::facts(options_of<S>(o), lane, rows, moment);
    };
  }
  all.recent = [](const void* o, std::size_t budget) { return S::recent(options_of<S>(o), budget); };
  return all;
}();
template <BudgetAllocator A>
inline constexpr AllocatorFunctions allocator_functions_of = {A::name, A::sees, requires {A::needs_facts;
}
, &validate_part<A>,
    [](const void* o, const Allocation& allocation, std::span<std::size_t> budgets) { A::allocate(options_of<A>(o), allocation, budgets); }
};
template <Selector X>
inline constexpr SelectorFunctions selector_functions_of = {
    X::name, &validate_part<X>,
    [](const void* o, RowSet& set, std::span<const float> scores, const Protected& protected_rows, std::size_t budget) {
  X::choose(options_of<X>(o), set, scores, protected_rows, budget);
    },
    NeedsTokens<X>};

/// The functions of a part and its options. A part that is chosen at run time names both in its options, as `chosen`.
template <class Functions>
struct PartInUse {
  const Functions* functions;
  const void* options;
  [[nodiscard]] const Functions* operator->() const noexcept { return functions; }
};
template <class Functions>
PartInUse<Functions> in_use(const Functions& functions, const auto& options) noexcept {
  if constexpr (requires { options.chosen.ops; }) {
    return {options.chosen.ops, options.chosen.options.get()};
  } else {
    return {&functions, &options};
  }
}

}  // namespace detail
}  // namespace kvcompress
