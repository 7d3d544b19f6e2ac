// include/kvcompress/registry/gear.hpp - GEAR by name.
// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "kvcompress/policies/gear.hpp"
#include "kvcompress/registry/evictions.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// GEAR with `Bits`, alone and with streaming; with h2o and snapkv, where heads hold different rows, in its form for that.
template <int Bits>
void add_gear_of(Registry& registry, std::string_view name) {
  using OfAHead = Gear<Bits, Kcvt, ValueVectors::head>;
  registry.add<Gear<Bits>>("", name);
  registry.add<Combine<StreamingLLM, Gear<Bits>>>("streaming", name);
  registry.add<Combine<H2O, OfAHead>>("h2o", name);
  registry.add<Combine<SnapKV, OfAHead>>("snapkv", name);
}

/// gear2, gear4, alone and with streaming, h2o, snapkv.
inline void add_gear(Registry& registry) {
  add_gear_of<2>(registry, "gear2");
  add_gear_of<4>(registry, "gear4");
}

}  // namespace kvcompress
