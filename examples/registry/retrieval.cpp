// examples/registry/retrieval.cpp - Quest and landmarks, compiled.
// SPDX-License-Identifier: MIT
#include "kvcompress/registry/retrieval.hpp"

#include "registry/families.hpp"

void examples::add_retrieval(kvcompress::Registry& registry) { kvcompress::add_retrieval(registry); }
