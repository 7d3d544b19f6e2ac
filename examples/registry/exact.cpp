// examples/registry/exact.cpp - f16, f32 and bf16, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/exact.hpp"

#include "registry/families.hpp"

void examples::add_exact(kvcompress::Registry& registry) { kvcompress::add_exact(registry); }
