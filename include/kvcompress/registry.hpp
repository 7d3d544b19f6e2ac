// include/kvcompress/registry.hpp - policies by name: "h2o:budget=256,recent=128+kivi2:residual=64" becomes a cache.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcompress/registry/resolve.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Parts of policies by name; standard_registry.hpp has all of the library's. A policy is an eviction, a storage, a retrieval, or several joined
/// by '+', in any order, and what becomes of the rows that the eviction drops ("h2o+merge"); no eviction keeps all, no storage is f16 ("full"), no retrieval reads all. An option means the same in every
/// combination. Keys and values may be held in different ways: "keys=kivi4,values=kivi2".
///
/// An eviction that scores rows may have another allocator and another selector behind it, each with options of its own, and the heads of a layer
/// may keep the same rows: "snapkv:budget=25%,window=32+adakv:floor=0.3", "knorm+in_layer+chunkkv:length=10". The first name of an eviction is
/// the eviction, what follows it is its allocator or selector: "adakv" alone is AdaKV, "tova+adakv" is TOVA with AdaKV's budgets.
///
/// Lanes may differ: "layers 0-1: f16; heads 3.0-2,5.1: streaming:sinks=64,window=256; rest: snapkv:budget=25%+kivi4". Of several clauses the
/// first that names a lane has it; "heads 3.0-2" are KV heads of layer 3, "heads duo.tsv" those of a file of gates (a line per layer, a number per KV
/// head) whose gate is below 1/2: "heads duo.tsv<0.3", "heads duo.tsv>=0.3", and by share, as DuoAttention's sparsity, "heads duo.tsv<50%". Lanes that an eviction shares a budget among are those of one clause.
///
/// A text with ',', '+' or ';' in it cannot be a value.
class Registry {
 public:
  /// Adds part P, of one axis or of several (ShadowKV), under a name. A part of your own works like the library's. `ForHeads`, if it is not void,
  /// is taken instead where the KV heads of a layer keep other rows or are held in other ways.
  template <PolicyPart P, class ForHeads = void>
  void add(std::string_view name) {
    add(name, detail::unnamed_part<P, ForHeads>());
  }
  /// Adds an allocator or a selector, to stand behind evictions that score rows; it may have the name of an eviction.
  template <BudgetAllocator A>
  void add_allocator(std::string_view name) {
    check_name_beside(name);
    beside_.push_back(detail::named_beside(name, "allocator", &detail::part_by_name<typename A::Options>, &detail::choose_allocator<A>));
  }
  template <Selector X>
  void add_selector(std::string_view name) {
    check_name_beside(name);
    beside_.push_back(detail::named_beside(name, "selector", &detail::part_by_name<typename X::Options>, &detail::choose_selector<X>));
  }
  /// Adds a word that stands behind evictions that score rows: the heads of a layer keep the same rows, by the sum of their scores.
  void add_agreement(std::string_view name) {
    check_name_beside(name);
    beside_.push_back(detail::named_beside(name, "agreement", &detail::part_by_name<Uniform::Options>,
                                           [](const void*, detail::BesideEviction& beside) { beside.in_layer = true; }));
  }
  /// Adds what becomes of the rows that an eviction drops: "snapkv+merge". It may stand behind any eviction.
  template <Disposer D>
  void add_fate(std::string_view name) {
    check_name_beside(name);
    beside_.push_back(detail::named_beside(name, "fate", &detail::part_by_name<typename D::Options>, &detail::choose_fate<D>));
  }
  /// Makes the cache that `policy` names; raises an Error that names an unknown part, option or value and what there is instead, or says why
  /// parts do not go together.
  [[nodiscard]] AnyCache make(std::string_view policy, const Shape& shape, const Memory& memory = {}) const {
    return AnyCache(shape, options(policy, shape), memory);
  }
  /// The options of that cache.
  [[nodiscard]] AnyCache::Options options(std::string_view policy, const Shape& shape) const {
    using detail::ClauseChoices;
    using detail::PartChoices;
    shape.validate();
    detail::LanesOfClauses lanes(policy, shape);
    detail::Chooser chooser;
    const std::vector<PolicyClause> texts = parse_clauses(policy);
    for (const PolicyClause& clause : texts) { lanes.add(clause.lanes); }
    std::vector<ClauseChoices> clauses;
    for (const PolicyClause& clause : texts) {
      const detail::Places places = places_of(policy, clause.parts);
      clauses.push_back(chooser.choose(places, lanes.shares_a_layer(clauses.size())));
      check_rules(policy, places, clauses.back());
    }
    const auto of_lanes = [&](auto... place) {
      return detail::choices_of_lanes(lanes.finish(), std::span<const ClauseChoices>(clauses), place...);
    };
    AnyCache::Options options;
    options.eviction.chosen = of_lanes(&ClauseChoices::eviction, &PartChoices::eviction, &ClauseChoices::eviction_text);
    options.storage.keys = of_lanes(&ClauseChoices::keys, &PartChoices::keys, &ClauseChoices::keys_text);
    options.storage.values = of_lanes(&ClauseChoices::values, &PartChoices::values, &ClauseChoices::values_text);
    options.retrieval.chosen = of_lanes(&ClauseChoices::retrieval, &PartChoices::retrieval, &ClauseChoices::retrieval_text);
    return options;
  }
  /// All parts: evictions, then what has a storage, then retrievals, then what stands behind evictions.
  [[nodiscard]] std::vector<PartInfo> parts() const {
    std::vector<PartInfo> all;
    for (const detail::NamedPart& part : parts_) { all.push_back(part.info); }
    for (const detail::NamedBeside& part : beside_) { all.push_back(part.info); }
    return all;
  }
  /// The names of all combinations of an eviction, a storage and a retrieval that go together, without settings. What stands behind an eviction
  /// makes no difference to that, but for in_layer, which only allows more.
  [[nodiscard]] std::vector<std::string> policies() const {
    std::vector<std::string> all;
    for_combinations([&](const std::string& name, const detail::ClauseChoices& choices) {
      if (choices.broken_rule().empty()) { all.push_back(name); }
    });
    return all;
  }
  /// The names of all others, each with the sentence that says why.
  [[nodiscard]] std::vector<std::pair<std::string, std::string_view>> refused() const {
    std::vector<std::pair<std::string, std::string_view>> all;
    for_combinations([&](const std::string& name, const detail::ClauseChoices& choices) {
      if (!choices.broken_rule().empty()) { all.emplace_back(name, choices.broken_rule()); }
    });
    return all;
  }

