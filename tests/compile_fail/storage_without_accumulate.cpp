// tests/compile_fail/storage_without_accumulate.cpp - a storage whose values cannot be mixed is refused by the name of its concept.
// SPDX-License-Identifier: MIT
// expect: the storage of P must model kvcompress::Storage
#include "kvcompress/kvcompress.hpp"

struct KeysOnly : kvcompress::ExactStorage<float> {
  using Values = int;
};
struct KeysOnlyPolicy {
  using Storage = KeysOnly;
};

kvcompress::KVCache<KeysOnlyPolicy> cache({});
