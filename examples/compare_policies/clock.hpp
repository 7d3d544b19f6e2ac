// examples/compare_policies/clock.hpp - the time that a thread computes; waiting for a busy machine does not count.
// SPDX-License-Identifier: MIT
#pragma once

#include <ctime>

namespace comparison {

/// Seconds of CPU time that this thread has used so far.
inline double thread_seconds() noexcept {
  std::timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Adds the time from its making to its end to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) noexcept : seconds_(seconds), start_(thread_seconds()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() { seconds_ += thread_seconds() - start_; }

 private:
  double& seconds_;
  double start_;
};

}  // namespace comparison
