// examples/llama/thread_pool.hpp - a fixed set of threads and one verb, parallel_for.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace llama {

/// Splits a range of independent items over threads. Which thread takes an item varies; what is computed for
/// it must not.
class ThreadPool {
 public:
  /// `threads` counts the caller: 1 starts none.
  explicit ThreadPool(std::size_t threads = 1) {
    for (std::size_t i = 1; i < threads; ++i) {
      workers_.emplace_back([this] { work(); });
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    stop_.store(true, std::memory_order_relaxed);
    publish(0);
    for (std::thread& worker : workers_) { worker.join(); }
  }

  [[nodiscard]] std::size_t threads() const noexcept { return workers_.size() + 1; }

  /// Calls `body(first, last)` for ranges that cover [0, count) once, and returns when all are done. An
  /// exception of a body is thrown here. One caller at a time, and not from a body.
  template <class Body>
  void parallel_for(std::size_t count, const Body& body) {
    if (workers_.empty() || count <= 1) {
      if (count > 0) { body(std::size_t{0}, count); }
      return;
    }
    body_ = &body;
    call_ = [](const void* typed, std::size_t first, std::size_t last) { (*static_cast<const Body*>(typed))(first, last); };
    count_ = count;
    pieces_ = static_cast<std::uint32_t>(std::min(count, 4 * threads()));
    unfinished_.store(pieces_, std::memory_order_relaxed);
    publish(pieces_);
    while (take_piece()) {}
    wait_while(unfinished_, [](std::uint32_t pieces) { return pieces != 0; });
    if (error_) { std::rethrow_exception(std::exchange(error_, nullptr)); }
  }

 private:
  // A round is a call of parallel_for, cut into pieces. state_ holds the number of the round in its upper
  // half and how many pieces nobody has taken yet in its lower half. Taking a piece is a compare-and-swap of
  // both, so a thread that comes late finds nothing to do, and nobody waits for it: that matters on a busy
  // machine.

  void publish(std::uint32_t pieces) {
    const std::uint64_t round = (state_.load(std::memory_order_relaxed) >> 32U) + 1;
    state_.store(round << 32U | pieces, std::memory_order_release);
    state_.notify_all();
  }

  /// Takes and does one piece of the round; false when none is left.
  bool take_piece() {
    std::uint64_t state = state_.load(std::memory_order_acquire);
    do {
      if (static_cast<std::uint32_t>(state) == 0) { return false; }
    } while (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acquire));
    // From here to the count-down the round cannot end, so its description below stands still.
    const std::size_t piece = static_cast<std::uint32_t>(state) - 1;
    try {
      call_(body_, count_ * piece / pieces_, count_ * (piece + 1) / pieces_);
    } catch (...) {
      const std::scoped_lock lock(error_mutex_);
      if (!error_) { error_ = std::current_exception(); }
    }
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) { unfinished_.notify_one(); }
    return true;
  }

  void work() {
    while (!stop_.load(std::memory_order_relaxed)) {
      if (!take_piece()) {
        wait_while(state_, [](std::uint64_t state) { return static_cast<std::uint32_t>(state) == 0; });
      }
    }
  }

  /// Looks for a while before sleeping: a decode step has some thirty rounds in a millisecond.
  template <class T, class Wait>
  void wait_while(const std::atomic<T>& value, Wait wait) const {
    constexpr int looks = 4000;
    for (int i = 0; i < looks; ++i) {
      if (!wait(value.load(std::memory_order_acquire))) { return; }
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
    T now = value.load(std::memory_order_acquire);
    while (wait(now) && !stop_.load(std::memory_order_relaxed)) {
      value.wait(now, std::memory_order_acquire);
      now = value.load(std::memory_order_acquire);
    }
  }

  std::vector<std::thread> workers_;
  const void* body_ = nullptr;  // these four describe the round
  void (*call_)(const void*, std::size_t, std::size_t) = nullptr;
  std::size_t count_ = 0;
  std::uint32_t pieces_ = 1;
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::atomic<std::uint64_t> state_{0};
  std::atomic<std::uint32_t> unfinished_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace llama