 private:
  static constexpr std::size_t eviction = 0;
  static constexpr std::size_t storage = 1;
  static constexpr std::size_t retrieval = 2;

  void add(std::string_view name, detail::NamedPart unnamed) {
    check_name(name);
    detail::NamedPart part = detail::named_part(name, std::move(unnamed));
    const auto behind = [&](const detail::NamedPart& other) { return other.first_axis() > part.first_axis(); };
    parts_.insert(std::find_if(parts_.begin(), parts_.end(), behind), std::move(part));
  }
  void check_name(std::string_view name) const {
    check_word(name);
    require(find(name) == nullptr, ErrorCode::option, "registry: ", name, " is given a second time, must be added once");
  }
  void check_name_beside(std::string_view name) const {
    check_word(name);
    require(find_beside(name) == nullptr, ErrorCode::option, "registry: ", name, " is given a second time, must be added once");
    const detail::NamedPart* const part = find(name);
    require(part == nullptr || part->first_axis() == eviction, ErrorCode::option, "registry: ", name, " is a ",
            part != nullptr ? part->info.kind : "", ", must be another name");
  }
  /// Not a name that make could not find, or would find elsewhere.
  static void check_word(std::string_view name) {
    require(!name.empty(), ErrorCode::option, "registry: a name is empty, must be the name of a part");
    require(name.find_first_of("+:;,= ") == std::string::npos, ErrorCode::option, "registry: the name \"", name,
            "\" is given, must be without any of + : ; , = and space");
    for (const std::string_view word : {"layers", "heads", "rest"}) {
      require(name != word, ErrorCode::option, "registry: the name \"", name, "\" is given, must be another one: it begins a clause");
    }
    require(name != "full", ErrorCode::option, "registry: the name \"full\" is given, must be another one: it means f16");
  }
  [[nodiscard]] const detail::NamedPart* find(std::string_view name) const noexcept {
    const auto found = std::find_if(parts_.begin(), parts_.end(), [&](const detail::NamedPart& part) { return part.info.name == name; });
    return found == parts_.end() ? nullptr : &*found;
  }
  [[nodiscard]] const detail::NamedBeside* find_beside(std::string_view name) const noexcept {
    const auto found = std::find_if(beside_.begin(), beside_.end(), [&](const auto& part) { return part.info.name == name; });
    return found == beside_.end() ? nullptr : &*found;
  }
  [[nodiscard]] const detail::NamedPart& part_named(const std::string& name) const {
    const detail::NamedPart* const part = find(name);
    if (part == nullptr) {
      std::string known;
      for (const detail::NamedPart& one : parts_) { known += ", " + one.info.name; }
      for (const detail::NamedBeside& one : beside_) {
        if (find(one.info.name) == nullptr) { known += ", " + one.info.name; }
      }
      fail(ErrorCode::option, "\"", name, "\" is no part of a policy, must be one of full", known);
    }
    return *part;
  }
  /// The parts that a clause names; f16 where it names no storage.
  [[nodiscard]] detail::Places places_of(std::string_view policy, std::string_view parts) const {
    detail::Places places;
    for (PartSpec& spec : parse_policy(parts)) {
      if (spec.name == "full") { spec.name = "f16"; }
      if (spec.name == "streaming_llm") { spec.name = "streaming"; }
      if (takes_beside(policy, spec, places)) { continue; }
      const detail::NamedPart& part = part_named(spec.name);
      require(spec.half == PartSpec::Half::both || part.axes == std::array{false, true, false}, ErrorCode::option, "policy \"", policy,
              "\": ", spec.half == PartSpec::Half::keys ? "keys" : "values", "=", spec.name, " is given, which is ", part.info.kind,
              ", must be a storage alone");
      if (part.axes[eviction]) { take(policy, "evictions", places.eviction, part, spec); }
      if (part.axes[storage] && spec.half != PartSpec::Half::values) { take(policy, "storages", places.keys, part, spec); }
      if (part.axes[storage] && spec.half != PartSpec::Half::keys) { take(policy, "storages", places.values, part, spec); }
      if (part.axes[retrieval]) { take(policy, "retrievals", places.retrieval, part, spec); }
    }
    const detail::NamedPart* const f16 = find("f16");
    for (detail::Place* place : {&places.keys, &places.values}) {
      if (place->part == nullptr && f16 != nullptr) { *place = {f16, {"f16", {}}}; }
    }
    return places;
  }
  /// Whether a part stands behind the eviction that the clause has named.
  bool takes_beside(std::string_view policy, const PartSpec& spec, detail::Places& places) const {
    const detail::NamedBeside* const part = find_beside(spec.name);
    const detail::NamedPart* const evicts = places.eviction.part;
    if (part == nullptr || spec.half != PartSpec::Half::both || (evicts == nullptr && find(spec.name) != nullptr)) { return false; }
    const bool fate = part->info.kind == "fate";
    require(evicts != nullptr, ErrorCode::option, "policy \"", policy, "\": ", spec.name, " is given, an eviction's ", part->info.kind,
            ", must stand behind an eviction", fate ? "" : " that scores rows", ", like snapkv+", spec.name);
    require(evicts->takes_parts || fate, ErrorCode::option, "policy \"", policy, "\": ", spec.name, " is given, an eviction's ",
            part->info.kind, ", must stand behind an eviction that scores rows, which ", evicts->info.name, " does not");
    for (const detail::PlaceBeside& other : places.beside) {
      require(other.part->info.kind != part->info.kind, ErrorCode::option, "policy \"", policy, "\" names two ", part->info.kind,
              "s: ", other.part->info.name, " and ", spec.name);
    }
    places.beside.push_back({part, spec});
    return true;
  }
  static void take(std::string_view policy, const char* kind, detail::Place& place, const detail::NamedPart& part, const PartSpec& spec) {
    const auto with_kind = [](const PartInfo& info) {
      return info.kind.find(' ') == std::string::npos ? info.name : info.name + " (" + info.kind + ")";
    };
    require(place.part == nullptr, ErrorCode::option, "policy \"", policy, "\" names two ", kind, ": ",
            place.part != nullptr ? with_kind(place.part->info) : "", " and ", with_kind(part.info));
    place = {&part, spec};
  }
  static void check_rules(std::string_view policy, const detail::Places& places, const detail::ClauseChoices& choices) {
    const std::string_view sentence = choices.broken_rule();
    if (sentence.empty()) { return; }
    std::vector<const PartInfo*> named;
    const auto add = [&](const detail::NamedPart* part) {
      if (part != nullptr) { named.push_back(&part->info); }
    };
    add(places.eviction.part);
    for (const detail::PlaceBeside& one : places.beside) {
      if (one.part->info.kind == "fate") { named.push_back(&one.part->info); }
    }
    for (const detail::Place* place : {&places.keys, &places.values, &places.retrieval}) { add(place->part); }
    std::string names;
    for (std::size_t i = 0; i < named.size(); ++i) {
      const auto end = named.begin() + static_cast<std::ptrdiff_t>(i);
      if (std::find(named.begin(), end, named[i]) == end) { names += (names.empty() ? "" : " with ") + named[i]->name; }
    }
    fail(ErrorCode::option, "policy \"", policy, "\": ", names, ": ", sentence);
  }

