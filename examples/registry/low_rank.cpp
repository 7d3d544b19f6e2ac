// examples/registry/low_rank.cpp - xKV and ShadowKV, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/low_rank.hpp"

#include "registry/families.hpp"

void examples::add_low_rank(kvcompress::Registry& registry) { kvcompress::add_low_rank(registry); }
