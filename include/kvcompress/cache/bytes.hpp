// include/kvcompress/cache/bytes.hpp - what lanes hold and will hold, where stores of several lanes may share memory.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <utility>

#include "kvcompress/cache/encode.hpp"
#include "kvcompress/core/shared.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Of `rows` rows those that a query reads.
template <class P>
std::size_t rows_at_hand(const PolicyOptions<P>& options, std::size_t rows) {
  if constexpr (requires { Axes<P>::Retrieval::rows_read(options.retrieval, rows); }) {
    return Axes<P>::Retrieval::rows_read(options.retrieval, rows);
  } else {
    return rows;
  }
}
/// What the store S of a lane takes for `rows` rows of `dim` numbers; `from`: see keys_at.
template <class P, class S>
std::size_t store_bytes(const Shape& shape, const PolicyOptions<P>& options, const auto& from, std::size_t dim, std::size_t rows) {
  if constexpr (requires { S::bytes_for(rows, dim, from, shape, rows); }) {
    return S::bytes_for(rows, dim, from, shape, rows_at_hand<P>(options, rows));
  } else if constexpr (requires { S::bytes_for(rows, dim, from, shape); }) {
    return S::bytes_for(rows, dim, from, shape);
  } else {
    return S::bytes_for(rows, dim, from);
  }
}

/// Calls visit(site, count) for lanes that differ, with how many there are of each kind.
template <class P>
void for_kinds_of_lanes(const Shape& shape, auto&& visit) {
  if constexpr (ChosenStore<typename Lane<P>::Keys>) {
    for (std::size_t lane = 0; lane < shape.layers * shape.kv_heads; ++lane) {
      visit(Site{lane / shape.kv_heads, lane % shape.kv_heads, shape}, std::size_t{1});
    }
  } else {
    visit(Site{0, 0, shape}, shape.layers * shape.kv_heads);
  }
}

/// What `rows` rows in a lane take: blocks, positions, state and index; of what lanes hold together, one lane's share.
template <class P>
std::size_t lane_bytes(const Site& site, const PolicyOptions<P>& options, std::size_t rows) {
  using Eviction = typename Axes<P>::Eviction;
  using Storage = typename Axes<P>::Storage;
  const Shape& shape = site.shape;
  const std::size_t table = Eviction::decides == Decides::never ? 0 : sizeof(Position) * (Eviction::renumbers(options.eviction) ? 2 : 1);
  return store_bytes<P, typename Lane<P>::Keys>(shape, options, keys_at<Storage>(options.storage, site), shape.key_width(), rows) +
         store_bytes<P, typename Lane<P>::Values>(shape, options, values_at<Storage>(options.storage, site), shape.value_width(), rows) +
         rows * (table + Eviction::row_bytes(options.eviction, shape)) + Axes<P>::Retrieval::bytes_for(options.retrieval, shape, rows);
}

/// Calls work(lanes, place) for every set of lanes whose stores share memory; place(i) is the layer and head of the i-th.
template <class P, class S>
void for_sharing_lanes(const Shape& shape, const PolicyOptions<P>& options, const Vector<Shared<Layer<P>>>& layers, S Lane<P>::*store,
                       auto&& work) {
  for (std::size_t layer = 0; layer < shape.layers;) {
    const Scope scope = facts_of(layers[layer].read().lanes.front().*store).scope;
    const std::size_t last = scope == Scope::group ? layers_with<P>(options, shape, layer).last : layer + 1;
    work((last - layer) * shape.kv_heads, [&shape, layer](std::size_t lane) -> std::pair<std::size_t, std::size_t> {
      return {layer + lane / shape.kv_heads, lane % shape.kv_heads};
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
