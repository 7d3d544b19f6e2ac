// examples/registry/evictions.cpp - the evictions, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/evictions.hpp"

#include "registry/families.hpp"

void examples::add_evictions(kvcompress::Registry& registry) { kvcompress::add_evictions(registry); }
