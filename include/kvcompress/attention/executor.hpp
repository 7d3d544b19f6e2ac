// include/kvcompress/attention/executor.hpp - how a caller lends its threads; the library starts none of its own.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The archetype of an executor: runs every task on the calling thread, worker 0. A thread pool of yours offers the same call.
struct SerialExecutor {
  void operator()(std::size_t tasks, auto&& run) const {
    for (std::size_t task = 0; task < tasks; ++task) { run(task, std::size_t{0}); }
  }
};

namespace detail {

/// Calls work(task, worker) for what the executor runs; raises an Error if that was not every task, with workers below `workers`.
inline void run_tasks(auto&& executor, std::size_t tasks, std::size_t workers, auto&& work) {
  std::atomic<std::size_t> done = 0;
  std::atomic<std::size_t> odd_task = 0;
  std::atomic<std::size_t> odd_worker = 0;
  executor(tasks, [&](std::size_t task, std::size_t worker) {
    if (task >= tasks) { return odd_task.store(task); }
    if (worker >= workers) { return odd_worker.store(worker); }
    work(task, worker);
    done.fetch_add(1);
  });
  require(odd_task == 0, ErrorCode::input, "attend: the executor's task is ", odd_task.load(), ", must be less than ", tasks);
  require(odd_worker == 0, ErrorCode::input, "attend: the executor's worker is ", odd_worker.load(),
          ", must be less than workspaces.size() = ", workers);
  require(done == tasks, ErrorCode::input, "attend: the executor has run ", done.load(), " tasks, must run ", tasks);
}

}  // namespace detail
}  // namespace kvcompress
