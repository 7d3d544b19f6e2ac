// examples/compare_policies/policy_list.hpp - the text after --policies and --budget: cutting it up, and filling in what it leaves open.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compare_policies/results.hpp"

namespace comparison {

/// A bad argument: a sentence. The program ends with 2.
struct BadArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// "128" or "25%" (of the prompt's tokens) as rows.
inline std::size_t budget_rows(std::string_view text, std::size_t prompt_tokens) {
  const bool percent = text.ends_with('%');
  const std::string_view digits = text.substr(0, text.size() - (percent ? 1 : 0));
  double value = 0.0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool whole = percent || digits.find_first_not_of("0123456789") == std::string_view::npos;
  if (error != std::errc{} || end != digits.data() + digits.size() || !whole || !(value > 0.0) || (percent && value > 100.0)) {
    throw BadArgument("--budget is \"" + std::string(text) + "\", must be rows like 128 or a percentage of the prompt like 25%");
  }
  const double rows = percent ? std::floor(value / 100.0 * static_cast<double>(prompt_tokens)) : value;
  if (!(rows >= 2.0 && rows <= 1e9)) {
    throw BadArgument("--budget is \"" + std::string(text) + "\", must be at least 2 rows of the prompt's " +
                      std::to_string(prompt_tokens));
  }
  return static_cast<std::size_t>(rows);
}

/// Cuts a list of policies at ',' and ';'. Behind a ',' a piece like key=value (no ':' or '+' in front of its '=') continues the policy
/// before it: "h2o:budget=256,recent=128+kivi2,full" is "h2o:budget=256,recent=128+kivi2" and "full".
inline std::vector<std::string> split_policies(std::string_view list) {
  std::vector<std::string> policies;
  char before = ';';
  while (true) {
    const std::size_t end = std::min(list.find_first_of(",;"), list.size());
    std::string_view piece = list.substr(0, end);
    while (piece.starts_with(' ')) { piece.remove_prefix(1); }
    while (piece.ends_with(' ')) { piece.remove_suffix(1); }
    const bool setting = piece.find('=') != std::string_view::npos && piece[piece.find_first_of(":+=")] == '=';
    if (before == ',' && setting && !policies.empty()) {
      policies.back().append(",").append(piece);  // GCC 12 warns of operator+ here (-Wrestrict)
    } else if (!piece.empty()) {
      policies.emplace_back(piece);
    }
    if (end == list.size()) { break; }
    before = list[end];
    list.remove_prefix(end + 1);
  }
  std::vector<std::string> once;
  for (std::string& policy : policies) {
    if (std::find(once.begin(), once.end(), policy) == once.end()) { once.push_back(std::move(policy)); }
  }
  return once;
}

/// The settings "key=value,..." of one part of a policy.
class PartSettings {
 public:
  explicit PartSettings(std::string_view part)
      : name_(part.substr(0, part.find(':'))), given_(part.find(':') < part.size() ? part.substr(part.find(':') + 1) : "") {}

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// The text of a setting, if it is given.
  [[nodiscard]] std::optional<std::string> find(const std::string& key) const {
    const std::string text = "," + given_ + ",";
    const std::size_t at = text.find("," + key + "=");
    if (at == std::string::npos) { return std::nullopt; }
    const std::size_t from = at + key.size() + 2;
    return text.substr(from, text.find(',', from) - from);
  }
  /// Gives a setting that is still open.
  void fill(const std::string& key, const std::string& value) {
    if (!find(key)) { given_ += (given_.empty() ? "" : ",") + key + "=" + value; }
  }
  void fill(const std::string& key, std::size_t value) { fill(key, std::to_string(value)); }
  /// The number that a setting gives; `open` if it is not there or is no number.
  [[nodiscard]] std::size_t number(const std::string& key, std::size_t open) const {
    if (const auto given = find(key)) { std::from_chars(given->data(), given->data() + given->size(), open); }
    return open;
  }
  [[nodiscard]] std::string text() const { return given_.empty() ? name_ : name_ + ":" + given_; }

