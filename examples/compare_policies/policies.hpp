// examples/compare_policies/policies.hpp - what the registry says of policies, without the library's cache.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "compare_policies/policy_list.hpp"
#include "compare_policies/results.hpp"
#include "kvcompress/core/shape.hpp"

namespace comparison {

/// The registry's parts, in its order.
const std::vector<Part>& parts();

/// A BadArgument with the registry's sentence for the first policy that it does not make a cache of.
void check(const std::vector<Policy>& policies, const kvcompress::Shape& shape);

/// Whether a query reads only some of the rows that the policy's cache holds.
bool retrieves(const std::string& policy);

/// The parts of the registry with their options and defaults, one per line.
std::string list_of_parts();

/// The vector instructions that the library's kernels use here.
std::string simd_backend();

}  // namespace comparison
