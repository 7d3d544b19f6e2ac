// examples/registry/kivi.cpp - KIVI, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/kivi.hpp"

#include "registry/families.hpp"

void examples::add_kivi(kvcompress::Registry& registry) { kvcompress::add_kivi(registry); }
