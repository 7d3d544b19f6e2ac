// examples/compare_policies/policies.hpp - caches by name, and what names there are.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "kvcompress/any/any_cache.hpp"

namespace comparison {

/// The cache that a policy names; raises the registry's Error.
kvcompress::AnyCache make_cache(const std::string& policy, const kvcompress::Shape& shape, const kvcompress::Memory& memory);

/// Whether a query reads only some of the rows that the policy's cache holds.
bool retrieves(const std::string& policy);

/// The parts of the registry with their options and defaults, one per line.
std::string list_of_parts();

/// The vector instructions that the library's kernels use here.
std::string simd_backend();

}  // namespace comparison
