// include/kvcompress/cache/bytes.hpp - what lanes hold and will hold, where stores of several lanes may share memory.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kvcompress/cache/encode.hpp"
#include "kvcompress/core/shared.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// What the store S of a lane takes for `rows` rows of `dim` numbers; `from`: see keys_at.
template <class P, class S>
std::size_t store_bytes(const Site& site, const PolicyOptions<P>& options, const auto& from, std::size_t dim, std::size_t rows) {
  const Shape& shape = site.shape;
  if constexpr (requires { S::bytes_for(rows, dim, from, shape, rows); }) {
    return S::bytes_for(rows, dim, from, shape, rows_read<P>(options, site, rows));
  } else if constexpr (requires { S::bytes_for(rows, dim, from, shape); }) {
    return S::bytes_for(rows, dim, from, shape);
  } else {
    return S::bytes_for(rows, dim, from);
  }
}

/// The sum of bytes(site) over all lanes, which may differ where a part is chosen at run time; 2^64 - 1 if it is larger.
template <class P>
std::size_t sum_over_lanes(const Shape& shape, auto&& bytes) {
  std::size_t sum = 0;
  bool overflows = false;
  if (lanes_differ<P> || shape.each != nullptr) {
    for_lanes(shape, [&](const Site& site) { overflows = __builtin_add_overflow(sum, bytes(site), &sum) || overflows; });
  } else {
    overflows = __builtin_mul_overflow(shape.layers * shape.kv_heads, bytes(Site{0, 0, shape}), &sum);
  }
  return overflows ? static_cast<std::size_t>(-1) : sum;
}

/// What a row takes in the table of a lane that evicts.
template <class P>
std::size_t table_row_bytes(const PolicyOptions<P>& options, const Site& site) noexcept {
  return sizeof(Position) * (renumbers<P>(options, site) ? 2 : 1) + (needs<P>(options, site).weighs ? sizeof(float) : 0);
}

/// What `rows` rows in a lane take: blocks, positions, state and index; of what lanes hold together, one lane's share.
template <class P>
std::size_t lane_bytes(const Site& site, const PolicyOptions<P>& options, std::size_t rows) {
  using Storage = typename Axes<P>::Storage;
  const Shape& shape = site.shape;
  const std::size_t window = site.model.widest_window(site.layer);
  if (window > 0) { rows = std::min(rows, window); }
  const bool spelt_out = window > 0 || needs<P>(options, site).decides != Decides::never;
  const std::size_t table = spelt_out ? table_row_bytes<P>(options, site) : 0;
  return store_bytes<P, typename Lane<P>::Keys>(site, options, keys_at<Storage>(options.storage, site), shape.key_width(), rows) +
         store_bytes<P, typename Lane<P>::Values>(site, options, values_at<Storage>(options.storage, site), shape.value_width(), rows) +
         rows * (table + row_bytes<P>(options, site)) + Axes<P>::Retrieval::bytes_for(options.retrieval, site, rows);
}

/// Calls work(lanes, place) for every set of lanes whose stores share memory; place(i) is the layer and head of the i-th.
template <class P, class S>
void for_sharing_lanes(const Shape& shape, const PolicyOptions<P>& options, const Vector<Shared<Layer<P>>>& layers, S Lane<P>::*store,
                       auto&& work) {
  for (std::size_t layer = 0; layer < shape.layers;) {
    if (!shape.owns(layer)) {
      ++layer;
      continue;
    }
    const std::size_t heads = shape.of(layer).kv_heads;
    const Scope scope = facts_of(layers[layer].read().lanes.front().*store).scope;
    const std::size_t last = scope == Scope::group ? layers_with<P>(options, shape, layer).last : layer + 1;
    work((last - layer) * heads, [heads, layer](std::size_t lane) -> std::pair<std::size_t, std::size_t> {
      return {layer + lane / heads, lane % heads};
    });
    layer = last;
  }
}

/// Adds the bytes of all layers. What several lanes hold together counts once; what a fork holds too is marked shared.
template <class P>
void account(const Shape& shape, const PolicyOptions<P>& options, const Vector<Shared<Layer<P>>>& layers, MemoryReport& report) noexcept {
  for (const Shared<Layer<P>>& layer : layers) {
    report.add_held(layer.shared(), [&](MemoryReport& all) {
      all.indices += Shared<Layer<P>>::box_bytes();
      layer.read().account(all);
    });
  }
  const auto together = [&]<class S>(S Lane<P>::*store) {
    if constexpr (scope_of<S>() != Scope::lane) {
      for_sharing_lanes<P>(shape, options, layers, store, [&](std::size_t lanes, auto&& place) {
        const auto member = [&](std::size_t lane) -> const S& { return layers[place(lane).first].read().lanes[place(lane).second].*store; };
        if (facts_of(member(0)).scope == Scope::lane) { return; }
        const auto shared = [&](std::size_t lane) { return layers[place(lane).first].shared(); };
        if constexpr (requires { S::account(lanes, member, shared, report); }) {
          S::account(lanes, member, shared, report);
        } else {
          for (std::size_t lane = 0; lane < lanes; ++lane) {
            report.add_held(shared(lane), [&](MemoryReport& all) { member(lane).account(all); });
          }
        }
      });
    }
  };
  together(&Lane<P>::keys);
  together(&Lane<P>::values);
}

/// Clones what copies of these layers hold too; lanes that shared memory with each other still do.
template <class P>
void unshare(const Shape& shape, const PolicyOptions<P>& options, Vector<Shared<Layer<P>>>& layers) {
  const auto stores = [&]<class S>(S Lane<P>::*store) {
    for_sharing_lanes<P>(shape, options, layers, store, [&](std::size_t lanes, auto&& place) {
      const auto member = [&](std::size_t lane) -> S& {
        return layers[place(lane).first].write_in_place().lanes[place(lane).second].*store;
      };
      if constexpr (requires { S::unshare(lanes, member); }) {
        S::unshare(lanes, member);
      } else {
        for (std::size_t lane = 0; lane < lanes; ++lane) { member(lane).unshare(); }
      }
    });
  };
  stores(&Lane<P>::keys);
  stores(&Lane<P>::values);
}

}  // namespace kvcompress::detail
