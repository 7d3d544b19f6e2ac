// examples/compare_policies/kv_formats.hpp - the results on tensors of one's own: a table for people, JSON for programs.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "compare_policies/data_formats.hpp"
#include "compare_policies/kv_results.hpp"
#include "compare_policies/table.hpp"

namespace comparison {

/// The numbers of a line; `full`: the same of the policy full; `sequences`: what bytes are a mean of.
inline std::vector<std::string> kv_cells(const std::string& policy, const std::string& layer, const KvSums& s, const KvSums& full,
                                         double sequences) {
  return {policy,
          layer,
          grouped(s.bytes / sequences / 1024.0),
          percent(s.bytes / full.bytes),
          fmt::format("{:.2f}", s.bits_per_value()),
          s.slow_bytes > 0.0 ? grouped(s.slow_bytes / sequences / 1024.0) : std::string("-"),
          short_number(s.output_error()),
          fmt::format("{:.2f}", 100.0 * s.mass_kept()),
          short_number(s.kl()),
          fmt::format("{:.2f}", 1e3 * s.prompt_seconds / sequences),
          fmt::format("{:.1f}", s.us_per_token())};
}

inline std::vector<std::string> kv_legend(const KvComparison& c) {
  return {
      fmt::format(
          "Protocol: {} of {} tokens. The first {} are the prompt, given with their queries, then compressed; the last {} come one by "
          "one. Exact attention: softmax(q K^T / sqrt(dim)) V over the dump's rows up to the query's, in double.",
          counted(c.sequences, "sequence"), c.tokens, c.tokens - c.decoded, c.decoded),
      "Output error: length of all differences by that of all exact outputs. Mass kept: how much of the exact attention lies on rows that "
      "the "
      "cache still holds. KL: KL(policy || exact) of the attention's probabilities; the other way round it is infinite where rows are "
      "gone. "
      "Where a query reads some rows only, both come from the softmax's denominators: the rows read have that share of the exact one, and "
      "-log of it is the KL.",
      "Memory: all but scratch and the slow tier after the last token, mean over sequences; layers that are encoded together share theirs "
      "evenly. Time: CPU time of one thread per layer. Prompt: append, observe, end_prompt. Token: append, attend, commit.",
      fmt::format("Budget: {} rows per lane unless the policy says otherwise.", c.budget)};
}

/// Per policy a line for all layers and one for each.
inline std::string kv_table(const KvComparison& c) {
  const auto sequences = static_cast<double>(c.sequences);
  std::vector<std::vector<std::string>> cells{{"", "", "cache", "% of", "bits per", "slow", "output", "mass", "KL", "prompt", "us per"},
                                              {"policy", "layer", "KiB", "full", "value", "KiB", "error", "kept %", "nats", "ms", "token"}};
  for (const KvRow& row : c.rows) {
    cells.push_back(kv_cells(row.policy.shown(), "all", row.all(), c.rows.front().all(), sequences));
    for (std::size_t l = 0; l < c.layers.size(); ++l) {
      cells.push_back(kv_cells("", std::to_string(c.layers[l]), row.layers[l], c.rows.front().layers[l], sequences));
    }
  }
  std::vector<std::string> lines(cells.size());
  for (std::size_t column = 0; column < cells.front().size(); ++column) {
    std::size_t width = 0;
    for (const auto& line : cells) { width = std::max(width, line[column].size()); }
    for (std::size_t i = 0; i < cells.size(); ++i) {
      lines[i] += column == 0 ? fmt::format("{:<{}}", cells[i][column], width) : fmt::format("  {:>{}}", cells[i][column], width);
    }
  }
  const std::size_t width = std::max<std::size_t>(lines.front().size(), 80);
  std::string text;
  for (const auto* facts : {&c.dump, &c.machine}) {
    for (const Fact& fact : *facts) { text += wrapped(fact.name + ": " + fact.value, width); }
  }
  lines.insert(lines.begin() + 2, std::string(lines.front().size(), '-'));
  text += "\n";
  for (const std::string& line : lines) { text += line + "\n"; }
  text += "\n";
  for (const std::string& line : kv_legend(c)) { text += wrapped(line, width); }
  std::string settings = "Settings:";
  for (const KvRow& row : c.rows) {
    if (row.policy.settings != row.policy.shown()) { settings += " " + row.policy.settings; }
  }
  if (settings != "Settings:") { text += wrapped(settings, width); }
  return text + fmt::format("Took {:.1f} s.\n", c.seconds);
}

inline nlohmann::ordered_json kv_sums_json(const KvSums& s, const KvSums& full, double sequences) {
  return {{"bytes", std::llround(s.bytes / sequences)},
          {"fraction_of_f16", s.bytes / full.bytes},
          {"bits_per_value", s.bits_per_value()},
          {"slow_bytes", std::llround(s.slow_bytes / sequences)},
          {"output_error", s.output_error()},
          {"attention_mass_kept", s.mass_kept()},
          {"attention_kl", s.kl()},
          {"prompt_ms", 1e3 * s.prompt_seconds / sequences},
          {"us_per_token", s.us_per_token()}};
}

/// An object: what was read, and `results`, one object per policy, full first, each with its `layers`.
inline std::string kv_json(const KvComparison& c) {
  const auto sequences = static_cast<double>(c.sequences);
  nlohmann::ordered_json json{{"command", c.command},
                              {"date", c.date},
                              {"seconds", c.seconds},
                              {"dump", facts_json(c.dump)},
                              {"machine", facts_json(c.machine)},
                              {"sequences", c.sequences},
                              {"tokens", c.tokens},
                              {"decoded", c.decoded},
                              {"budget", c.budget},
                              {"threads", c.setup.threads},
                              {"results", nlohmann::ordered_json::array()}};
  for (const KvRow& row : c.rows) {
    nlohmann::ordered_json result{{"policy", row.policy.name}, {"settings", row.policy.settings}};
    result.update(kv_sums_json(row.all(), c.rows.front().all(), sequences));
    result["layers"] = nlohmann::ordered_json::array();
    for (std::size_t l = 0; l < c.layers.size(); ++l) {
      nlohmann::ordered_json layer{{"layer", c.layers[l]}};
      layer.update(kv_sums_json(row.layers[l], c.rows.front().layers[l], sequences));
      result["layers"].push_back(std::move(layer));
    }
    json["results"].push_back(std::move(result));
  }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace comparison
