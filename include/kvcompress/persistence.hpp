// include/kvcompress/persistence.hpp - saving and loading caches, with xxHash's XXH3 as the checksum. Needs xxHash's header.
// SPDX-License-Identifier: MIT
#pragma once

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include "kvcompress/cache/persist.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

inline std::uint64_t xxh3(const void* from, std::size_t bytes) noexcept { return XXH3_64bits(from, bytes); }

}  // namespace detail

/// Writes all of a cache, in whatever phase it is, to `sink`: rows and codes as they are, and what the policy
/// remembers; no spare memory. A sink that fails is an Error; what it took is no whole file then. Extra memory: 256 KiB.
template <class P>
void save(const KVCache<P>& cache, const ByteSink& sink) {
  save(cache, sink, detail::xxh3);
}

/// Replaces the content of a cache by a saved one of the same policy, options and shape; it then goes on bit for bit as the one that was
/// saved, on the same kind of processor. Texts among the options, such as directories, may differ. A file that is damaged or cut short, or
/// that differs in anything, is an Error whose sentence names what, and the cache is unchanged. Extra memory: the old content and 256 KiB.
/// The checksums find damage, not malice: do not load what an enemy has made.
template <class P>
void load(KVCache<P>& cache, const ByteSource& source) {
  load(cache, source, detail::xxh3);
}

}  // namespace kvcompress
