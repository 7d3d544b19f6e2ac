// tests/matrix/cells.hpp - every eviction over every storage, read in full or by a retrieval, by name: what works, and what is refused.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "registry/registry.hpp"
#include "support/policies.hpp"

namespace kvcompress::test {

/// What a test varies.
struct Settings {
  std::size_t budget = unbounded;  // rows that an eviction keeps
  std::size_t reads = unbounded;   // rows that a retrieval chooses
  std::size_t speculation = 0;
  Accumulation accumulation = Accumulation::near_exact;
};

/// One composition.
struct Cell {
  std::string name;  // "snapkv+kivi4+quest"
  std::string eviction{};
  std::string fate{};
  std::string storage = "f16";
  std::string retrieval{};

  explicit Cell(const std::string& policy) : name(policy) {
    for (std::size_t first = 0; first <= policy.size();) {
      const std::size_t end = std::min(policy.find('+', first), policy.size());
      const std::string part = policy.substr(first, end - first);
      const std::string kind = info(part).kind;
      (kind == "eviction" ? eviction : kind == "fate" ? fate : kind == "retrieval" ? retrieval : storage) = part;
      first = end + 1;
    }
  }
  [[nodiscard]] bool evicts() const { return !eviction.empty() && fate != "demote"; }
  /// In codes, which can be added up in several ways.
  [[nodiscard]] bool encodes() const { return has(storage, "accumulation"); }
  /// Lanes get budgets of their own.
  [[nodiscard]] bool uneven() const { return eviction == "pyramidkv" || eviction == "adakv" || eviction == "cake"; }

  /// With small settings; a bound that leaves everything is 2^20 rows.
  [[nodiscard]] std::string spec(const Settings& settings) const {
    const auto bounded = [](std::size_t rows) { return std::to_string(rows == unbounded ? std::size_t{1} << 20U : rows); };
    std::string text;
    const auto add = [&](const std::string& part, const std::vector<std::pair<std::string, std::string>>& options) {
      if (part.empty()) { return; }
      text += (text.empty() ? "" : "+") + part;
      char before = ':';
      for (const auto& [key, value] : options) {
        if (!has(part, key)) { continue; }
        text += before + key + "=" + value;
        before = ',';
      }
    };
    const std::size_t rows = settings.budget;
    const bool all = rows == unbounded;
    if (has(eviction, "decode_budget")) {  // two thirds for the prompt, one third for decoded rows
      add(eviction, {{"budget", bounded(all ? rows : rows - rows / 3)},
                     {"window", "8"},
                     {"recent", "8"},
                     {"decode_budget", std::to_string(all ? 0 : rows / 3)}});
    } else {
      const bool turns = retrieval != "landmarks" && storage != "shadowkv";
      add(eviction, {{"budget", bounded(rows)},
                     {"recent", all ? "0" : std::to_string(rows / 3)},
                     {"sinks", eviction == "streaming" ? "4" : "0"},
                     {"window", eviction == "streaming" || eviction == "razorattention" ? bounded(all ? rows : rows - 4) : "8"},
                     {"in_cache_positions", eviction == "streaming" && turns ? "true" : "false"}});
    }
    add(fate, {});
    const std::vector<std::pair<std::string, std::string>> reading{
        {"budget", bounded(settings.reads)}, {"page", "8"}, {"dense_layers", "0"}, {"local_chunks", "2"}, {"outlier_chunks", "2"}};
    std::vector<std::pair<std::string, std::string>> holding{{"residual", "32"}, {"layers_per_group", "2"}};
    holding.emplace_back("accumulation", names_of(Accumulation{})[static_cast<std::size_t>(settings.accumulation)]);
    if (info(storage).kind != "storage") { holding.insert(holding.end(), reading.begin(), reading.end()); }  // it is its own retrieval
    add(storage, holding);
    add(retrieval, reading);
    return text;
  }
  [[nodiscard]] AnyCache make(const Shape& shape, const Settings& settings, const Memory& memory) const {
    AnyCache::Options options = examples::registry().options(spec(settings), shape);
    options.speculation = settings.speculation;
    return AnyCache(shape, options, memory);
  }

 private:
  static PartInfo info(const std::string& part) {
    for (const PartInfo& one : examples::registry().parts()) {
      if (one.name == part) { return one; }
    }
    return {};
  }
  static bool has(const std::string& part, const std::string& option) {
    return ("," + info(part).defaults).find("," + option + "=") != std::string::npos;
  }
};

/// Every combination of these parts that works: one storage of each kind, evictions of every kind, both ways to read.
inline std::vector<Cell> all_cells() {
  std::vector<Cell> cells;
  for (const std::string& policy : examples::registry().policies()) {
    const Cell cell(policy);
    const std::string_view storages[] = {"f16", "kivi4", "rot4", "lm3", "gear4", "xkv", "shadowkv"};
    const bool one_of_each = std::find(std::begin(storages), std::end(storages), cell.storage) != std::end(storages);
    const std::string_view evictions[] = {"",     "streaming", "h2o",  "snapkv", "pyramidkv",     "adakv",
                                          "tova", "keydiff",   "cake", "d2o",    "razorattention"};
    if (std::find(std::begin(evictions), std::end(evictions), cell.eviction) == std::end(evictions)) { continue; }
    if (one_of_each && (cell.retrieval.empty() || cell.retrieval == "quest")) { cells.push_back(cell); }
  }
  for (const char* const policy : {"h2o+merge_weighted", "snapkv+merge_weighted+kivi4", "h2o+demote+tiers4", "snapkv+demote+tiers2"}) {
    cells.emplace_back(policy);
  }
  return cells;
}

inline void PrintTo(const Cell& cell, std::ostream* out) { *out << cell.name; }

}  // namespace kvcompress::test
