// include/kvcompress/any/any_eviction.hpp - an eviction that is chosen at run time, lane by lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "kvcompress/any/any_parts.hpp"
#include "kvcompress/eviction/keep_all.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// An eviction chosen at run time, for each lane: `options.chosen.entries = {AnyEviction::of<HeavyHitters>({.budget = 256})}`. What it gives is
/// what the chosen one gives, bit for bit; by default every row stays. Lanes with one entry decide together, never with those of another; lanes
/// whose rows must be the same have the same entry. A call through a table of functions per observed query, and some per lane and commit. Memory
/// beside that of the chosen one: its State, under indices.
struct AnyEviction {
  using Ops = detail::EvictionOps;
  static constexpr std::string_view name = "any_eviction";
  static constexpr Needs may{
      .observes = Observes::as_options_say, .queries = true, .rewrites = true, .weighs = true, .colder = true, .model = true};

  template <Eviction E>
  [[nodiscard]] static detail::Choice<Ops> of(const typename E::Options& options = {}) {
    using Chosen = typename detail::AtRunTime<E>::Eviction;
    auto own = std::make_shared<const typename Chosen::Options>(detail::AtRunTime<E>::options(options));
    return {&detail::ops_for<Chosen>(*own), std::move(own)};
  }
  struct Options {
    detail::Choices<Ops> chosen{{of<KeepAll>()}, {}};
    static void fields(auto&, auto&&) {}
  };

  /// The State of one lane.
  class State : public detail::ChosenState<Ops> {
   public:
    using detail::ChosenState<Ops>::ChosenState;
    [[nodiscard]] const Needs& needs() const noexcept { return ops().needs; }
  };

  static void validate(const Options& options, const Shape& shape) {
    options.chosen.validate("eviction", shape);
    for (const auto& entry : options.chosen.entries) { entry.ops->validate(entry.options.get(), shape); }
    for (std::size_t layer = 0; !options.chosen.of_lane.empty() && layer < shape.layers; ++layer) {
      for (std::size_t head = 0; head < shape.of(layer).kv_heads; ++head) { check_lane(options, {layer, head, shape}); }
    }
  }
  /// Where lanes may differ.
  static void check_lane(const Options& options, const Site& site) {
    const Shape& shape = site.model;
    const Ops& ops = *options.chosen.at(site).ops;
    const Ops& of_first = *options.chosen.at({site.layer, 0, shape}).ops;
    const bool together = ops.needs.agrees == Scope::layer || of_first.needs.agrees == Scope::layer;
    require(!together || options.chosen.entry_of(site) == options.chosen.entry_of({site.layer, 0, shape}), ErrorCode::option,
            ops.needs.agrees == Scope::layer ? ops.name : of_first.name, " is chosen for some heads of layer ", site.layer,
            ", must be chosen for all: it decides for all heads of a layer together");
    const Budget* const budget = ops.budget != nullptr ? ops.budget(options.chosen.at(site).options.get()) : nullptr;
    require(budget == nullptr || budget->bytes_of == 0 || options.chosen.entries.size() == 1, ErrorCode::option, ops.name, ": budget is ",
            budget != nullptr ? budget->bytes_of : 0, " bytes, must be rows or a fraction where lanes have different evictions");
  }
  static std::string_view name_of(const Options& options, const Site& site) noexcept { return options.chosen.at(site).ops->name; }
  static Needs needs(const Options& options, const Site& site) noexcept { return options.chosen.at(site).ops->needs; }
  /// Heads that evict differently keep rows of their own.
  static Scope agreement(const Options& options, const Shape& shape, std::size_t layer) noexcept {
    const Site first{layer, 0, shape};
    for (std::size_t head = 1; head < shape.of(layer).kv_heads; ++head) {
      if (options.chosen.entry_of({layer, head, shape}) != options.chosen.entry_of(first)) { return Scope::lane; }
    }
    return needs(options, first).agrees;
  }
  static bool renumbers(const Options& options) {
    for (const auto& entry : options.chosen.entries) {
      if (entry.ops->renumbers(entry.options.get())) { return true; }
    }
    return false;
  }
  static bool renumbers(const Options& options, const Site& site) { return ask(options, site, &Ops::renumbers); }
  static std::size_t row_bytes(const Options& options, const Site& site) { return ask(options, site, &Ops::row_bytes, site.shape); }
  static std::size_t row_bytes(const Options& options, const Shape& shape) { return row_bytes(options, {0, 0, shape}); }
  static const Budget* budget(const Options& options, const Site& site) { return ask(options, site, &Ops::budget); }
  static std::size_t decoded_rows(const Options& options, const Site& site, std::size_t rows) {
    return options.chosen.at(site).ops->decoded_rows != nullptr ? ask(options, site, &Ops::decoded_rows, rows) : rows;
  }
  static std::size_t least_rows(const Options& options, const Site& site) {
    return options.chosen.at(site).ops->least_rows != nullptr ? ask(options, site, &Ops::least_rows) : 1;
  }
  static std::size_t window(const Options& options, const Site& site) { return ask(options, site, &Ops::window); }

  static State state(const Options& options, const Site& site, const Memory& memory) { return {options.chosen.at(site), site, memory}; }
  static void start(const Options&, State& state) {
    if (state.ops().start != nullptr) { state.ops().start(state.options(), state.inner()); }
  }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) {
    state.ops().observe(state.options(), state.inner(), head, probabilities);
  }
  static void observe_row(const Options&, State& state, std::size_t row, std::span<const float> key, std::span<const float> value) {
    if (state.ops().observe_row != nullptr) { state.ops().observe_row(state.options(), state.inner(), row, key, value); }
  }
  static void make_room_for_queries(const Options&, State& state, const Shape& shape) {
    state.ops().make_room_for_queries(state.options(), state.inner(), shape);
  }
  static void observe_query(const Options&, State& state, std::size_t head, const float* query) noexcept {
    state.ops().observe_query(state.options(), state.inner(), head, query);
  }
  /// Lanes in `sets` show the States of their evictions. Those that do not decide over the model see one layer at a time.
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    const auto& entries = options.chosen.entries;
    if (entries.size() == 1) { return entries.front().ops->select(entries.front().options.get(), sets, moment); }
    Vector<RowSet>& together = moment.scratch.sets;
    for (std::size_t entry = 0; entry < entries.size(); ++entry) {
      const auto decide = [&] {
        if (!together.empty()) { entries[entry].ops->select(entries[entry].options.get(), together, moment); }
        together.clear();
      };
      together.clear();
      for (const RowSet& set : sets) {
        const Site& site = set.lanes.front().site;
        if (options.chosen.entry_of(site) != entry) { continue; }
        if (!entries[entry].ops->needs.model && !together.empty() && together.front().lanes.front().site.layer != site.layer) { decide(); }
        together.push_back(set);
      }
      decide();
    }
  }

 private:
  template <class Answer, class... Asked>
  static Answer ask(const Options& options, const Site& site, Answer (*Ops::*question)(const void*, Asked...),
                    const std::type_identity_t<Asked>&... asked) {
    const auto& choice = options.chosen.at(site);
    return choice.ops->*question == nullptr ? Answer{} : (choice.ops->*question)(choice.options.get(), asked...);
  }
};

}  // namespace kvcompress
