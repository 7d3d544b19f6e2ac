// include/kvcompress/cache/retrieves.hpp - whether queries choose among the rows of a lane: at compile time where the type says, else asked.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string_view>
#include <type_traits>

#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// A part of a policy that is chosen lane by lane, at run time.
template <class Part>
concept ChosenPerLane = requires(const typename Part::Options& options, const Site& site) {
  options.chosen.at(site);
};
/// Whether lanes may differ otherwise than by what their parts make of their Site.
template <class P>
inline constexpr bool lanes_differ =
    ChosenPerLane<typename Axes<P>::Eviction> || ChosenPerLane<typename Axes<P>::Storage> || ChosenPerLane<typename Axes<P>::Retrieval>;

/// Calls work(site) for every lane that has rows.
void for_lanes(const Shape& shape, auto&& work) {
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; shape.owns(layer) && head < shape.of(layer).kv_heads; ++head) { work(Site{layer, head, shape}); }
  }
}

/// A retrieval that is chosen at run time: a lane's State, or options and site, say whether it is another than ReadAll, and which.
template <class R>
concept RetrievesAtRunTime = requires(const typename R::Options& options, const Site& site, const typename R::State& index) {
  R::retrieves(options, site);
  R::name_of(options, site);
  R::largest_key_of(options, site);
  index.retrieves();
};

/// Whether queries may choose rows in some lane: what serves retrievals is compiled only then.
template <class P>
inline constexpr bool may_retrieve = !std::is_same_v<typename Axes<P>::Retrieval, ReadAll>;
/// Whether they do in all lanes, of any cache of P.
template <class P>
inline constexpr bool must_retrieve = may_retrieve<P> && !RetrievesAtRunTime<typename Axes<P>::Retrieval>;

/// Whether they do in the lane with this index, in the lane at `site`.
template <class P>
constexpr bool retrieves(const typename Axes<P>::Retrieval::State& index) noexcept {
  if constexpr (RetrievesAtRunTime<typename Axes<P>::Retrieval>) {
    return index.retrieves();
  } else {
    return may_retrieve<P>;
  }
}
template <class P>
constexpr bool retrieves(const PolicyOptions<P>& options, const Site& site) noexcept {
  if constexpr (RetrievesAtRunTime<typename Axes<P>::Retrieval>) {
    return Axes<P>::Retrieval::retrieves(options.retrieval, site);
  } else {
    return may_retrieve<P>;
  }
}

template <class P>
constexpr std::string_view retrieval_name(const PolicyOptions<P>& options, const Site& site) noexcept {
  if constexpr (RetrievesAtRunTime<typename Axes<P>::Retrieval>) {
    return Axes<P>::Retrieval::name_of(options.retrieval, site);
  } else {
    return Axes<P>::Retrieval::name;
  }
}

/// Whether a retrieval's index follows rows that are written and weighed: see the concept.
template <class R>
constexpr bool follows_writes = requires {
  requires R::follows_writes;
};
template <class P>
constexpr bool index_follows_writes([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (RetrievesAtRunTime<typename Axes<P>::Retrieval>) {
    return options.retrieval.chosen.at(site).ops->follows_writes;
  } else {
    return follows_writes<typename Axes<P>::Retrieval>;
  }
}

/// Of `rows` rows of a lane those that a query reads.
template <class P>
std::size_t rows_read(const PolicyOptions<P>& options, const Site& site, std::size_t rows) noexcept {
  if constexpr (requires { Axes<P>::Retrieval::rows_read(options.retrieval, site, rows); }) {
    return Axes<P>::Retrieval::rows_read(options.retrieval, site, rows);
  } else {
    return rows;
  }
}

/// The largest magnitude of a key that the indices of a layer can hold.
template <class P>
constexpr float largest_indexed_key(const PolicyOptions<P>& options, const Shape& shape, std::size_t layer) noexcept {
  using Retrieval = typename Axes<P>::Retrieval;
  if constexpr (RetrievesAtRunTime<Retrieval>) {
    float most = std::numeric_limits<float>::infinity();
    for (std::size_t head = 0; head < shape.of(layer).kv_heads; ++head) {
      most = std::min(most, Retrieval::largest_key_of(options.retrieval, Site{layer, head, shape}));
    }
    return most;
  } else if constexpr (requires { Retrieval::largest_key; }) {
    return Retrieval::largest_key;
  } else {
    return std::numeric_limits<float>::infinity();
  }
}

}  // namespace kvcompress::detail
