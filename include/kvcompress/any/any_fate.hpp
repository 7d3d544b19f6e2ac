// include/kvcompress/any/any_fate.hpp - a disposer that is chosen at run time, for an eviction that is, too.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "kvcompress/any/eviction_ops.hpp"
#include "kvcompress/eviction/dispose.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// What a disposer provides, as a table of functions: see the concept Disposer.
struct DisposerOps : StateOps {
  Needs needs;
  bool weighs_by_lane;
  void (*validate)(const void* options, const Shape& shape);
  std::size_t (*row_bytes)(const void* options, const Shape& shape);
  void (*observe)(const void* options, void* state, std::size_t head, std::span<const float> probabilities);  // or null
  void (*dispose)(const void* options, std::span<RowSet> sets, const Moment& moment);
};
template <Disposer D>
inline constexpr DisposerOps disposer_ops_of = [] {
  using Options = typename D::Options;
  DisposerOps ops{};
  static_cast<StateOps&>(ops) = state_ops_of<D>();
  ops.needs = D::may;
  ops.weighs_by_lane = weighs_by_lane<D>;
  ops.validate = [](const void* o, const Shape& shape) { D::validate(*static_cast<const Options*>(o), shape); };
  ops.row_bytes = [](const void* o, const Shape& shape) { return D::row_bytes(*static_cast<const Options*>(o), shape); };
  if constexpr (D::may.observes != Observes::nothing) {
    ops.observe = [](const void* o, void* s, std::size_t head, std::span<const float> probabilities) {
      D::observe(*static_cast<const Options*>(o), *static_cast<typename D::State*>(s), head, probabilities);
    };
  }
  ops.dispose = [](const void* o, std::span<RowSet> sets, const Moment& moment) {
    D::dispose(*static_cast<const Options*>(o), sets, moment);
  };
  return ops;
}();

/// Disposed<E, D> of parts that are both chosen at run time: what it gives is what that gives, bit for bit, and both read each other's files. Its table
/// of functions lies beside the choice.
struct AnyDisposed {
  static constexpr std::string_view name = "any_disposed";
  using State = BothStates<ChosenState<EvictionOps>, ChosenState<DisposerOps>>;
  struct Options {
    EvictionOps ops{};
    Choice<EvictionOps> eviction{};
    Choice<DisposerOps> fate{};
    static void fields(auto&, auto&&) {}
  };

  [[nodiscard]] static Choice<EvictionOps> of(Choice<EvictionOps> eviction, Choice<DisposerOps> fate) {
    const auto both = std::make_shared<Options>();
    both->eviction = std::move(eviction);
    both->fate = std::move(fate);
    both->ops = table(*both);
    return {&both->ops, both};
  }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    return {{options.eviction, site, memory}, {options.fate, site, memory}};
  }

 private:
  static const Options& of(const void* options) noexcept { return *static_cast<const Options*>(options); }
  static State& in(void* state) noexcept { return *static_cast<State*>(state); }
  static const void* inner(const void* options) noexcept { return of(options).eviction.options.get(); }
  static const void* fate(const void* options) noexcept { return of(options).fate.options.get(); }
  static const EvictionOps& ops_of(const void* options) noexcept { return *of(options).eviction.ops; }

  static EvictionOps table(const Options& both) noexcept {
    const EvictionOps& own = *both.eviction.ops;
    EvictionOps ops{};
    static_cast<StateOps&>(ops) = state_ops_of<AnyDisposed>();
    ops.name = own.name;
    ops.needs = with_fate(own.needs, both.fate.ops->needs);
    ops.validate = [](const void* o, const Shape& shape) {
      const Options& options = of(o);
      check_fate(ops_of(o).name, options.fate.ops->name, ops_of(o).needs, options.fate.ops->needs, options.fate.ops->weighs_by_lane);
      ops_of(o).validate(inner(o), shape);
      options.fate.ops->validate(fate(o), shape);
    };
    ops.renumbers = [](const void* o) { return ops_of(o).renumbers(inner(o)); };
    ops.row_bytes = [](const void* o, const Shape& shape) {
      return ops_of(o).row_bytes(inner(o), shape) + of(o).fate.ops->row_bytes(fate(o), shape);
    };
    ops.select = &select;
    bound(ops, own);
    observe(ops, own);
    if (own.write == nullptr || both.fate.ops->write == nullptr) { ops.write = nullptr; }
    ops.saving = saving();
    return ops;
  }
  static void bound(EvictionOps& ops, const EvictionOps& own) noexcept {
    if (own.budget != nullptr) {
      ops.budget = [](const void* o) { return ops_of(o).budget(inner(o)); };
    }
    if (own.decoded_rows != nullptr) {
      ops.decoded_rows = [](const void* o, std::size_t rows) { return ops_of(o).decoded_rows(inner(o), rows); };
    }
    if (own.least_rows != nullptr) {
      ops.least_rows = [](const void* o) { return ops_of(o).least_rows(inner(o)); };
    }
    if (own.needs_tokens != nullptr) {
      ops.needs_tokens = [](const void* o) noexcept { return ops_of(o).needs_tokens(inner(o)); };
    }
    if (own.window != nullptr) {
      ops.window = [](const void* o) { return ops_of(o).window(inner(o)); };
    }
  }
  static void observe(EvictionOps& ops, const EvictionOps& own) noexcept {
    if (own.start != nullptr) {
      ops.start = [](const void* o, void* s) { ops_of(o).start(inner(o), in(s).eviction.inner()); };
    }
    if (ops.needs.observes != Observes::nothing) {
      ops.observe = [](const void* o, void* s, std::size_t head, std::span<const float> probabilities) {
        if (ops_of(o).observe != nullptr) { ops_of(o).observe(inner(o), in(s).eviction.inner(), head, probabilities); }
        if (of(o).fate.ops->observe != nullptr) { of(o).fate.ops->observe(fate(o), in(s).fate.inner(), head, probabilities); }
      };
    }
    if (own.observe_row != nullptr) {
      ops.observe_row = [](const void* o, void* s, std::size_t row, std::span<const float> key, std::span<const float> value) {
        ops_of(o).observe_row(inner(o), in(s).eviction.inner(), row, key, value);
      };
    }
    if (own.observe_query != nullptr) {
      ops.make_room_for_queries = [](const void* o, void* s, const Shape& shape) {
        ops_of(o).make_room_for_queries(inner(o), in(s).eviction.inner(), shape);
      };
      ops.observe_query = [](const void* o, void* s, std::size_t head, const float* query) noexcept {
        ops_of(o).observe_query(inner(o), in(s).eviction.inner(), head, query);
      };
    }
  }
  static void select(const void* o, std::span<RowSet> sets, const Moment& moment) {
    SetsOfParts parts(sets, moment);
    parts.show([](const LaneView& lane) { return lane.state<State>().eviction.inner(); });
    ops_of(o).select(inner(o), parts.sets(), moment);
    parts.show([](const LaneView& lane) { return lane.state<State>().fate.inner(); });
    of(o).fate.ops->dispose(fate(o), parts.sets(), moment);
  }
  static Saving saving() noexcept {
    constexpr auto facts = [](const void* o, const auto& fact) {
      ops_of(o).saving.facts(inner(o), fact);
      fact("fate", of(o).fate.ops->name);
    };
    constexpr auto options = [](const void* o, auto& archive, std::string_view prefix) {
      ops_of(o).saving.options(inner(o), archive, prefix);
      of(o).fate.ops->saving.options(fate(o), archive, prefix);
    };
    return Saving{facts, facts, options, options};
  }
};

}  // namespace kvcompress::detail
