// include/kvcompress/low_rank/shared_basis.hpp - xKV's stores: one token basis for all heads of a group of layers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/low_rank/factored_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Options of both stores.
struct SharedBasisOptions {
  std::size_t layers_per_group = 4;  ///< layers that share a basis, at least 1; a last group may be shorter
  std::size_t rank_keys =
      0;  ///< per group; more than its channels are all; 0 means 1/8 of the group's key channels (512 at 4 layers of 8 heads of 128)
  std::size_t rank_values = 0;                            ///< per group, likewise; 0 means 3/16 of the group's value channels (768 there)
  std::size_t first_layer = 0;                            ///< layers before it stay exact
  std::size_t last_layer = static_cast<std::size_t>(-1);  ///< the last one in a group; later ones stay exact
  bool merge_keys = true;                                 ///< false: keys stay exact
  bool merge_values = true;                               ///< false: values stay exact
  std::size_t fold_in = 0;  ///< project decoded rows on the prompt's space when this many are there; 0 leaves them exact
  low_rank::Factorisation factorisation = low_rank::Factorisation::automatic;
  static void fields(auto& options, auto&& field) {
    field("layers_per_group", options.layers_per_group);
    field("rank_keys", options.rank_keys);
    field("rank_values", options.rank_values);
    field("first_layer", options.first_layer);
    field("last_layer", options.last_layer);
    field("merge_keys", options.merge_keys);
    field("merge_values", options.merge_values);
    field("fold_in", options.fold_in);
  }
  static void unnamed_fields(auto& options, auto&& field) { field("factorisation", options.factorisation); }

  /// The layers of the group that `layer` is in; a layer outside all groups is alone.
  [[nodiscard]] RowRange group_of(std::size_t layers, std::size_t layer) const noexcept {
    const std::size_t end = std::min(layers, last_layer == static_cast<std::size_t>(-1) ? layers : last_layer + 1);
    if (layer < first_layer || layer >= end) { return {layer, layer + 1}; }
    const std::size_t first = layer - (layer - first_layer) % layers_per_group;
    return {first, first + std::min(layers_per_group, end - first)};
  }
  [[nodiscard]] bool merges(std::size_t layer) const noexcept { return layer >= first_layer && layer <= last_layer; }
};

namespace detail {

/// Whether a commit that finds `rows` rows, `settled` of them encoded, would encode some.
inline bool folds_at(const SharedBasisOptions& options, std::size_t settled, std::size_t rows) noexcept {
  return settled > 0 && options.fold_in > 0 && rows >= settled + options.fold_in;
}

/// Encodes what is due in the lanes of a group: the whole prompt at its end, and decoded rows in steps of `fold_in`.
template <class Base, class Store>
void settle_group(std::span<Store* const> members, const SharedBasisOptions& options, std::size_t rank, Rotation* rotation,
                  const Settling& settling) {
  const std::size_t settled = members.front()->settled();
  const std::size_t exact = settling.rows - std::min(settling.rows, settled);
  const bool first = settled == 0;
  const bool due = first ? settling.end_of_prompt : options.fold_in > 0 && exact >= options.fold_in;
  if (!due || exact == 0) { return; }
  Vector<Base*> bases{Allocator<Base*>(settling.memory)};
  bases.assign(members.begin(), members.end());
  const std::span<Base* const> lanes(bases.data(), bases.size());
  const typename Base::Together rows(lanes, exact, settling.table, rotation);
  typename Base::Encoded(lanes, rows, exact, rank, options.factorisation, settling).take();
}

/// Upper bound of a lane's bytes in whatever group it is, or in none, where it takes `exact` bytes.
template <class Base>
std::size_t most_group_bytes(const MostRows& rows, std::size_t dim, const SharedBasisOptions& options, const Shape& shape,
                             std::size_t exact, auto&& rank_for) noexcept {
  std::size_t most = options.first_layer > 0 || options.last_layer < shape.layers - 1 ? exact : 0;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    const std::size_t members = options.group_of(shape.layers, layer).size() * shape.kv_heads;
    const std::size_t folded = options.fold_in > 0 ? rows.decoded + 256 : 0;  // their dead blocks go one by one
    most = std::max(most, Base::most_bytes(rows.live + folded, rows.decoded, dim, std::min(rows.live, rank_for(members * dim)), members));
  }
  return most;
}

}  // namespace detail

/// Keys of a group of layers, before their rotary embedding, as one basis row per token times coefficients per lane: scores multiplies
/// rows out in tiles of 32, rotates them to their positions and meets the queries with them.
/// Cost of scores: 2 * rank * dim operations per row for all queries, against 2 * dim per row and query of exact keys.
template <class T, class F = T>
class SharedBasisKeys : public FactoredRows<T, F> {
 public:
  static constexpr Scope scope = Scope::group;

  SharedBasisKeys(const SharedBasisOptions& options, const Site& /*site*/, std::size_t dim, const Memory& memory)
      : FactoredRows<T, F>(dim, memory), options_(options) {}

