// examples/compare_policies/make_cache.hpp - the library's cache that a policy names, for the few sources that work on it.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "kvcompress/any/any_cache.hpp"

namespace comparison {

/// Raises the registry's Error.
kvcompress::AnyCache make_cache(const std::string& policy, const kvcompress::Shape& shape, const kvcompress::Memory& memory);

}  // namespace comparison
