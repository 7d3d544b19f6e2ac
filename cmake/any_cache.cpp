// cmake/any_cache.cpp - AnyCache, compiled once for all our programs: see kvcompress_any_cache.
// SPDX-License-Identifier: MIT
#include "kvcompress/any/any_cache_definition.hpp"
