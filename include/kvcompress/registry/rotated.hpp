// include/kvcompress/registry/rotated.hpp - rotated codes by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/rotated.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// rot2, rot3, rot4, rot8.
inline void add_rotated(Registry& registry) {
  registry.add<Rotated<2>>("rot2");
  registry.add<Rotated<3>>("rot3");
  registry.add<Rotated<4>>("rot4");
  registry.add<Rotated<8>>("rot8");
}

}  // namespace kvcompress
