// examples/registry/gear.cpp - GEAR, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/gear.hpp"

#include "registry/families.hpp"

void examples::add_gear(kvcompress::Registry& registry) { kvcompress::add_gear(registry); }
