// bench/decode/decode.cpp - one decode step of one layer, by context: every competitor.
// SPDX-License-Identifier: MIT
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

void bench::add_decode() {
  for (const std::size_t context : {512U, 1024U, 4096U, 16384U, 65536U, 131072U, 262144U, 524288U}) {
    if (settings().full || (context >= 1024 && context <= 16384)) { add_attention("decode", {}, {.context = context}); }
  }
  if (!settings().full) {
    notes().push_back("Contexts of 512 and of 64k to 512k tokens, and the longer ones of the other scenarios: --full.");
  }
}
