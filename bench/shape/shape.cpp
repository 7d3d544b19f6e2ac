// bench/shape/shape.cpp - a decode step by how many query heads share a KV head.
// SPDX-License-Identifier: MIT
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

void bench::add_shape() {
  for (const std::size_t kv_heads : {32U, 8U, 4U, 1U}) {
    const std::size_t context = settings().full ? 16384 : 4096;
    add_attention("shape", {"f16", "kivi8", "kivi4", "kivi4_fast", "kivi2", "kivi2_fast"}, {.context = context, .kv_heads = kv_heads});
  }
}
