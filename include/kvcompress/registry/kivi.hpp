// include/kvcompress/registry/kivi.hpp - KIVI by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/registry/evictions.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// kivi2, kivi3, kivi4, kivi8, alone and with streaming, h2o, snapkv.
inline void add_kivi(Registry& registry) {
  add_with_all_evictions<Kivi<2>>(registry, "kivi2");
  add_with_all_evictions<Kivi<3>>(registry, "kivi3");
  add_with_all_evictions<Kivi<4>>(registry, "kivi4");
  add_with_all_evictions<Kivi<8>>(registry, "kivi8");
}

}  // namespace kvcompress
