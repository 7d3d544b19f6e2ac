// tests/compile_fail/two_evictions.cpp - a policy that names an axis twice is refused with a sentence.
// SPDX-License-Identifier: MIT
// expect: two of the parts name an eviction; a policy has one
#include "kvcompress/kvcompress.hpp"

kvcompress::KVCache<kvcompress::Combine<kvcompress::H2O, kvcompress::SnapKV>> cache({});
