// include/kvcompress/attention/executor.hpp - how a caller lends its threads; the library starts none of its own.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The archetype of an executor: runs every task on the calling thread, worker 0. A thread pool of yours offers the same call.
struct SerialExecutor {
  void operator()(std::size_t tasks, auto&& run) const {
    for (std::size_t task = 0; task < tasks; ++task) { run(task, std::size_t{0}); }
  }
};

}  // namespace kvcompress
