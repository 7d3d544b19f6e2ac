// include/kvcompress/eviction/allocators/composites.hpp - KVCompose's budgets: the best rows of all layers stay.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows of all layers compete for the places of all. With `structured` the heads of a layer get the same budget: what competes are its composite
/// tokens, the mean over the heads of their best rows, of their second best, and so on, and the first layer has of each the best of all
/// layers. Otherwise rows compete by themselves, as in KVzip. Rows that stay anyway are counted first.
///
/// Source: "KVCompose: Efficient Structured KV Cache Compression with Composite Tokens"; NVIDIA/kvpress@8bb29b9c3078:kvcompose_press.py, and
/// kvzip_press.py there. Cost: a sort of the rows of every lane; until the last layer has ended its prompt all prompts are held in full.
struct Composites {
  static constexpr std::string_view name = "composites";
  static constexpr Scope sees = Scope::model;
  struct Options {
    bool structured = true;  ///< heads of a layer keep as many rows
    static void fields(auto& options, auto&& field) { field("structured", options.structured); }
  };

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const std::span<RowSet> sets = allocation.sets;
    const auto memory = allocation.moment.scratch.rows.get_allocator();
    const std::size_t stay = allocation.protected_rows.sinks + allocation.protected_rows.recent;
    const auto layer_of = [&](std::size_t set) { return sets[set].lanes.front().site.layer; };
    Vector<Vector<float>> all(Allocator<Vector<float>>{memory});  // of the competitors, descending
    Vector<std::size_t> competitor(Allocator<std::size_t>{memory});
    for (std::size_t i = 0, in_layer = 0; i < sets.size(); ++i) {
      Vector<float> own = sorted(allocation, i);
      const bool joins = options.structured && i > 0 && layer_of(i) == layer_of(i - 1);
      if (joins) {
        const auto weight = static_cast<float>(++in_layer);
        own.resize(std::min(own.size(), all.back().size()));
        all.back().resize(own.size());
        for (std::size_t t = 0; t < own.size(); ++t) { all.back()[t] += (own[t] - all.back()[t]) / weight; }
      } else {
        in_layer = 1;
        all.push_back(std::move(own));
      }
      competitor.push_back(all.size() - 1);
    }
    for (std::size_t l = 1; options.structured && l < all.size(); ++l) {
      for (std::size_t t = 0; t < std::min(all[0].size(), all[l].size()); ++t) { all[0][t] = std::max(all[0][t], all[l][t]); }
    }
    const Vector<std::size_t> won =
        places(all, static_cast<double>(all.size()) * std::max(0.0, allocation.rows - static_cast<double>(stay)));
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      budgets[i] = std::clamp<std::size_t>(stay + won[competitor[i]], 1, std::max<std::size_t>(1, sets[i].rows.live()));
    }
  }

 private:
  /// Scores of the rows of a set that do not stay anyway, descending.
  static Vector<float> sorted(const Allocation& allocation, std::size_t index) {
    RowSet& set = allocation.sets[index];
    set.sort_rows();
    Vector<float> scores(Allocator<float>(allocation.moment.scratch.rows.get_allocator()));
    for (std::size_t i = allocation.protected_rows.sinks; i + allocation.protected_rows.recent < set.order.size(); ++i) {
      scores.push_back(allocation.scores[index][set.order[i]]);
    }
    std::sort(scores.begin(), scores.end(), [](float a, float b) { return a > b; });
    return scores;
  }
  /// How many of the best `count` of all are of each; ties go to the better place among one's own, then to the first.
  static Vector<std::size_t> places(const Vector<Vector<float>>& all, double count) {
    struct Token {
      float score;
      std::size_t place;
      std::size_t of;
    };
    Vector<Token> tokens(Allocator<Token>(all.get_allocator()));
    for (std::size_t l = 0; l < all.size(); ++l) {
      for (std::size_t t = 0; t < all[l].size(); ++t) { tokens.push_back({all[l][t], t, l}); }
    }
    const std::size_t chosen = std::min(static_cast<std::size_t>(count + 1e-9), tokens.size());
    const auto before = [](const Token& a, const Token& b) {
      if (a.score != b.score) { return a.score > b.score; }
      return a.place != b.place ? a.place < b.place : a.of < b.of;
    };
    std::nth_element(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(chosen), tokens.end(), before);
    Vector<std::size_t> won(all.size(), 0, Allocator<std::size_t>(all.get_allocator()));
    for (std::size_t i = 0; i < chosen; ++i) { ++won[tokens[i].of]; }
    return won;
  }
};

}  // namespace kvcompress
