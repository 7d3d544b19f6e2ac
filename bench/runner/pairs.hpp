// bench/runner/pairs.hpp - times side by side: rounds of read limit, baseline and subject, disturbed ones dropped, medians kept.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <vector>

namespace bench {

inline double median(std::vector<double> numbers) {
  if (numbers.empty()) { return 0.0; }
  const auto middle = numbers.begin() + static_cast<std::ptrdiff_t>(numbers.size() / 2);
  std::nth_element(numbers.begin(), middle, numbers.end());
  return *middle;
}

/// Who is timed in a round. `limit` and `baseline` may be empty.
struct Parts {
  std::function<void()> limit{};
  std::function<void()> baseline{};
  std::function<void()> subject{};
  std::function<void()> before{};  ///< not timed, before each call of the subject
};

struct Medians {
  double seconds = 0.0;  ///< of one call of the subject
  double share = 0.0;    ///< limit / subject, round by round; 0 without a limit
  double speed = 0.0;    ///< baseline / subject, round by round; 0 without a baseline
  std::size_t kept = 0;
  std::size_t dropped = 0;
};

namespace detail {

struct Timed {
  double seconds = 0.0;
  bool disturbed = false;
};

/// Times of the parts of one round; a part that is not there takes 0.
struct Round {
  Timed limit{};
  Timed baseline{};
  Timed subject{};

  [[nodiscard]] double seconds() const { return limit.seconds + baseline.seconds + subject.seconds; }
};

/// How often this thread lost its processor to another one.
inline long preemptions() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
}

/// So many calls in a row that they take about a millisecond: a clock's tick and a cold start of the code then do not count.
inline Timed time_of(const std::function<void()>& part, const std::function<void()>& before, std::size_t calls) {
  if (!part) { return {}; }
  if (before) { before(); }
  const long preempted = preemptions();
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < calls; ++i) { part(); }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  // In a long part a switch or two do not show; the clock's interrupts alone cause some.
  const bool disturbed = static_cast<double>(preemptions() - preempted) > seconds.count() / 0.05;
  return {seconds.count() / static_cast<double>(calls), disturbed};
}
inline std::size_t calls_for(const std::function<void()>& part) {
  if (!part) { return 1; }
  const Timed first = time_of(part, {}, 2);
  return std::clamp<std::size_t>(static_cast<std::size_t>(1e-3 / std::max(first.seconds, 1e-9)), 1, 1000);
}

/// The rounds in which no part lost the processor and none took more than 1.5 times its median.
inline std::vector<Round> undisturbed(const std::vector<Round>& rounds) {
  std::vector<Round> quiet = rounds;
  std::erase_if(quiet, [](const Round& r) { return r.limit.disturbed || r.baseline.disturbed || r.subject.disturbed; });
  for (const auto part : {&Round::limit, &Round::baseline, &Round::subject}) {
    std::vector<double> times;
    for (const Round& r : quiet) { times.push_back((r.*part).seconds); }
    const double most = 1.5 * median(times);
    std::erase_if(quiet, [&](const Round& r) { return (r.*part).seconds > most; });
  }
  return quiet;
}

}  // namespace detail

/// Rounds until `wanted` of them were undisturbed; gives up after three times as many or 10 s, and says by `kept`
/// how many there were.
inline Medians measure(const Parts& parts, std::size_t wanted) {
  const std::size_t limit_calls = detail::calls_for(parts.limit);
  const std::size_t baseline_calls = detail::calls_for(parts.baseline);
  const std::size_t subject_calls = parts.before ? 1 : detail::calls_for(parts.subject);
  std::vector<detail::Round> rounds;
  std::vector<detail::Round> quiet;
  const auto start = std::chrono::steady_clock::now();
  const auto is_late = [&] { return std::chrono::steady_clock::now() - start > std::chrono::seconds(10); };
  while (quiet.size() < wanted && rounds.size() < 3 * wanted && (rounds.empty() || !is_late())) {
    for (std::size_t missing = wanted - quiet.size(); missing > 0; --missing) {
      detail::Round& r = rounds.emplace_back();
      r.limit = detail::time_of(parts.limit, {}, limit_calls);
      r.baseline = detail::time_of(parts.baseline, {}, baseline_calls);
      r.subject = detail::time_of(parts.subject, parts.before, subject_calls);
    }
    quiet = detail::undisturbed(rounds);
  }
  Medians result{.kept = quiet.size(), .dropped = rounds.size() - quiet.size()};
  if (quiet.size() <
      std::max<std::size_t>(1, wanted / 4)) {  // a busy machine: the fastest quarter of all rounds is the best there is, and `kept` warns
    std::sort(rounds.begin(), rounds.end(), [](const detail::Round& a, const detail::Round& b) { return a.seconds() < b.seconds(); });
    rounds.resize((rounds.size() + 3) / 4);
    quiet = rounds;
  }
  std::vector<double> seconds, shares, speeds;
  for (const detail::Round& r : quiet) {
    seconds.push_back(r.subject.seconds);
    shares.push_back(r.limit.seconds / r.subject.seconds);
    speeds.push_back(r.baseline.seconds / r.subject.seconds);
  }
  result.seconds = median(seconds);
  result.share = median(shares);
  result.speed = median(speeds);
  return result;
}

}  // namespace bench
