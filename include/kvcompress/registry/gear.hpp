// include/kvcompress/registry/gear.hpp - GEAR by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/gear.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// gear2, gear4; where KV heads keep different rows, in the form for that.
inline void add_gear(Registry& registry) {
  registry.add<Gear<2>, Gear<2, Kcvt, ValueVectors::head>>("gear2");
  registry.add<Gear<4>, Gear<4, Kcvt, ValueVectors::head>>("gear4");
}

}  // namespace kvcompress