  static std::size_t rank_for(const SharedBasisOptions& options, std::size_t columns) noexcept {
    return options.rank_keys != 0 ? std::min(options.rank_keys, columns) : std::max<std::size_t>(1, columns / 8);
  }
  static void settle(std::span<SharedBasisKeys* const> members, const Settling& settling) {
    const SharedBasisKeys& one = *members.front();
    if (!one.options_.merge_keys || !one.options_.merges(settling.layer)) { return; }
    detail::settle_group<FactoredRows<T, F>>(members, one.options_, rank_for(one.options_, members.size() * one.dim_), &settling.rotation,
                                             settling);
  }
  [[nodiscard]] bool encodes_at(std::size_t rows) const noexcept { return detail::folds_at(options_, this->settled(), rows); }
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const SharedBasisOptions& options,
                                             const Shape& shape) noexcept {
    if (!options.merge_keys) { return Exact<T>::bytes_for(rows, dim, options); }
    const std::size_t members = std::min(options.layers_per_group, shape.layers) * shape.kv_heads;
    return FactoredRows<T, F>::bytes_for(rows, dim, std::min(rows, rank_for(options, members * dim)), members);
  }

  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const SharedBasisOptions& options, const Shape& shape,
                                              std::size_t /*at_hand*/) noexcept {
    const std::size_t exact = Exact<T>::most_bytes_of_recent(rows.live, dim, 1);
    return options.merge_keys ? detail::most_group_bytes<FactoredRows<T, F>>(
                                    rows, dim, options, shape, exact, [&](std::size_t columns) { return rank_for(options, columns); })
                              : exact;
  }

  void scores(RowRange range, const RowTable& table, Rotation& rotation, const float* queries, std::size_t query_stride,
              std::size_t query_count, float* logits, std::size_t logit_stride, float* scratch) const noexcept {
    const std::size_t border = this->settled();
    const std::size_t stride = kernels::padded(this->dim_);
    float* rows = scratch + this->factor_.rebuild_floats(tile_rows);
    if (range.first < border) { this->factor_.prepare_rebuild(scratch); }
    for (std::size_t first = range.first; first < std::min(range.last, border); first += tile_rows) {
      const std::size_t count = std::min(tile_rows, std::min(range.last, border) - first);
      this->factor_.rebuild(first, count, rows, stride, scratch);
      for (std::size_t r = 0; r < count; ++r) {
        if (!table.alive(first + r)) { continue; }
        rotation.turn_by(table.turned(first + r));
        rotation.apply(rows + r * stride);
      }
      kernels::dot_rows(rows, count, stride, queries, query_stride, query_count, logits + (first - range.first), logit_stride);
    }
    if (range.last > border) {
      const std::size_t first = std::max(range.first, border);
      this->tail_.scores({first - border, range.last - border}, queries, query_stride, query_count, logits + (first - range.first),
                         logit_stride, scratch);
    }
  }
  [[nodiscard]] std::size_t scratch_floats(std::size_t dim, std::size_t /*queries*/) const noexcept {
    return this->factor_.rebuild_floats(tile_rows) + tile_rows * kernels::padded(dim);
  }
  void read(std::size_t row, const RowTable& table, Rotation& rotation, float* out) const noexcept {
    if (row >= this->settled()) { return this->tail_.read(row - this->settled(), out); }
    this->factor_.read(row, out);
    if (table.alive(row)) {
      rotation.turn_by(table.turned(row));
      rotation.apply(out);
    }
  }

 private:
  static constexpr std::size_t tile_rows = 32;

  SharedBasisOptions options_;
};

/// Values of a group of layers, as one basis row per token times coefficients per lane: weighted sums go by way of the basis,
/// (p A) B, and never multiply rows out.
template <class T>
class SharedBasisValues : public FactoredRows<T> {
 public:
  static constexpr Scope scope = Scope::group;

  SharedBasisValues(const SharedBasisOptions& options, const Site& /*site*/, std::size_t dim, const Memory& memory)
      : FactoredRows<T>(dim, memory), options_(options) {}

  static std::size_t rank_for(const SharedBasisOptions& options, std::size_t columns) noexcept {
    return options.rank_values != 0 ? std::min(options.rank_values, columns) : std::max<std::size_t>(1, columns * 3 / 16);
  }
  static void settle(std::span<SharedBasisValues* const> members, const Settling& settling) {
    const SharedBasisValues& one = *members.front();
    if (!one.options_.merge_values || !one.options_.merges(settling.layer)) { return; }
    detail::settle_group<FactoredRows<T>>(members, one.options_, rank_for(one.options_, members.size() * one.dim_), nullptr, settling);
  }
  [[nodiscard]] bool encodes_at(std::size_t rows) const noexcept { return detail::folds_at(options_, this->settled(), rows); }
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const SharedBasisOptions& options,
                                             const Shape& shape) noexcept {
    if (!options.merge_values) { return Exact<T>::bytes_for(rows, dim, options); }
    const std::size_t members = std::min(options.layers_per_group, shape.layers) * shape.kv_heads;
    return FactoredRows<T>::bytes_for(rows, dim, std::min(rows, rank_for(options, members * dim)), members);
  }

  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const SharedBasisOptions& options, const Shape& shape,
                                              std::size_t /*at_hand*/) noexcept {
    const std::size_t exact = Exact<T>::most_bytes_of_recent(rows.live, dim, 1);
    return options.merge_values ? detail::most_group_bytes<FactoredRows<T>>(rows, dim, options, shape, exact,
                                                                            [&](std::size_t columns) { return rank_for(options, columns); })
                                : exact;
  }

  [[nodiscard]] std::size_t scratch_floats(std::size_t /*dim*/, std::size_t queries) const noexcept {
    return queries * kernels::padded(this->factor_.rank());
  }

 private:
  SharedBasisOptions options_;
};

}  // namespace kvcompress
