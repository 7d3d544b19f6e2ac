// include/kvcompress/standard_registry.hpp - every part of the library by name. Slow to compile: include it in one source file.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/registry/block_types.hpp"
#include "kvcompress/registry/evictions.hpp"
#include "kvcompress/registry/exact.hpp"
#include "kvcompress/registry/gear.hpp"
#include "kvcompress/registry/kivi.hpp"
#include "kvcompress/registry/low_rank.hpp"
#include "kvcompress/registry/retrieval.hpp"
#include "kvcompress/registry/rotated.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every part of the library: Registry::parts() lists them, Registry::policies() their combinations. "full" is another name of f16,
/// "streaming_llm" of streaming. Needs Eigen: without it, or to compile in several source files, call the functions add_evictions, add_exact,
/// ..., that you want on a Registry of your own; only add_low_rank needs it.
[[nodiscard]] inline Registry standard_registry() {
  Registry registry;
  add_evictions(registry);
  add_exact(registry);
  add_kivi(registry);
  add_rotated(registry);
  add_block_types(registry);
  add_gear(registry);
  add_low_rank(registry);
  add_retrieval(registry);
  return registry;
}

}  // namespace kvcompress
