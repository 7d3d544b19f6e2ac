// include/kvcompress/registry/resolve.hpp - the parts that a clause of a policy names, axis by axis, and what they choose for its lanes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcompress/cache/composition.hpp"
#include "kvcompress/registry/named_part.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// A part and its settings, at one of the places that a clause has for parts.
struct Place {
  const NamedPart* part = nullptr;  // null: nothing is said, which means keep all, f16, read all
  PartSpec spec{};
};
/// What stands behind an eviction: an allocator, a selector, an agreement, a fate.
struct PlaceBeside {
  const NamedBeside* part;
  PartSpec spec;
};
/// What a clause names.
struct Places {
  Place eviction{};
  std::vector<PlaceBeside> beside{};
  Place keys{};
  Place values{};
  Place retrieval{};
};

/// What a clause chooses, and for each place a text: what has the same one in two clauses is chosen once, so that its lanes may be encoded together.
struct ClauseChoices {
  PartChoices eviction;
  PartChoices keys;
  PartChoices values;
  PartChoices retrieval;
  std::string eviction_text;
  std::string keys_text;
  std::string values_text;
  std::string retrieval_text;

  /// The sentence of the rule that they break, or nothing.
  [[nodiscard]] std::string_view broken_rule() const noexcept {
    const bool needs_retrieval = keys.needs_retrieval || values.needs_retrieval;
    return Rules::broken(eviction.needs, keys.keys.ops->facts, values.values.ops->facts, needs_retrieval, retrieval.retrieves,
                         retrieval.retrieval.ops->follows_writes);
  }
};

/// Chooses for the clauses of one policy.
class Chooser {
 public:
  /// `heads_differ`: KV heads of one layer have other clauses.
  [[nodiscard]] ClauseChoices choose(const Places& places, bool heads_differ) {
    ClauseChoices all;
    all.eviction = made(places.eviction, false, all.eviction_text, places.beside);
    const bool for_heads = heads_differ || (all.eviction.needs.decides != Decides::never && all.eviction.needs.agrees == Scope::lane);
    all.keys = made(places.keys, for_heads, all.keys_text);
    all.values = made(places.values, for_heads, all.values_text);
    all.retrieval = made(places.retrieval, for_heads, all.retrieval_text);
    ++clause_;
    if (places.eviction.part != nullptr) { all.eviction_text += "#" + std::to_string(clause_); }  // lanes of one clause decide together
    return all;
  }

 private:
  struct KeepEverything {
    using Eviction = KeepAll;
    using Storage = ExactStorage<half>;
    using Retrieval = ReadAll;
  };
  static void add_text(const PartSpec& spec, bool in_heads, std::string& text) {
    text += spec.name + (in_heads ? "," : ":");
    std::vector<std::string> settings;
    for (const PartSpec::Setting& setting : spec.settings) { settings.push_back(setting.key + "=" + setting.value); }
    std::sort(settings.begin(), settings.end());
    for (const std::string& setting : settings) { text += setting + ","; }
  }
  PartChoices made(const Place& place, bool for_heads, std::string& text, const std::vector<PlaceBeside>& besides = {}) {
    const bool in_heads = for_heads && place.part != nullptr && place.part->choose_for_heads != nullptr;
    text.clear();
    if (place.part != nullptr) { add_text(place.spec, in_heads, text); }
    for (const PlaceBeside& one : besides) { add_text(one.spec, false, text += "+"); }
    for (const auto& [known, choices] : made_) {
      if (known == text) { return choices; }
    }
    BesideEviction beside;
    for (const PlaceBeside& one : besides) {
      const OptionsByName options = one.part->options();
      apply_settings(one.spec, options.names);
      one.part->choose(options.values.get(), beside);
    }
    const Choosing& choose = place.part == nullptr ? choosing_of<KeepEverything>
                             : in_heads            ? *place.part->choose_for_heads
                                                   : *place.part->choose;
    const PartChoices choices = choose(place.spec, beside);
    made_.emplace_back(text, choices);
    return choices;
  }

  std::vector<std::pair<std::string, PartChoices>> made_;
  std::size_t clause_ = 0;
};

/// `clause_of`: which clause each lane has. Entries come in the order of their first lanes.
template <class Choice>
auto choices_of_lanes(std::span<const std::size_t> clause_of, std::span<const ClauseChoices> clauses, PartChoices ClauseChoices::*place,
                      Choice PartChoices::*choice, std::string ClauseChoices::*text) {
  Choices<std::remove_cvref_t<decltype(*Choice{}.ops)>> all;
  std::vector<std::string> texts;
  for (const std::size_t clause : clause_of) {
    const ClauseChoices& one = clauses[clause];
    const auto known = std::find(texts.begin(), texts.end(), one.*text);
    all.of_lane.push_back(static_cast<std::uint16_t>(known - texts.begin()));
    if (known != texts.end()) { continue; }
    texts.push_back(one.*text);
    all.entries.push_back(one.*place.*choice);
  }
  if (texts.size() == 1) { all.of_lane.clear(); }
  return all;
}

}  // namespace kvcompress::detail
