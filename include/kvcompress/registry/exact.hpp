// include/kvcompress/registry/exact.hpp - f16, f32 and bf16 by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/full.hpp"
#include "kvcompress/registry/evictions.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// f16, f32, bf16, alone and with streaming, h2o, snapkv.
inline void add_exact(Registry& registry) {
  add_with_all_evictions<Full<half>>(registry, "f16");
  add_with_all_evictions<Full<float>>(registry, "f32");
  add_with_all_evictions<Full<bfloat16>>(registry, "bf16");
}

}  // namespace kvcompress
