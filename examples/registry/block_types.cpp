// examples/registry/block_types.cpp - ggml's block types, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/block_types.hpp"

#include "registry/families.hpp"

void examples::add_block_types(kvcompress::Registry& registry) { kvcompress::add_block_types(registry); }