  /// Calls visit(name, choices) for every combination of parts with defaults, of those that have no axis in common.
  void for_combinations(auto&& visit) const {
    const auto candidates = [&](std::size_t axis, std::initializer_list<const detail::NamedPart*> before) {
      std::vector<const detail::NamedPart*> all;
      const bool open = std::none_of(before.begin(), before.end(), [&](const auto* part) { return part != nullptr && part->axes[axis]; });
      if (axis != storage || !open) { all.push_back(nullptr); }
      for (const detail::NamedPart& part : parts_) {
        const bool apart =
            std::none_of(before.begin(), before.end(), [&](const auto* other) { return other != nullptr && other->overlaps(part); });
        if (open && apart && part.first_axis() == axis) { all.push_back(&part); }
      }
      return all;
    };
    for (const detail::NamedPart* evicts : candidates(eviction, {})) {
      for (const detail::NamedPart* holds : candidates(storage, {evicts})) {
        for (const detail::NamedPart* reads : candidates(retrieval, {evicts, holds})) { visit_combination({evicts, holds, reads}, visit); }
      }
    }
  }
  static void visit_combination(std::initializer_list<const detail::NamedPart*> parts, auto&& visit) {
    detail::Places places;
    std::string name;
    const auto others = parts.size() - static_cast<std::size_t>(std::count(parts.begin(), parts.end(), nullptr)) - 1;
    for (const detail::NamedPart* part : parts) {
      if (part == nullptr) { continue; }
      const detail::Place place{part, {part->info.name, {}}};
      if (part->axes[eviction]) { places.eviction = place; }
      if (part->axes[storage]) { places.keys = places.values = place; }
      if (part->axes[retrieval]) { places.retrieval = place; }
      if (part->info.name != "f16" || others == 0) { name += (name.empty() ? "" : "+") + part->info.name; }
    }
    visit(name, detail::Chooser().choose(places, false));
  }

  std::vector<detail::NamedPart> parts_;
  std::vector<detail::NamedBeside> beside_;
};

}  // namespace kvcompress
