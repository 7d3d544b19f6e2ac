// include/kvcompress/any/any_parts.hpp - the allocator and the selector of an eviction, chosen at run time.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "kvcompress/any/eviction_ops.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/in_layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// What a decision asks of a part, and what saved caches do.
template <class Functions>
struct PartOps : Functions {
  Saving saving;
};
template <BudgetAllocator A>
inline constexpr PartOps<AllocatorFunctions> allocator_ops_of{allocator_functions_of<A>, saving_of<A>};
template <Selector X>
inline constexpr PartOps<SelectorFunctions> selector_ops_of{selector_functions_of<X>, saving_of<X>};

}  // namespace detail

/// An allocator that is chosen at run time: `AnyAllocator::of<Ada>({.floor = 0.5})`.
struct AnyAllocator {
  using Ops = detail::PartOps<detail::AllocatorFunctions>;
  static constexpr std::string_view name = "any_allocator";
  static constexpr Scope sees = Scope::layer;  // at most

  template <BudgetAllocator A>
  [[nodiscard]] static detail::Choice<Ops> of(const typename A::Options& options = {}) {
    return {&detail::allocator_ops_of<A>, std::make_shared<const typename A::Options>(options)};
  }
  struct Options {
    detail::Choice<Ops> chosen = of<Uniform>();
    static void fields(auto&, auto&&) {}
  };
  static void validate(const Options& options, const Shape& shape) { options.chosen.ops->validate(options.chosen.options.get(), shape); }
  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    options.chosen.ops->allocate(options.chosen.options.get(), allocation, budgets);
  }
};

/// A selector that is chosen at run time, and whether the heads of a layer keep the same rows by it, as with a scorer that is InLayer.
struct AnySelector {
  using Ops = detail::PartOps<detail::SelectorFunctions>;
  static constexpr std::string_view name = "any_selector";

  template <Selector X>
  [[nodiscard]] static detail::Choice<Ops> of(const typename X::Options& options = {}) {
    return {&detail::selector_ops_of<X>, std::make_shared<const typename X::Options>(options)};
  }
  struct Options {
    detail::Choice<Ops> chosen = of<Best>();
    Scope agrees = Scope::lane;
    static void fields(auto&, auto&&) {}
  };
  static void validate(const Options& options, const Shape& shape) { options.chosen.ops->validate(options.chosen.options.get(), shape); }
  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    options.chosen.ops->choose(options.chosen.options.get(), set, scores, protected_rows, budget);
  }
};

namespace detail {

/// An eviction as it is compiled where it is chosen at run time: one for each scorer, whatever allocator and selector stand beside it.
template <class E>
struct AtRunTime {
  using Eviction = E;
  static const typename E::Options& options(const typename E::Options& given) noexcept { return given; }
};
template <Scorer S, BudgetAllocator A, Selector X>
struct PartsAtRunTime {
  using Eviction = Evict<S, AnyAllocator, AnySelector>;
  static typename Eviction::Options options(const auto& given, Scope agrees = Scope::lane) {
    typename Eviction::Options all{.budget = given.budget,
                                   .sinks = given.sinks,
                                   .recent = given.recent,
                                   .period = given.period,
                                   .decode_budget = given.decode_budget,
                                   .scorer = given.scorer};
    all.allocator.chosen = AnyAllocator::of<A>(given.allocator);
    all.selector = {AnySelector::of<X>(given.selector), agrees};
    return all;
  }
};
template <Scorer S, BudgetAllocator A, Selector X>
struct AtRunTime<Evict<S, A, X>> : PartsAtRunTime<S, A, X> {};
template <Scorer S, BudgetAllocator A, Selector X>
struct AtRunTime<Evict<InLayer<S>, A, X>> : PartsAtRunTime<S, A, X> {
  static auto options(const auto& given) { return PartsAtRunTime<S, A, X>::options(given, Scope::layer); }
};
template <Scorer S>
struct AtRunTime<Evict<S, AnyAllocator, AnySelector>> {
  using Eviction = Evict<S, AnyAllocator, AnySelector>;
  static const typename Eviction::Options& options(const typename Eviction::Options& given) noexcept { return given; }
};

/// Whether an eviction is made of parts, which can be replaced at run time.
template <class E>
inline constexpr bool made_of_parts = false;
template <Scorer S, BudgetAllocator A, Selector X>
inline constexpr bool made_of_parts<Evict<S, A, X>> = true;

/// The functions of an eviction whose other parts say that the heads of a layer keep the same rows, or that all layers decide together.
template <Eviction E, Scope agrees, bool model>
inline constexpr EvictionOps ops_with = [] {
  EvictionOps ops = eviction_ops_of<E>;
  ops.needs.agrees = std::max(ops.needs.agrees, agrees);
  ops.needs.model = model;
  return ops;
}();
template <Eviction E>
const EvictionOps& ops_for([[maybe_unused]] const typename E::Options& options) noexcept {
  if constexpr (made_of_parts<E>) {
    const bool model = options.allocator.chosen.ops->sees == Scope::model;
    if (E::agrees(options) != E::may.agrees) { return model ? ops_with<E, Scope::layer, true> : ops_with<E, Scope::layer, false>; }
    if (model) { return ops_with<E, Scope::lane, true>; }
  }
  return eviction_ops_of<E>;
}

}  // namespace detail

}  // namespace kvcompress
