// include/kvcompress/adapters/llama_cpp/crew.hpp - llama.cpp's own threads run our attention, inside its graph.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "kvcompress/any/any_cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// The threads that compute one graph of llama.cpp meet in each node that is ours: thread 0 does the node's work, the others run the tasks
/// it hands out. They wait as ggml's threads wait for each other, spinning: the next task is microseconds away.
class Crew {
 public:
  /// Called by every thread of the graph, 0 <= thread < threads. Calls lead(executor) on thread 0 when all are there, and returns when that is
  /// done. lead must not throw; the executor passes on what a task throws.
  void meet(std::size_t thread, std::size_t threads, auto&& lead) {
    if (thread != 0) { return help(thread); }
    wait_until([&] { return arrived_.load(std::memory_order_acquire) == threads - 1; });
    arrived_.store(0, std::memory_order_relaxed);
    over_ = false;
    lead(AnyExecutor([&](std::size_t tasks, const Run& run) { spread(tasks, run, threads - 1); }));
    over_ = true;
    calls_.fetch_add(1, std::memory_order_release);
  }

 private:
  using Run = std::function<void(std::size_t, std::size_t)>;

  static void wait_until(auto&& is_so) {
    for (std::size_t turn = 1; !is_so(); ++turn) {
      if (turn % 4096 == 0) { std::this_thread::yield(); }
    }
  }
  void spread(std::size_t tasks, const Run& run, std::size_t helpers) {
    run_ = &run;
    tasks_ = tasks;
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    left_.store(0, std::memory_order_relaxed);
    calls_.fetch_add(1, std::memory_order_release);
    work(0);
    wait_until([&] { return left_.load(std::memory_order_acquire) == helpers; });
    if (error_) { std::rethrow_exception(error_); }
  }
  void help(std::size_t thread) {
    std::size_t seen = calls_.load(std::memory_order_acquire);
    arrived_.fetch_add(1, std::memory_order_release);
    for (;;) {
      wait_until([&] { return calls_.load(std::memory_order_acquire) != seen; });
      ++seen;
      if (over_) { return; }
      work(thread);
      left_.fetch_add(1, std::memory_order_release);
    }
  }
  void work(std::size_t thread) noexcept {
    for (std::size_t task = 0; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      try {
        (*run_)(task, thread);
      } catch (...) {
        const std::lock_guard guard(mutex_);
        if (!error_) { error_ = std::current_exception(); }
      }
    }
  }

  std::atomic<std::size_t> arrived_{0};  // helpers that wait for tasks
  std::atomic<std::size_t> calls_{0};    // rounds of tasks, and ends of nodes, so far
  std::atomic<std::size_t> next_{0};     // task of this round
  std::atomic<std::size_t> left_{0};     // helpers that found no more task in it
  const Run* run_ = nullptr;             // these are written by thread 0 between rounds
  std::size_t tasks_ = 0;
  bool over_ = false;
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace kvcompress::llama_cpp
