// examples/compare_policies/data_formats.hpp - the results for programs: JSON and CSV, with the same names.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "compare_policies/front.hpp"
#include "compare_policies/results.hpp"

namespace comparison {

inline nlohmann::ordered_json row_json(const Row& row, bool on_front) {
  nlohmann::ordered_json json{
      {"policy", row.policy.name},
      {"settings", row.policy.settings},
      {"bytes", std::llround(row.bytes)},
      {"bits_per_value", row.bits_per_value},
      {"fraction_of_f16", row.fraction_of_f16},
      {"bytes_after_prompt", std::llround(row.bytes_after_prompt)},
      {"fraction_after_prompt", row.fraction_after_prompt},
      {"slow_bytes", std::llround(row.slow_bytes)},
      {"fetched_bytes_per_token", row.fetched_per_token},
      {"perplexity", row.perplexity},
      {"perplexity_ratio", row.perplexity_ratio},
      {"kl", row.kl},
      {"top1_agreement", row.top1_agreement},
      {"needle_accuracy", nullptr},
      {"needles_right", row.needles_right},
      {"needles_asked", row.needles_asked},
      {"prompt_tokens_per_s", row.prompt_tokens_per_s},
      {"decode_tokens_per_s", row.decode_tokens_per_s},
      {"cache_us_per_token", row.cache_us_per_token},
      {"peak_bytes", row.peak_bytes},
      {"size_in", row.policy.budget},
      {"on_front", on_front},
      {"evicts", evicts_word(row.policy)},
      {"needle_accuracy_inside", nullptr},
      {"later_turn_accuracy", nullptr},
  };
  if (const auto inside = row.inside_accuracy()) { json["needle_accuracy_inside"] = *inside; }
  if (const auto later = row.later_turns()) { json["later_turn_accuracy"] = *later; }
  if (const auto accuracy = row.needle_accuracy()) { json["needle_accuracy"] = *accuracy; }
  return json;
}

inline nlohmann::ordered_json facts_json(const std::vector<Fact>& facts) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Fact& fact : facts) { json[fact.name] = fact.value; }
  return json;
}

/// An object: what was run, and `results`, one object per policy, full first.
inline std::string json_text(const Comparison& c) {
  nlohmann::ordered_json json{
      {"command", c.command},
      {"date", c.date},
      {"seconds", c.seconds},
      {"model", c.setup.model},
      {"text", c.setup.text},
      {"text_tokens", c.text_tokens},
      {"context", c.setup.context},
      {"windows", c.windows},
      {"scored_tokens", c.scored_tokens},
      {"budget", c.setup.budget},
      {"threads", c.setup.threads},
      {"seed", c.setup.seed},
      {"exact_perplexity", c.exact_perplexity},
      {"model_facts", facts_json(c.model)},
      {"machine", facts_json(c.machine)},
      {"results", nlohmann::ordered_json::array()},
  };
  const std::vector<bool> front = on_front(c.rows);
  for (std::size_t r = 0; r < c.rows.size(); ++r) {
    const Row& row = c.rows[r];
    json["results"].push_back(row_json(row, front[r]));
    json["results"].back()["needles_by_depth"] = row.needles_by_depth;
    json["results"].back()["needles_inside_by_depth"] = row.inside_by_depth;
    json["results"].back()["right_by_turn"] = row.right_by_turn;
    json["results"].back()["layer_bytes"] = row.layer_bytes;
  }
  json["llama_cpp_types"] = nlohmann::ordered_json::array();
  for (const Row& row : c.references) {
    json["llama_cpp_types"].push_back(
        {{"type", row.policy.name}, {"bits_per_value", row.bits_per_value}, {"kl", row.kl}, {"beyond_front", is_beyond(row, c.rows)}});
  }
  if (!c.calibrated.empty()) { json["calibrated"] = c.calibrated; }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

/// A text as a CSV cell.
inline std::string in_quotes(std::string_view text) {
  std::string result(1, '"');
  for (const char c : text) { result.append(c == '"' ? 2 : 1, c); }
  result.push_back('"');
  return result;
}

/// The rows of the JSON's results; texts are quoted.
inline std::string csv_text(const Comparison& c) {
  std::string text;
  const std::vector<bool> front = on_front(c.rows);
  for (std::size_t r = 0; r < c.rows.size(); ++r) {
    const nlohmann::ordered_json json = row_json(c.rows[r], front[r]);
    if (text.empty()) {
      for (const auto& [name, value] : json.items()) { text += (text.empty() ? "" : ",") + name; }
      text += "\n";
    }
    std::string line;
    for (const auto& [name, value] : json.items()) {
      const std::string cell = value.is_null() ? "" : value.is_string() ? in_quotes(value.get<std::string>()) : value.dump();
      line += (line.empty() ? "" : ",") + cell;
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace comparison
