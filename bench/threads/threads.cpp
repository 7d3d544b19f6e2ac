// bench/threads/threads.cpp - a decode step by threads: an executor spreads KV heads and parts of their rows.
// SPDX-License-Identifier: MIT
#include <string>
#include <thread>

#include "runner/scenarios.hpp"

void bench::add_threads() {
  for (const std::size_t threads : {1U, 2U, 4U, 8U}) {
    if (threads > 1 && threads > std::thread::hardware_concurrency()) {
      return notes().push_back("threads/ ends where the processors of this machine do.");
    }
    std::string suffix = "/";
    suffix += std::to_string(threads);
    add_attention("threads", {"f16", "kivi4", "kivi2", "read_limit"}, {.context = 16384, .threads = threads}, suffix);
    add_attention("threads", {"f16", "kivi4", "kivi2"}, {.context = 65536, .kv_heads = 1, .threads = threads}, suffix);
  }
}
