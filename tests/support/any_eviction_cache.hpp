// tests/support/any_eviction_cache.hpp - one cache for the evictions of many official cases: compiled once.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/any/any_eviction.hpp"
#include "support/eviction_cases.hpp"

namespace kvcompress::conformance {

using AnyEvictionCache = KVCache<PolicyOf<AnyEviction>>;

template <class E>
AnyEvictionCache cache_of(const Shape& shape, const typename E::Options& options) {
  AnyEvictionCache::Options all;
  all.eviction.chosen = {{AnyEviction::of<E>(options)}, {}};
  return AnyEvictionCache(shape, all);
}
/// Slice `index` of the first axis of an array.
inline npy::Array slice(const npy::Array& all, std::size_t index) {
  const std::size_t size = all.values.size() / all.shape.at(0);
  const auto first = all.values.begin() + static_cast<std::ptrdiff_t>(index * size);
  return {{all.shape.begin() + 1, all.shape.end()}, {first, first + static_cast<std::ptrdiff_t>(size)}};
}

}  // namespace kvcompress::conformance
