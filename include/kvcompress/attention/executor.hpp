// include/kvcompress/attention/executor.hpp - how a caller lends its threads; the library starts none of its own.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/function_ref.hpp"

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
  // Several threads count; the compilers' builtins, as in core/reference_count.hpp.
  std::size_t done = 0;
  std::size_t odd_task = 0;
  std::size_t odd_worker = 0;
  const auto run = [&](std::size_t task, std::size_t worker) {
    if (task >= tasks) { return __atomic_store_n(&odd_task, task, __ATOMIC_RELEASE); }
    if (worker >= workers) { return __atomic_store_n(&odd_worker, worker, __ATOMIC_RELEASE); }
    work(task, worker);
    static_cast<void>(__atomic_add_fetch(&done, std::size_t{1}, __ATOMIC_ACQ_REL));
  };
  executor(tasks, FunctionRef<void(std::size_t, std::size_t)>(run));  // two words: a std::function holds it without taking memory
  const auto read = [](const std::size_t& counter) { return __atomic_load_n(&counter, __ATOMIC_ACQUIRE); };
  require(read(odd_task) == 0, ErrorCode::input, "attend: the executor's task is ", read(odd_task), ", must be less than ", tasks);
  require(read(odd_worker) == 0, ErrorCode::input, "attend: the executor's worker is ", read(odd_worker),
          ", must be less than workspaces.size() = ", workers);
  require(read(done) == tasks, ErrorCode::input, "attend: the executor has run ", read(done), " tasks, must run ", tasks);
}

}  // namespace detail
}  // namespace kvcompress
