// include/kvcompress/registry/rotated.hpp - rotated codes by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/rotated.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// rot2, rot3, rot4, rot8, and in levels lm2, lm3, lm4.
inline void add_rotated(Registry& registry) {
  registry.add<Rotated<2>>("rot2");
  registry.add<Rotated<3>>("rot3");
  registry.add<Rotated<4>>("rot4");
  registry.add<Rotated<8>>("rot8");
  registry.add<RotatedLevels<2>>("lm2");
  registry.add<RotatedLevels<3>>("lm3");
  registry.add<RotatedLevels<4>>("lm4");
}

}  // namespace kvcompress
