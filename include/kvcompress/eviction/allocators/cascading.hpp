// include/kvcompress/eviction/allocators/cascading.hpp - CAKE's budgets: layers whose attention is spread and shifts get more rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Layers share the rows of all of them but the newest, which stay anyway, by their preference entropy^(1/spread) * variance^(1/shift), the facts of
/// their lanes added up. As if each ended its prompt after the one before it: then the whole total is shared among the layers that have, and
/// no layer gets more than it had before. Rows that this leaves over stay unspent; all heads of a layer get the same. What was cut from
/// earlier layers here goes with the last: until then the prompts of all layers are held in full.
///
/// Source: "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences"; antgroup/cakekv@c4675ce21b1d:cake/utils.py. Deviations: there no
/// prompt of up to budget + window rows is cut at all; no layer gets more than its rows here. Cost: O(layers^2).
struct Cascading {
  static constexpr std::string_view name = "cascading";
  static constexpr Scope sees = Scope::model;
  static constexpr bool needs_facts = true;
  struct Options {
    double spread = 1.0;  ///< tau1 there, 0.01 to 100
    double shift = 1.0;   ///< tau2 there, 0.01 to 100
    static void fields(auto& options, auto&& field) {
      field("spread", options.spread);
      field("shift", options.shift);
    }
  };
  static void validate(const Options& options) {
    for (const auto& [what, value] : {std::pair{"spread", options.spread}, {"shift", options.shift}}) {
      require(value >= 0.01 && value <= 100.0, ErrorCode::option, "cascading: ", what, " is ", value, ", must be 0.01 to 100");
    }
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const std::span<RowSet> sets = allocation.sets;
    const auto layer_of = [&](std::size_t set) { return sets[set].lanes.front().site.layer; };
    Vector<Layer> layers(Allocator<Layer>(allocation.moment.scratch.rows.get_allocator()));
    std::size_t lane = 0;
    for (std::size_t i = 0; i < sets.size(); ++i) {
      if (i == 0 || layer_of(i) != layer_of(i - 1)) { layers.push_back({}); }
      for (std::size_t of_set = 0; of_set < sets[i].lanes.size(); ++of_set, ++lane) {
        layers.back().entropy += allocation.facts[lane][0];
        layers.back().variance += allocation.facts[lane][1];
      }
      layers.back().rows = std::max(layers.back().rows, sets[i].rows.live());
    }
    const std::size_t stay = allocation.protected_rows.recent;
    const auto even = static_cast<std::size_t>(allocation.rows);
    Vector<double> shares(Allocator<double>(layers.get_allocator()));
    Vector<std::size_t> rows(Allocator<std::size_t>(layers.get_allocator()));
    for (std::size_t ended = 1; ended <= layers.size(); ++ended) {
      shares.clear();
      double sum = 0.0;
      for (std::size_t l = 0; l < ended; ++l) { sum += shares.emplace_back(layers[l].preference(options)); }
      const std::size_t total = layers.size() * (even - std::min(even, stay));
      for (double& share : shares) { share = sum > 0.0 ? share / sum * static_cast<double>(total) : 0.0; }
      rows.assign(ended, 0);
      share_out(shares, total, layers.back().rows - std::min(layers.back().rows, stay), rows);
      for (std::size_t l = 0; l < ended; ++l) { layers[l].budget = std::min(layers[l].budget, rows[l]); }
    }
    for (std::size_t i = 0, l = 0; i < sets.size(); ++i) {
      if (i > 0 && layer_of(i) != layer_of(i - 1)) { ++l; }
      budgets[i] = std::clamp<std::size_t>(stay + layers[l].budget, 1, std::max<std::size_t>(1, sets[i].rows.live()));
    }
  }
  /// Shares of `total` rows as whole rows, none above `most`: cut, what is above it spread over the others in equal parts; of the rows that then
  /// miss to the total the first layers get one each, unless they are full. One pass, so that a layer may get more than `most` by what is spread.
  static void share_out(std::span<const double> shares, std::size_t total, std::size_t most, std::span<std::size_t> rows) {
    std::size_t excess = 0;
    std::size_t open = 0;
    for (std::size_t l = 0; l < shares.size(); ++l) {
      const auto own = static_cast<std::size_t>(shares[l]);
      rows[l] = std::min(own, most);
      excess += own - rows[l];
      open += own < most ? 1U : 0U;
    }
    std::size_t rest = open > 0 ? excess % open : 0;
    std::size_t sum = 0;
    for (std::size_t& own : rows) {
      if (own < most) {
        own += excess / open + (rest > 0 ? 1 : 0);
        rest -= std::min<std::size_t>(rest, 1);
      }
      sum += own;
    }
    for (std::size_t l = 0; l < rows.size() && sum < total; ++l) {
      const std::size_t more = rows[l] < most ? 1 : 0;
      rows[l] += more;
      sum += more;
    }
  }

 private:
  struct Layer {
    double entropy = 0.0;
    double variance = 0.0;
    std::size_t rows = 0;
    std::size_t budget = most_rows;
    [[nodiscard]] double preference(const Options& options) const {
      return __builtin_pow(entropy, 1.0 / options.spread) * __builtin_pow(variance, 1.0 / options.shift);
    }
  };
};

}  // namespace kvcompress
