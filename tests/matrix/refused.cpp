// tests/matrix/refused.cpp - makes a cache of KVCOMPRESS_POLICY, which the library must refuse with a sentence.
// SPDX-License-Identifier: MIT
#include "kvcompress/kvcompress.hpp"
#include "kvcompress/policies/gear.hpp"
#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/xkv.hpp"

using namespace kvcompress;

void refused() { KVCache<KVCOMPRESS_POLICY> cache({.query_heads = 2, .kv_heads = 2, .head_dim = 32}); }
