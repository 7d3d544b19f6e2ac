// include/kvcompress/policies/windowed.hpp - layers with sliding windows: rows that no later query sees leave.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/keep_all.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// For models some layers of which have a sliding window (Gemma 2 and 3, gpt-oss), beside a storage: `Combine<Windowed, Kivi<4>>`. Evictions need it
/// not, nor do policies by name.
/// Keeps: of a layer with Shape::window the rows that a later query may see, of others all. Observes: nothing. Loses: nothing.
struct Windowed {
  using Eviction = KeepVisible;
};

}  // namespace kvcompress
