// bench/report/results.hpp - rows of the suite's JSON, and what the machine was.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace report {

/// A benchmark that was measured: its path, and its counters by name.
struct Row {
  std::string name;
  std::vector<std::string> path;  ///< scenario, competitor, and what the case is
  double microseconds = 0.0;
  std::map<std::string, double> counters{};
  std::string note{};
  std::string failure{};

  [[nodiscard]] std::optional<double> get(const std::string& counter) const {
    const auto found = counters.find(counter);
    return found == counters.end() ? std::nullopt : std::optional(found->second);
  }
  [[nodiscard]] const std::string& scenario() const { return path.front(); }
  [[nodiscard]] const std::string& competitor() const { return path[1]; }
};

struct Results {
  std::vector<std::pair<std::string, std::string>> facts{};
  std::vector<Row> rows{};
};

inline std::vector<std::string> pieces(const std::string& name) {
  std::vector<std::string> parts;
  for (std::size_t first = 0; first <= name.size();) {
    const std::size_t end = std::min(name.find('/', first), name.size());
    parts.push_back(name.substr(first, end - first));
    first = end + 1;
  }
  return parts;
}

/// Adds the rows of one file; facts come from the first.
inline void read(const std::string& file, Results& results) {
  std::ifstream in(file);
  if (!in) { throw std::runtime_error("cannot read " + file); }
  const nlohmann::ordered_json json = nlohmann::ordered_json::parse(in);
  if (results.facts.empty()) {
    for (const auto& [name, value] : json.at("context").items()) {
      if (value.is_string() && name != "executable" && name != "host_name") { results.facts.emplace_back(name, value.get<std::string>()); }
    }
  }
  for (const auto& one : json.at("benchmarks")) {
    Row row{.name = one.at("name").get<std::string>(), .path = pieces(one.at("name").get<std::string>())};
    if (row.path.size() < 3) { throw std::runtime_error(file + ": \"" + row.name + "\" is no row of the suite"); }
    row.note = one.value("label", "");
    if (one.value("error_occurred", false)) {
      row.failure = one.value("error_message", "failed");
    } else {
      const std::string unit = one.value("time_unit", "us");
      row.microseconds = one.at("real_time").get<double>() * (unit == "ns" ? 1e-3 : unit == "ms" ? 1e3 : unit == "s" ? 1e6 : 1.0);
      for (const auto& [name, value] : one.items()) {
        if (value.is_number()) { row.counters[name] = value.get<double>(); }
      }
    }
    results.rows.push_back(std::move(row));
  }
}

}  // namespace report
