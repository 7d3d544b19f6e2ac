// bench/runner/threads.hpp - a fixed set of threads as an executor: what KVCache::attend asks for.
// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace bench {

/// Runs tasks on `count` threads, the caller's included. Threads look for work for a while before they sleep: waking takes long.
class Threads {
 public:
  explicit Threads(std::size_t count) {
    for (std::size_t worker = 1; worker < count; ++worker) {
      workers_.emplace_back([this, worker] { work(worker); });
    }
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() {
    stop_ = true;
    ++round_;
    round_.notify_all();
    for (std::thread& worker : workers_) { worker.join(); }
  }

  [[nodiscard]] std::size_t count() const { return workers_.size() + 1; }

  /// Calls run(task, worker) once for every task < tasks.
  void operator()(std::size_t tasks, const std::function<void(std::size_t, std::size_t)>& run) {
    run_ = &run;
    tasks_ = tasks;
    next_ = 0;
    busy_ = workers_.size();
    ++round_;
    round_.notify_all();
    take(0);
    while (busy_ != 0) { pause(); }
  }

 private:
  void take(std::size_t worker) {
    for (std::size_t task = next_++; task < tasks_; task = next_++) { (*run_)(task, worker); }
  }
  void work(std::size_t worker) {
    for (std::size_t seen = 0;;) {
      for (int looks = 0; round_ == seen && looks < 20000; ++looks) { pause(); }
      round_.wait(seen);
      ++seen;
      if (stop_) { return; }
      take(worker);
      --busy_;
    }
  }
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  std::vector<std::thread> workers_{};
  const std::function<void(std::size_t, std::size_t)>* run_ = nullptr;
  std::size_t tasks_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> busy_{0};
  std::atomic<std::size_t> round_{0};
  std::atomic<bool> stop_{false};
};

/// The one set of them: two that wait side by side would take each other's processors.
inline Threads& threads(std::size_t count) {
  static std::unique_ptr<Threads> the;
  if (!the || the->count() != count) {
    the.reset();
    the = std::make_unique<Threads>(count);
  }
  return *the;
}

}  // namespace bench
