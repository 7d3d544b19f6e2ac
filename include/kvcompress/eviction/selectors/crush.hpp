// include/kvcompress/eviction/selectors/crush.hpp - KVCrush's choice: blocks of the best rows, and some that stand for the others.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/random_bits.hpp"
#include "kvcompress/eviction/selectors/chunk.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The block that others are compared with: a bit for every row of it.
enum class Anchor { zeros, ones, mean, alternating, random };
constexpr auto names_of(Anchor) noexcept { return std::array{"zeros", "ones", "mean", "alternating", "random"}; }

/// Blocks of `block` rows in text order stay whole: those with the largest mean scores, and, for `share` of the budget, others that stand for what
/// goes. A row is marked if it is of the better half of all; a block is as far from the anchor as its marks differ; ordered by that distance, every
/// n-th block of those that would go stays. Protected rows stay first; fewer rows than the budget may stay. Cost: two sorts.
///
/// Source: "KVCrush: Key Value Cache Size-Reduction Using Similarity in Head-Behaviour";
/// openvinotoolkit/openvino.genai@da1db864d2bc:kvcrush.cpp. Deviation: a random anchor has other bits than the generator of a C++ library draws;
/// `bits` can give these.
struct Crush {
  static constexpr std::string_view name = "crush";
  struct Options {
    std::size_t block = 16;  ///< rows of a block, at least 1
    double share = 0.25;     ///< of the budget, for blocks that stand for others: 0 to 1
    Anchor anchor = Anchor::mean;
    std::size_t seed = 42;  ///< of a random anchor
    LoadedNumbers bits{};   ///< (block) of a random anchor, 0 or 1 each, instead of the seed's; or none
    static void fields(auto& options, auto&& field) {
      field("block", options.block);
      field("share", options.share);
      field("anchor", options.anchor);
      field("seed", options.seed);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("bits", options.bits); }
  };
  static void validate(const Options& options) {
    check_bounds("crush: block", options.block, 1);
    require(options.share >= 0.0 && options.share <= 1.0, ErrorCode::option, "crush: share is ", options.share, ", must be 0 to 1");
    check_named("crush: anchor", options.anchor);
    if (options.bits.size() == 0) { return; }
    options.bits.check("crush: bits", options.block, "the rows of a block, or none,");
    for (const float bit : options.bits.all()) {
      require(bit == 0.0F || bit == 1.0F, ErrorCode::option, "crush: bits has ", bit, ", must be 0 or 1");
    }
  }

  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    if (set.rows.live() <= budget) { return; }
    const Vector<detail::Chunk> blocks = detail::chunks_of(set, scores, protected_rows, options.block);
    detail::Keeping keeping(set, protected_rows, budget);
    Vector<detail::Chunk> best(blocks);
    std::sort(best.begin(), best.end(), detail::Chunk::before);
    const std::size_t most = budget / options.block;
    const auto others = static_cast<std::size_t>(static_cast<double>(most) * options.share);
    const auto keep = [&](const detail::Chunk& block) {
      if (keeping.missing(block) <= keeping.left()) { keeping.keep(block.first, block.last); }
    };
    for (std::size_t i = 0; i < std::min(most - others, best.size()); ++i) { keep(best[i]); }
    Vector<std::size_t> open(Allocator<std::size_t>(set.order.get_allocator()));
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (keeping.missing(blocks[i]) == options.block) { open.push_back(i); }
    }
    Vector<float> in_order(Allocator<float>(set.order.get_allocator()));
    for (const Position row : set.order) { in_order.push_back(scores[row]); }
    for (const std::size_t i : representatives(options, in_order, open, others)) { keep(blocks[i]); }
  }
  /// Of the blocks `open`, ascending, `count` that stand for all of them; scores in text order.
  static Vector<std::size_t> representatives(const Options& options, const Vector<float>& scores, const Vector<std::size_t>& open,
                                             std::size_t count) {
    Vector<std::size_t> chosen(Allocator<std::size_t>(scores.get_allocator()));
    count = std::min(count, open.size());
    if (count == 0) { return chosen; }
    Vector<std::size_t> order(scores.size(), 0, chosen.get_allocator());
    for (std::size_t i = 0; i < order.size(); ++i) { order[i] = i; }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    Vector<unsigned char> marks(scores.size(), 0, Allocator<unsigned char>(scores.get_allocator()));
    for (std::size_t i = 0; i < order.size() / 2; ++i) { marks[order[i]] = 1; }
    const Vector<unsigned char> anchor = anchor_of(options, marks);
    const auto distance = [&](std::size_t block) {
      std::size_t sum = 0;
      for (std::size_t i = 0; i < options.block && block * options.block + i < marks.size(); ++i) {
        sum += marks[block * options.block + i] != anchor[i] ? 1U : 0U;
      }
      return sum;
    };
    Vector<std::size_t> near(open);
    std::stable_sort(near.begin(), near.end(), [&](std::size_t a, std::size_t b) { return distance(a) < distance(b); });
    for (std::size_t i = 0; i < count; ++i) { chosen.push_back(near[i * (near.size() / count)]); }
    return chosen;
  }

 private:
  static Vector<unsigned char> anchor_of(const Options& options, const Vector<unsigned char>& marks) {
    Vector<unsigned char> anchor(options.block, options.anchor == Anchor::ones ? 1 : 0, marks.get_allocator());
    const std::size_t blocks = (marks.size() + options.block - 1) / options.block;
    for (std::size_t i = 0; i < options.block; ++i) {
      if (options.anchor == Anchor::alternating) { anchor[i] = i % 2; }
      if (options.anchor == Anchor::random) { anchor[i] = random_bit(options, i); }
      if (options.anchor != Anchor::mean) { continue; }
      std::size_t marked = 0;
      for (std::size_t row = i; row < marks.size(); row += options.block) { marked += marks[row]; }
      anchor[i] = 2 * marked > blocks ? 1 : 0;
    }
    return anchor;
  }
  static unsigned char random_bit(const Options& options, std::size_t row) noexcept {
    if (options.bits.size() > 0) { return static_cast<unsigned char>(options.bits.all()[row]); }
    return static_cast<unsigned char>(random_bits(random_bits(options.seed) + row) >> 63U);
  }
};

}  // namespace kvcompress
