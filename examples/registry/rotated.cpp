// examples/registry/rotated.cpp - rotated codes, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/rotated.hpp"

#include "registry/families.hpp"

void examples::add_rotated(kvcompress::Registry& registry) { kvcompress::add_rotated(registry); }
