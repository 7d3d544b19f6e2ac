// include/kvcompress/registry/exact.hpp - f16, f32 and bf16 by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/full.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// f16, f32, bf16.
inline void add_exact(Registry& registry) {
  registry.add<Full<half>>("f16");
  registry.add<Full<float>>("f32");
  registry.add<Full<bfloat16>>("bf16");
}

}  // namespace kvcompress
