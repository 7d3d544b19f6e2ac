// tests/support/kept_sets.hpp - compares a kept set with the official one in both directions; near ties at the cut are counted.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "support/cases.hpp"

namespace kvcompress::conformance {

using Members = std::vector<std::int64_t>;  // ascending

template <class Range>
Members members(const Range& range) {
  Members out;
  for (const auto member : range) { out.push_back(static_cast<std::int64_t>(member)); }
  std::sort(out.begin(), out.end());
  return out;
}
/// The ids in a row of an official table whose rows are ascending; what follows them, where a row has fewer, is padding.
inline Members kept_row(const reference::Matrix& table, reference::Index row) {
  Members out;
  for (reference::Index i = 0; i < table.cols(); ++i) {
    const auto id = static_cast<std::int64_t>(table(row, i));
    if (id < 0 || (!out.empty() && id <= out.back())) { break; }
    out.push_back(id);
  }
  return out;
}

/// How many members of the official set are not in ours, where each of them and each of ours that is not official scores within
/// `margin` of the smallest score in either set; nothing where the sets differ otherwise. `score(member)`: larger is kept.
template <class Score>
std::optional<std::size_t> near_ties(const Members& ours, const Members& official, const Score& score, double margin) {
  if (ours.size() != official.size()) { return std::nullopt; }
  Members only_ours;
  Members only_official;
  std::set_difference(ours.begin(), ours.end(), official.begin(), official.end(), std::back_inserter(only_ours));
  std::set_difference(official.begin(), official.end(), ours.begin(), ours.end(), std::back_inserter(only_official));
  if (only_ours.size() != only_official.size()) { return std::nullopt; }
  const auto all_at_the_cut_of = [&](const Members& kept, const Members& others) {
    double cut = std::numeric_limits<double>::infinity();
    for (const std::int64_t member : kept) { cut = std::min(cut, static_cast<double>(score(member))); }
    return std::all_of(others.begin(), others.end(),
                       [&](std::int64_t member) { return std::abs(static_cast<double>(score(member)) - cut) <= margin; });
  };
  if (!all_at_the_cut_of(ours, only_official) || !all_at_the_cut_of(official, only_ours)) { return std::nullopt; }
  return only_official.size();
}

/// Fails where the sets differ by more than near ties, which are counted.
template <class Score>
void expect_same_set(const std::string& what, const Members& ours, const Members& official, const Score& score, double margin) {
  const std::optional<std::size_t> ties = near_ties(ours, official, score, margin);
  if (!ties) {
    EXPECT_EQ(ours, official) << what << ", and not by near ties";
    return;
  }
  if (*ties > 0) { std::cout << "conformance: " << what << " differs by " << *ties << " near ties\n"; }
  Tally::get().near_ties(*ties);
}

/// Keys and values of the rows that both kept, bit for bit. The official arrays (heads, kept, dim) are in the order of `stored`
/// (heads, kept), which holds the rows' ids; `run` is a test::Sequence with one layer.
template <class Run>
void expect_rows_kept(const Case& one, const std::string& keys_name, const std::string& values_name, const reference::Matrix& stored,
                      Run& run) {
  if (!one.has(keys_name) && !one.has(values_name)) { return; }
  const std::vector<reference::Matrix> keys = heads(one.array(keys_name));
  const std::vector<reference::Matrix> values = heads(one.array(values_name));
  double worst = 0.0;
  std::vector<float> key(run.k.dim);
  std::vector<float> value(run.v.dim);
  for (std::size_t head = 0; head < run.k.heads; ++head) {
    const auto lane = static_cast<reference::Index>(head);
    std::map<std::int64_t, reference::Index> place;
    for (reference::Index i = 0; i < stored.cols(); ++i) { place[static_cast<std::int64_t>(stored(lane, i))] = i; }
    ASSERT_EQ(keys.at(head).rows(), stored.cols());
    const auto& table = run.cache.table(0, head);
    std::size_t compared = 0;
    for (std::size_t row = 0; row < table.rows(); ++row) {
      const auto at = place.find(static_cast<std::int64_t>(table.position(row)));
      if (at == place.end()) { continue; }
      ++compared;
      run.cache.read(0, head, row, key.data(), value.data());
      for (std::size_t c = 0; c < key.size(); ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(key[c]) - keys[head](at->second, static_cast<reference::Index>(c))));
      }
      for (std::size_t c = 0; c < value.size(); ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(value[c]) - values[head](at->second, static_cast<reference::Index>(c))));
      }
    }
    EXPECT_GT(compared, 0U);
  }
  expect_within(one, "kept keys and values", worst, 0.0);
}

}  // namespace kvcompress::conformance
