// examples/registry/families.hpp - the library's parts by family, each compiled in a source file of its own.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/registry.hpp"

namespace examples {

// Each calls the function of the same name in namespace kvcompress.
void add_evictions(kvcompress::Registry& registry);
void add_exact(kvcompress::Registry& registry);
void add_kivi(kvcompress::Registry& registry);
void add_rotated(kvcompress::Registry& registry);
void add_block_types(kvcompress::Registry& registry);
void add_gear(kvcompress::Registry& registry);
void add_low_rank(kvcompress::Registry& registry);
void add_retrieval(kvcompress::Registry& registry);

}  // namespace examples
