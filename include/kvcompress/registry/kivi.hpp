// include/kvcompress/registry/kivi.hpp - KIVI by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// kivi2, kivi3, kivi4, kivi8.
inline void add_kivi(Registry& registry) {
  registry.add<Kivi<2>>("kivi2");
  registry.add<Kivi<3>>("kivi3");
  registry.add<Kivi<4>>("kivi4");
  registry.add<Kivi<8>>("kivi8");
}

}  // namespace kvcompress
