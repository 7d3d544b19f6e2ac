// examples/registry/registry.cpp - what kvcompress::standard_registry() makes, from parts that are compiled side by side.
// SPDX-License-Identifier: MIT
#include "registry/registry.hpp"

#include "registry/families.hpp"

namespace examples {

const kvcompress::Registry& registry() {
  static const kvcompress::Registry standard = [] {
    kvcompress::Registry all;
    add_evictions(all);
    add_exact(all);
    add_kivi(all);
    add_rotated(all);
    add_block_types(all);
    add_gear(all);
    add_low_rank(all);
    add_retrieval(all);
    return all;
  }();
  return standard;
}

}  // namespace examples