 private:
  std::string name_;
  std::string given_;
};

/// KIVI's published residual of 128 exact rows would be a quarter of a short prompt.
inline std::size_t kivi_residual(std::size_t prompt_tokens) { return prompt_tokens >= 2048 ? 128 : 32; }

/// Of GEAR's published 20 rows a segment's factors and scales would be a third of a small head.
inline std::size_t gear_buffer(std::size_t prompt_tokens) { return std::clamp<std::size_t>(prompt_tokens / 4, 20, 128); }

/// Quest reads at least two pages. The published 16 rows a page belong to a budget of 2048; few pages choose badly, so a small one has 8.
/// `dense_layers`: of the model's first two, which the authors read in full, those that are there.
inline void fill_quest(PartSettings& part, std::size_t budget, std::size_t dense_layers) {
  const std::size_t page = part.number("page", budget >= 256 ? 16 : 8);
  part.fill("budget", std::max(budget, 2 * page));
  if (page != 16) { part.fill("page", page); }
  part.fill("dense_layers", dense_layers);
}
/// The published 48 outlier chunks belong to a budget of 2048 rows and would be most of a short prompt.
inline void fill_landmarks(PartSettings& part, std::size_t budget) {
  const std::size_t chunk = part.number("chunk", budget >= 8 ? 8 : budget >= 4 ? 4 : 2);
  if (chunk != 8) { part.fill("chunk", chunk); }
  part.fill("budget", std::max(budget, chunk));
  part.fill("outlier_chunks", std::max<std::size_t>(1, 48 * part.number("budget", budget) / 2048));
}

/// Evictions with a budget, and those of them that look at the last queries of a prompt.
inline bool has_budget(std::string_view name) {
  constexpr std::string_view names[] = {"h2o",   "tova",     "keydiff",           "expected_attention",
                                        "knorm", "lagkv",    "keyformer",         "observed_attention",
                                        "cur",   "leverage", "largest_attention", "d2o",
                                        "cam",   "windowkv", "compactor",         "non_causal_attention",
                                        "cap",   "random",   "global_local",      "largest_window"};
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}
inline bool has_window(std::string_view name) {
  constexpr std::string_view names[] = {"snapkv", "pyramidkv", "adakv", "chunkkv", "criticalkv", "criticaladakv",
                                        "dropkv", "cake",      "finch", "rkv",     "grid_logits"};
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// The policy with `budget` rows for its eviction or retrieval, and what else would not suit a short prompt, where it names none of its
/// own. Names of parts that are not known here pass as they are, and so do those of evictions behind an eviction, which mean an allocator or a selector.
inline std::string with_defaults(std::string_view policy, std::size_t budget, std::size_t prompt_tokens, std::size_t dense_layers = 2) {
  std::string result;
  const bool landmarks = policy.find("shadowkv") != std::string_view::npos || policy.find("landmarks") != std::string_view::npos;
  bool evicts = false;  // an eviction has come
  while (true) {
    const std::size_t end = std::min(policy.find('+'), policy.size());
    PartSettings part(policy.substr(0, end));
    const bool behind = std::exchange(evicts, evicts || has_budget(part.name()) || has_window(part.name()));
    if (part.name() == "streaming" || part.name() == "razorattention") {
      if (!part.find("window")) {
        const std::size_t sinks = part.number("sinks", std::min<std::size_t>(4, budget / 2));
        const std::size_t others = sinks + (part.name() == "razorattention" ? 1 : 0);  // it has a row for the rest
        part.fill("sinks", sinks);
        part.fill("window", budget > others ? budget - others : 1);
      }
      if (landmarks && part.name() == "streaming") { part.fill("in_cache_positions", "false"); }  // landmarks are made at the original ones
    } else if (has_budget(part.name()) && !behind) {
      if (part.name() == "windowkv" && budget <= 32) { part.fill("suffix", budget / 2); }
      part.fill("budget", budget);
    } else if (has_window(part.name()) && !behind) {
      if (!part.find("budget") && budget <= 32) { part.fill("window", budget / 2); }
      part.fill("budget", budget);
    } else if (part.name().starts_with("kivi")) {
      part.fill("residual", kivi_residual(prompt_tokens));
    } else if (part.name().starts_with("gear")) {
      part.fill("buffer", gear_buffer(prompt_tokens));
    } else if (part.name() == "quest") {
      fill_quest(part, budget, dense_layers);
    } else if (part.name() == "landmarks" || part.name() == "shadowkv") {
      fill_landmarks(part, budget);
    }
    if (!result.empty()) { result += '+'; }
    result += part.text();
    if (end == policy.size()) { return result; }
    policy.remove_prefix(end + 1);
  }
}

/// "xkv:rank_keys=48+quest" -> "xkv+quest"
inline std::string label_of(std::string_view policy) {
  std::string label;
  bool in_settings = false;
  for (const char c : policy) {
    if (c == ':') { in_settings = true; }
    if (c == '+') { in_settings = false; }
    if (!in_settings) { label.push_back(c); }
  }
  return label;
}

/// What the size of a policy is chosen by, part by part: rows that stay, rows that a query reads, bits of a number, ranks of factors.
inline std::string budget_of(std::string_view policy) {
  std::string kinds;
  const std::string parts = label_of(policy) + "+";
  for (std::size_t from = 0; from < parts.size(); from = parts.find('+', from) + 1) {
    const std::string_view part = std::string_view(parts).substr(from, parts.find('+', from) - from);
    const auto begins = [&](auto... with) { return (part.starts_with(with) || ...); };
    const std::string_view kind = begins("kivi", "gear", "rot", "lm", "tiers", "keys=", "values=") ? "bits"
                                  : part == "xkv"                                                  ? "rank"
                                  : part == "shadowkv"                                             ? "rank, read"
                                  : part == "quest" || part == "landmarks"                         ? "read"
                                  : from == 0 && !begins("full", "f16", "f32", "bf16")             ? "rows"
                                                                                                   : "";
    if (!kind.empty()) { kinds.append(kinds.empty() ? "" : ", ").append(kind); }
  }
  return kinds.empty() ? "-" : kinds;
}

/// The rows of the table: full first, then the policies of the list.
inline std::vector<Policy> read_policies(std::string_view list, std::size_t budget, std::size_t prompt_tokens,
                                         std::size_t dense_layers = 2) {
  std::vector<Policy> policies{{"full", "full", "full", "-"}};
  for (const std::string& name : split_policies(list)) {
    if (name == "full") { continue; }
    std::string label = label_of(name);
    const auto same = std::count_if(policies.begin(), policies.end(), [&](const Policy& other) { return label_of(other.name) == label; });
    if (same > 0) { label.append("(").append(std::to_string(same + 1)).append(")"); }
    policies.push_back({name, with_defaults(name, budget, prompt_tokens, dense_layers), label, budget_of(name)});
  }
  return policies;
}

}  // namespace comparison
