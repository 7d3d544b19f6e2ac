// examples/compare_policies/presets.hpp - lists of policies that stand under one word: what --policies front and evictions mean.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "compare_policies/policy_list.hpp"

namespace comparison {

/// How rows can be held from 1.5 to 6 bits: of each code the settings that its authors publish where they suit the size, of those that were made
/// here the best that were found (docs/benchmarks.md). Keys and values apart where that is better.
inline constexpr std::string_view front_list =
    "xkv:layers_per_group=6,rank_keys=24,rank_values=48,fold_in=64;xkv:layers_per_group=6,rank_keys=32,rank_values=64,fold_in=64;"
    "xkv:layers_per_group=6,rank_keys=48,rank_values=80,fold_in=64;xkv:layers_per_group=6,rank_keys=64,rank_values=96,fold_in=64;"
    "xkv:layers_per_group=3,rank_keys=48,rank_values=96,fold_in=64;"
    "kivi2;kivi3;kivi4;rot2;rot3;rot4;lm2;lm3;lm4;gear2:prompt_rank=2;gear4:prompt_rank=2;"
    "keys=lm3,values=lm2;keys=lm4,values=lm2;keys=lm4,values=lm3;keys=rot4,values=rot3;keys=kivi4,values=lm4";

/// Rows over its budget at which an eviction would decide again: so many that it decides at the end of the prompt only.
inline constexpr std::size_t never_again = 1U << 20U;

/// Every eviction of the registry in the ways that it can be run: from the prompt only, and while tokens are decoded. Its size is fitted so
/// that all of a kind take the same bytes; `budget` is where the search begins.
inline std::vector<Policy> eviction_policies(const std::vector<Part>& parts, std::size_t budget, std::size_t prompt_tokens) {
  std::vector<Policy> policies;
  const auto add = [&](const Part& part, const std::string& settings, Policy::Evicts when) {
    const std::string name = settings.empty() ? part.name : part.name + ":" + settings;
    Policy policy{name, with_defaults(name, budget, prompt_tokens, parts), part.name, "rows"};
    const Known known(part.name, parts);
    policy.fitted = known.has("budget") ? "budget" : known.has("sinks") ? "window" : "recent";
    policy.evicts = when;
    policies.push_back(std::move(policy));
  };
  for (const Policy::Evicts when : {Policy::Evicts::prompt, Policy::Evicts::decoding}) {
    const bool once = when == Policy::Evicts::prompt;
    for (const Part& part : parts) {
      if (part.kind != "eviction") { continue; }
      const Known known(part.name, parts);
      if (known.has("decode_budget")) {  // a quarter of the rows for decoded ones
        const std::size_t decoded = std::max<std::size_t>(1, budget / 4);
        add(part, once ? "" : "budget=" + std::to_string(budget - decoded) + ",decode_budget=" + std::to_string(decoded), when);
      } else if (known.has("period")) {
        add(part, once ? "period=" + std::to_string(never_again) : "", when);
      } else if (!once) {
        add(part, "", when);
      }
    }
  }
  return policies;
}

/// The number that a policy's text gives to an option of its first part; 0 if it gives none.
inline std::size_t option_of(const std::string& policy, const std::string& option) {
  return PartSettings(policy.substr(0, policy.find('+'))).number(option, 0);
}

/// The text of a policy with another number for one of its options.
inline std::string with_option(std::string policy, const std::string& option, std::size_t number) {
  for (const char before : {':', ','}) {
    const std::string key = before + option + "=";
    const std::size_t at = policy.find(key);
    if (at == std::string::npos) { continue; }
    const std::size_t from = at + key.size();
    const std::size_t end = std::min(policy.find_first_of(",+", from), policy.size());
    return policy.replace(from, end - from, std::to_string(number));
  }
  return policy;
}

/// How a policy holds keys and values, "keys=A,values=B" or a storage alone for both; empty where it has more parts than that.
struct Sides {
  std::string keys;
  std::string values;
};
inline Sides sides_of(const std::string& policy) {
  if (policy.find('+') != std::string::npos || is_by_lane(policy)) { return {}; }
  if (!policy.starts_with("keys=")) { return policy.starts_with("values=") ? Sides{} : Sides{policy, policy}; }
  const std::size_t at = policy.find(",values=");
  return at == std::string::npos ? Sides{} : Sides{policy.substr(5, at - 5), policy.substr(at + 8)};
}

/// One layer held as `side` says, all else exactly.
inline std::string one_layer(std::size_t layer, const std::string& held) {
  return "layers " + std::to_string(layer) + ": " + held + "; rest: f32";
}

/// Each policy of the list in one layer at a time, and, of a storage alone, in one layer's keys or values: what each of them costs.
inline std::vector<Policy> by_layer(const std::vector<Policy>& list, std::size_t layers) {
  std::vector<Policy> policies;
  for (const Policy& policy : list) {
    policies.push_back(policy);
    if (policy.name == "full" || is_by_lane(policy.settings)) { continue; }
    const Sides sides = sides_of(policy.settings);
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const auto add = [&](const std::string& held, const char* what) {
        const std::string settings = one_layer(layer, held);
        policies.push_back({settings, settings, policy.shown() + ", layer " + std::to_string(layer) + what, policy.budget});
      };
      if (sides.keys.empty()) {
        add(policy.settings, "");
      } else {
        add("keys=" + sides.keys + ",values=f32", " keys");
        add("keys=f32,values=" + sides.values, " values");
      }
    }
  }
  return policies;
}

}  // namespace comparison
