// include/kvcompress/eviction/allocators/ada.hpp - AdaKV's budgets: the heads of a layer compete for its rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What AdaKV guarantees to every head: its best rows, before the others compete; or a share of the even budget, mixed with what it wins.
enum class AdaFloor { best, mixed };
constexpr auto names_of(AdaFloor) noexcept { return std::array{"best", "mixed"}; }

/// The best rows of all heads of a layer stay, so that heads whose attention is spread get more of them; `floor` of the even budget is each head's
/// own. A prompt that no head needs to cut gets the even budget.
///
/// Source: "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference". AdaFloor::best as
/// NVIDIA/kvpress@8bb29b9c3078:adakv_press.py, the sum over the heads is kept; AdaFloor::mixed as Zefan-Cai/KVCache-Factory@c97f9d706d63, whose
/// rounding (half to even) may change it by a row, and which can weight each head by the share of its mass in its best rows (`normalize`).
/// Ties go to the older row, then to the lower head. Cost: O(rows) per layer, at the end of a prompt; 16 bytes per row of scratch.
struct Ada {
  static constexpr std::string_view name = "ada";
  static constexpr Scope sees = Scope::layer;
  struct Options {
    double floor = 0.2;  ///< 0 to 1
    AdaFloor rule = AdaFloor::best;
    bool normalize = false;  ///< of AdaFloor::mixed
    static void fields(auto& options, auto&& field) {
      field("floor", options.floor);
      field("rule", options.rule);
      field("normalize", options.normalize);
    }
  };
  static void validate(const Options& options) {
    require(options.floor >= 0.0 && options.floor <= 1.0, ErrorCode::option, "ada: floor is ", options.floor, ", must be 0 to 1");
    require(static_cast<std::size_t>(options.rule) < 2, ErrorCode::option, "ada: rule is ", static_cast<std::size_t>(options.rule),
            ", must be a value of its enumeration, 0 to 1");
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const auto even = static_cast<std::size_t>(allocation.rows);
    const std::span<RowSet> sets = allocation.sets;
    if (std::none_of(sets.begin(), sets.end(), [&](const RowSet& set) { return set.rows.live() > even; })) { return; }
    const std::size_t kept = std::min(even, allocation.protected_rows.sinks + allocation.protected_rows.recent);
    const std::size_t own =
        static_cast<std::size_t>(static_cast<double>(options.rule == AdaFloor::best ? even : even - kept) * options.floor);
    const std::size_t safe = options.rule == AdaFloor::best ? own - std::min(own, kept) : 0;
    Competition all(allocation, budgets.size());
    for (std::size_t i = 0; i < sets.size(); ++i) {
      all.add(i, safe, options.rule == AdaFloor::mixed && options.normalize ? even - kept : 0);
    }
    all.run(sets.size() * (even - kept - safe));
    for (std::size_t i = 0; i < sets.size(); ++i) {
      std::size_t won = safe + all.won(i);
      if (options.rule == AdaFloor::mixed) {
        won = static_cast<std::size_t>(math::round_half_even(static_cast<double>(won) * (1.0 - options.floor) + static_cast<double>(own)));
      }
      budgets[i] = std::min(kept + won, std::max<std::size_t>(1, sets[i].rows.live()));
    }
  }

 private:
  /// Rows of all sets that compete for places.
  class Competition {
   public:
    Competition(const Allocation& allocation, std::size_t sets)
        : allocation_(allocation), rows_(Allocator<Row>(allocation.moment.scratch.rows.get_allocator())),
          won_(sets, 0, Allocator<std::size_t>(allocation.moment.scratch.rows.get_allocator())) {}

    /// Enters the rows of a set that are not protected, but for the best `safe` of them; weighted by the share that the best `of_best` have.
    void add(std::size_t index, std::size_t safe, std::size_t of_best) {
      RowSet& set = allocation_.sets[index];
      const std::size_t entered = rows_.size();
      const Protected& protected_rows = allocation_.protected_rows;
      if (set.rows.live() <= protected_rows.sinks + protected_rows.recent) { return; }
      const Position first = protected_rows.sinks == 0 ? 0 : set.oldest(protected_rows.sinks);
      const Position end = protected_rows.recent == 0 ? no_position : set.newest(protected_rows.recent - 1);
      for (std::size_t r = 0; r < set.rows.rows(); ++r) {
        const Position p = set.rows.position(r);
        if (p >= first && p < end) { rows_.push_back({allocation_.scores[index][r], p, index}); }
      }
      const auto from = rows_.begin() + static_cast<std::ptrdiff_t>(entered);
      if (of_best > 0 && of_best < rows_.size() - entered) {
        std::nth_element(from, from + static_cast<std::ptrdiff_t>(of_best), rows_.end(), before);
        double best = 0.0;
        double all = 0.0;
        for (auto row = from; row != rows_.end(); ++row) {
          (row - from < static_cast<std::ptrdiff_t>(of_best) ? best : all) += static_cast<double>(row->score);
        }
        const double share = best / std::max(best + all, 1e-30);
        for (auto row = from; row != rows_.end(); ++row) { row->score = static_cast<float>(static_cast<double>(row->score) * share); }
      }
      const std::size_t own = std::min(safe, rows_.size() - entered);
      if (own == 0) { return; }
      std::nth_element(from, from + static_cast<std::ptrdiff_t>(own - 1), rows_.end(), before);
      rows_.erase(from, from + static_cast<std::ptrdiff_t>(own));
    }
    void run(std::size_t places) {
      places = std::min(places, rows_.size());
      if (places == 0) { return; }
      std::nth_element(rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>(places - 1), rows_.end(), before);
      for (std::size_t i = 0; i < places; ++i) { ++won_[rows_[i].set]; }
    }
    [[nodiscard]] std::size_t won(std::size_t index) const noexcept { return won_[index]; }

   private:
    struct Row {
      float score;
      Position position;
      std::size_t set;
    };
    static bool before(const Row& a, const Row& b) noexcept {
      if (a.score != b.score) { return a.score > b.score; }
      return a.position != b.position ? a.position < b.position : a.set < b.set;
    }
    const Allocation& allocation_;
    Vector<Row> rows_;
    Vector<std::size_t> won_;
  };
};

}  // namespace kvcompress
