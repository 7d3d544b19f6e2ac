// tests/matrix/refused.cpp - makes a cache of KVCOMPRESS_POLICY, which the library must refuse with a sentence.
// SPDX-License-Identifier: MIT
#include "kvcompress/low_rank.hpp"
#include "kvcompress/policies/d2o.hpp"
#include "kvcompress/policies/razorattention.hpp"

using namespace kvcompress;

/// A part of one's own that forgets the retrieval.
struct OffloadedAlone {
  using Storage = ShadowKVStorage<half>;
};

void refused() { KVCache<KVCOMPRESS_POLICY> cache({.query_heads = 2, .kv_heads = 2, .head_dim = 32}); }
