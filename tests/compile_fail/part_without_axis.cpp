// tests/compile_fail/part_without_axis.cpp - a part that names neither an eviction nor a storage is refused by the name of its concept.
// SPDX-License-Identifier: MIT
// expect: P must model kvcompress::PolicyPart
#include "kvcompress/kvcompress.hpp"

struct Nothing {};

kvcompress::KVCache<Nothing> cache({});
