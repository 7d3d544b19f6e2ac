// examples/tensors/model_config.hpp - what Hugging Face's config.json says of a model's attention.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "tensors/array.hpp"
#include "tensors/dump_data.hpp"

namespace tensors {

/// Llama 3.1's: pairs that turn slowly turn `factor` times slower still, those between two wavelengths by a mean.
inline std::vector<double> llama3_divisors(double base, std::size_t pairs, double factor, double low, double high, double original) {
  std::vector<double> divisors;
  for (std::size_t i = 0; i < pairs; ++i) {
    const double turns = original / (2.0 * std::numbers::pi * std::pow(base, static_cast<double>(i) / static_cast<double>(pairs)));
    const double smooth = std::min(1.0, std::max(0.0, (turns - low) / (high - low)));
    divisors.push_back(1.0 / ((1.0 - smooth) / factor + smooth));
  }
  return divisors;
}

/// Reads a config.json for keys of `key_dim` channels.
inline ModelConfig parse_model_config(const std::string& where, const nlohmann::json& json, std::size_t key_dim) {
  const nlohmann::json& all = json.contains("text_config") ? json["text_config"] : json;
  const auto number = [&](const nlohmann::json& from, const char* name) -> std::optional<double> {
    if (!from.is_object() || !from.contains(name) || from[name].is_null()) { return std::nullopt; }
    if (!from[name].is_number()) { fail("{}: {} is {}, must be a number.", where, name, in_quotes(from[name].dump())); }
    return from[name].get<double>();
  };
  const auto count = [&](const char* name) -> std::optional<std::size_t> {
    const auto value = number(all, name);
    if (value && !(*value >= 1.0 && *value <= 65536.0)) { fail("{}: {} is {}, must be 1 to 65536.", where, name, *value); }
    return value ? std::optional(static_cast<std::size_t>(*value)) : std::nullopt;
  };
  ModelConfig config;
  config.query_heads = count("num_attention_heads");
  config.kv_heads = count("num_key_value_heads");
  if (!config.kv_heads) { config.kv_heads = config.query_heads; }
  nlohmann::json scaling;  // newer files have everything in rope_parameters
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (all.contains(name) && all[name].is_object()) { scaling = all[name]; }
  }
  Rotary& rotary = config.rotary;
  rotary.base = number(scaling, "rope_theta").value_or(number(all, "rope_theta").value_or(0.0));
  rotary.dims_fraction = number(scaling, "partial_rotary_factor").value_or(number(all, "partial_rotary_factor").value_or(1.0));
  const auto type_in = [&](const char* name) { return scaling.is_object() ? scaling.value(name, nlohmann::json()) : nlohmann::json(); };
  const nlohmann::json type = type_in("rope_type").is_string() ? type_in("rope_type") : type_in("type");
  const std::string kind = type.is_string() ? type.get<std::string>() : "default";
  if (kind == "linear") {
    rotary.scale = 1.0 / number(scaling, "factor").value_or(1.0);
  } else if (kind == "llama3") {
    const auto pairs = static_cast<std::size_t>(rotary.dims_fraction * static_cast<double>(key_dim) / 2.0);
    rotary.frequency_divisors = llama3_divisors(
        rotary.base, pairs, number(scaling, "factor").value_or(8.0), number(scaling, "low_freq_factor").value_or(1.0),
        number(scaling, "high_freq_factor").value_or(4.0), number(scaling, "original_max_position_embeddings").value_or(8192.0));
  } else if (kind != "default") {
    rotary = {};
    config.unknown_rotary = kind;
  }
  return config;
}

/// That of config.json in a folder, if there is one.
inline ModelConfig read_model_config(const std::filesystem::path& folder, std::size_t key_dim) {
  const std::filesystem::path path = folder / "config.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) { return {}; }
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object()) { fail("{}: is no JSON object.", path.string()); }
  return parse_model_config(path.string(), json, key_dim);
}

}  // namespace tensors
