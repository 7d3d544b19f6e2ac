// include/kvcompress/registry/retrieval.hpp - Quest and landmarks by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// quest, landmarks.
inline void add_retrieval(Registry& registry) {
  registry.add<Quest>("quest");
  registry.add<Landmarks>("landmarks");
}

}  // namespace kvcompress
