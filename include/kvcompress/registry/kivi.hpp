// include/kvcompress/registry/kivi.hpp - KIVI, and its codes as a colder tier, by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/tiers.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// kivi2, kivi3, kivi4, kivi8; tiers2, tiers4.
inline void add_kivi(Registry& registry) {
  registry.add<Kivi<2>>("kivi2");
  registry.add<Kivi<3>>("kivi3");
  registry.add<Kivi<4>>("kivi4");
  registry.add<Kivi<8>>("kivi8");
  registry.add<Tiers<2>>("tiers2");
  registry.add<Tiers<4>>("tiers4");
}

}  // namespace kvcompress
