// include/kvcompress/any/any_cache.hpp - AnyCache: a KVCache whose parts are chosen at run time, lane by lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>

#include "kvcompress/any/any_eviction.hpp"
#include "kvcompress/any/any_retrieval.hpp"
#include "kvcompress/any/any_storage.hpp"
#include "kvcompress/cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every axis is chosen at run time.
struct AnyPolicy {
  using Eviction = AnyEviction;
  using Storage = AnyStorage;
  using Retrieval = AnyRetrieval;
};

/// A KVCache like any other: a value, with the same verbs. registry.hpp makes one from a name, any_cache<P> from a type. It gives what the
/// KVCache of these parts gives, bit for bit, and both read each other's saved files.
using AnyCache = KVCache<AnyPolicy>;

// AnyCache takes about 10 s to compile at -O3 (GCC 12). A program of many source files can define KVCOMPRESS_ANY_CACHE_APART in all of them
// and include any/any_cache_definition.hpp in one.
#if defined(KVCOMPRESS_ANY_CACHE_APART)
extern template class KVCache<AnyPolicy>;
#endif

/// An executor that may be chosen at run time: see KVCache::attend.
using AnyExecutor = std::function<void(std::size_t tasks, const std::function<void(std::size_t task, std::size_t worker)>& run)>;

/// The parts of policy P in every lane.
template <Policy P>
[[nodiscard]] AnyCache::Options any_options(const PolicyOptions<P>& options = {}) {
  using Axes = detail::Axes<P>;
  AnyCache::Options any;
  any.eviction.chosen = {{AnyEviction::of<typename Axes::Eviction>(options.eviction)}, {}};
  any.storage = AnyStorage::all_of<typename Axes::Storage>(options.storage);
  any.retrieval.chosen = {{AnyRetrieval::of<typename Axes::Retrieval>(options.retrieval)}, {}};
  any.speculation = options.speculation;
  return any;
}
template <Policy P>
[[nodiscard]] AnyCache any_cache(const Shape& shape, const PolicyOptions<P>& options = {}, const Memory& memory = {}) {
  return AnyCache(shape, any_options<P>(options), memory);
}

}  // namespace kvcompress
