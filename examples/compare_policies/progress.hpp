// examples/compare_policies/progress.hpp - a bar on the terminal while it runs, and Ctrl-C.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <string>

namespace comparison {

/// Thrown out of the work after Ctrl-C.
struct Interrupted {};

/// Set by the first Ctrl-C; the second one ends the program at once.
inline std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

inline void watch_for_interrupt() {
  std::signal(SIGINT, [](int) {
    interrupted = true;
    std::signal(SIGINT, SIG_DFL);
  });
}

/// A bar on stderr if that is a terminal, else nothing. Any thread may advance it.
class Progress {
 public:
  explicit Progress(std::size_t steps) : steps_(std::max<std::size_t>(1, steps)), shown_(isatty(STDERR_FILENO) == 1) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (shown_) { fmt::print(stderr, "\r\x1b[K"); }
  }

  /// Counts steps; throws Interrupted after Ctrl-C.
  void advance(std::size_t steps = 1) {
    if (interrupted) { throw Interrupted{}; }
    const std::size_t done = done_.fetch_add(steps) + steps;
    const std::size_t percent = std::min<std::size_t>(100, 100 * done / steps_);
    if (shown_ && percent != percent_.exchange(percent)) { draw(done, percent); }
  }

 private:
  void draw(std::size_t done, std::size_t percent) {
    constexpr std::size_t width = 40;
    const std::scoped_lock lock(mutex_);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const double left = seconds * (static_cast<double>(steps_) / static_cast<double>(std::max<std::size_t>(1, done)) - 1.0);
    const std::size_t full = width * percent / 100;
    const std::string rest = percent == 0 ? "" : fmt::format(", about {:.0f} s left", std::max(0.0, left));
    fmt::print(stderr, "\r[{}{}] {:3} %  {:.0f} s{}\x1b[K", std::string(full, '#'), std::string(width - full, '.'), percent, seconds, rest);
    std::fflush(stderr);
  }

  std::size_t steps_;
  bool shown_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::atomic<std::size_t> done_{0};
  std::atomic<std::size_t> percent_{101};
  std::mutex mutex_;
};

}  // namespace comparison
