// include/kvcompress/any/any_cache_definition.hpp - AnyCache compiled, for programs that define KVCOMPRESS_ANY_CACHE_APART.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/any/any_cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

template class KVCache<AnyPolicy>;

}  // namespace kvcompress
