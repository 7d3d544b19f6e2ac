// bench/head_size/head_size.cpp - a decode step by the width of a head.
// SPDX-License-Identifier: MIT
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

void bench::add_head_size() {
  for (const std::size_t head_dim : {64U, 80U, 96U, 128U, 256U}) {
    const std::size_t context = settings().full ? 16384 : 4096;
    add_attention("head_size", {"f16", "kivi8", "kivi4", "kivi2"}, {.context = context, .head_dim = head_dim});
  }
}
