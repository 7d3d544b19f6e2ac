// tests/registry/quick_reference_test.cpp - docs/quick_reference.md against the header and against what a cache does.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace quick_reference_test {

using namespace kvcompress;
using namespace kvcompress::test;

const std::filesystem::path root = std::filesystem::path(KVCOMPRESS_SOURCE_DIR);

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) { lines.push_back(line); }
  return lines;
}

/// The cells of a verb, of the phases in the order of the table.
std::map<std::string, std::vector<std::string>> table_of_the_docs() {
  std::map<std::string, std::vector<std::string>> table;
  for (const std::string& line : lines_of(root / "docs/quick_reference.md")) {
    if (!line.starts_with("| `")) { continue; }
    const std::string verb = line.substr(3, line.find('(') - 3);
    std::istringstream cells(line.substr(1));
    std::vector<std::string> row;
    for (std::string cell; std::getline(cells, cell, '|');) { row.push_back(cell.substr(1)); }
    EXPECT_EQ(row.size(), 6U) << line;
    EXPECT_TRUE(table.emplace(verb, std::vector<std::string>(row.begin() + 2, row.end())).second) << verb << " stands twice";
  }
  return table;
}

/// Names in front of a '(' on lines that declare a member, indented by two.
std::set<std::string> verbs_of_the_header() {
  std::set<std::string> verbs{"save", "load"};  // of persistence.hpp
  bool open = false;
  for (const std::string& line : lines_of(root / "include/kvcompress/cache.hpp")) {
    if (line == " public:") { open = true; }
    if (line == " private:") { break; }
    if (!open || !line.starts_with("  ") || line[2] == ' ' || line[2] == '/') { continue; }
    std::string name;
    for (std::size_t i = 2; i < line.size() && line[i] != '('; ++i) {
      const bool letter = std::isalnum(static_cast<unsigned char>(line[i])) != 0 || line[i] == '_';
      if (!letter) { name.clear(); }
      if (letter) { name.push_back(line[i]); }
    }
    if (line.find('(') != std::string::npos && !name.empty() && name != "KVCache" && line.find("using ") == std::string::npos) {
      verbs.insert(name);
    }
  }
  return verbs;
}

TEST(QuickReference, HasTheVerbsOfTheHeader) {
  std::set<std::string> shown;
  for (const auto& [verb, cells] : table_of_the_docs()) { shown.insert(verb); }
  EXPECT_EQ(shown, verbs_of_the_header());
  EXPECT_TRUE(shown.contains("append") && shown.contains("read"));
}

const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
constexpr std::size_t prompt = 100;

AnyCache in_phase(std::size_t phase, const Text& text) {
  AnyCache cache = examples::registry().make("streaming:sinks=4,window=60+kivi4:residual=32", shape);
  if (phase == 0) { return cache; }
  static_cast<void>(step(cache, text, 0, prompt));
  if (phase == 1) { return cache; }
  cache.end_prompt(0);
  if (phase == 3) { static_cast<void>(step(cache, text, prompt, 1)); }
  return cache;
}

/// Each verb, called as anybody would in any phase.
std::map<std::string, std::function<void(AnyCache&)>> calls(const Text& text) {
  static const File file = saved(in_phase(3, text));
  return {
      {"append", [&](AnyCache& c) { c.append(0, text.key_rows(c.tokens(), 1), text.value_rows(c.tokens(), 1)); }},
      {"attend", [&](AnyCache& c) { static_cast<void>(attend(c, text, std::max<std::size_t>(1, c.tokens()), 1)); }},
      {"observe",
       [&](AnyCache& c) {
    const std::vector<Position> positions{static_cast<Position>(std::max<std::size_t>(1, c.tokens())) - 1};
    c.observe(0, text.query_rows(0, 1), positions);
       }},
      {"select",
       [&](AnyCache& c) {
    Plan plan;
    c.select(0, text.query_rows(0, 1), plan);
       }},
      {"plan", [](AnyCache& c) { static_cast<void>(c.plan(0)); }}, {"end_prompt", [](AnyCache& c) { c.end_prompt(0); }},
      {"begin_prompt", [](AnyCache& c) { c.begin_prompt(0); }}, {"commit", [](AnyCache& c) { c.commit(0); }},
      {"keep_open", [](AnyCache& c) { c.keep_open(0, {}); }},
      {"truncate", [](AnyCache& c) { c.truncate(static_cast<Position>(std::max<std::size_t>(1, c.tokens())) - 1); }},
      {"remove", [](AnyCache& c) { c.remove(0, static_cast<Position>(c.tokens() / 2)); }},
      {"shift", [](AnyCache& c) { c.shift(0, static_cast<Position>(c.tokens()), 1); }}, {"clear", [](AnyCache& c) { c.clear(); }},
      {"describe", [](AnyCache& c) { c.describe(0, std::vector<std::uint8_t>(3), std::vector<Position>{1}); }},
      {"fork", [](AnyCache& c) { static_cast<void>(c.fork()); }}, {"reserve", [](AnyCache& c) { c.reserve(200); }},
      {"save", [](AnyCache& c) { static_cast<void>(saved(c)); }}, {"load", [](AnyCache& c) { load_from(c, file); }},
      {"write",
       [&](AnyCache& c) {
    const std::vector<Position> positions{static_cast<Position>(std::max<std::size_t>(1, c.tokens())) - 1};
    c.write(0, positions, text.key_rows(0, 1), text.value_rows(0, 1));
       }},
      {"memory", [](AnyCache& c) { static_cast<void>(c.memory().total()); }},
      {"bits_per_value", [](AnyCache& c) { static_cast<void>(c.bits_per_value()); }},
      {"fetched", [](AnyCache& c) { static_cast<void>(c.fetched()); }},
      {"bytes_for", [](AnyCache& c) { static_cast<void>(AnyCache::bytes_for(c.shape(), 10, c.options())); }},
      {"tokens", [](AnyCache& c) { static_cast<void>(c.tokens(0)); }}, {"kept", [](AnyCache& c) { static_cast<void>(c.kept(0, 1)); }},
      {"table", [](AnyCache& c) { static_cast<void>(c.table(0, 1).rows()); }},
      {"keys", [](AnyCache& c) { static_cast<void>(c.keys(0, 1)); }}, {"values", [](AnyCache& c) { static_cast<void>(c.values(0, 1)); }},
      {"state", [](AnyCache& c) { static_cast<void>(c.state(0, 1)); }}, {"index", [](AnyCache& c) { static_cast<void>(c.index(0, 1)); }},
      {"read",
       [](AnyCache& c) {
    std::vector<float> key(16), value(16);
    c.read(0, 1, 0, key.data(), value.data());
       }},
      {"read_rows",
       [](AnyCache& c) {
    std::vector<float> keys(16);
    c.read_rows(0, 1, {0, 1}, {.keys = keys});
       }},
      {"shape", [](AnyCache& c) { static_cast<void>(c.shape().layers); }}, {"options", [](AnyCache& c) { static_cast<void>(c.options()); }},
      };
}

TEST(QuickReference, SaysWhatEveryVerbDoesInEveryPhase) {
  const Text text(shape, prompt + 10, 3);
  const auto called = calls(text);
  for (const auto& [verb, cells] : table_of_the_docs()) {
    ASSERT_TRUE(called.contains(verb)) << verb;
    for (std::size_t phase = 0; phase < cells.size(); ++phase) {
      AnyCache cache = in_phase(phase, text);
      std::string does = "yes";
      try {
        called.at(verb)(cache);
      } catch (const Error& error) { does = std::string("no (") + error.what() + ")"; }
      EXPECT_EQ(cells[phase].substr(0, 2), does.substr(0, 2)) << verb << " in phase " << phase << ": " << does;
    }
  }
}

}  // namespace quick_reference_test
