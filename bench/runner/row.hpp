// bench/runner/row.hpp - one row of the table, as Google Benchmark's counters; what was not measured is not there.
// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <string>

#include "runner/case.hpp"
#include "runner/definition.hpp"
#include "runner/pairs.hpp"

namespace bench {

/// The names of the counters, in the table, in the JSON and in the report.
namespace counter {
inline constexpr const char* tokens = "tokens_per_second";
inline constexpr const char* bytes = "bytes_read";
inline constexpr const char* rate = "bytes_per_second";
inline constexpr const char* share = "share_of_read_limit";
inline constexpr const char* speed = "speed_against_f16";
inline constexpr const char* kernel_error = "kernel_error";
inline constexpr const char* output_error = "output_error";
inline constexpr const char* bits = "bits_per_value";
inline constexpr const char* rounds = "rounds";
inline constexpr const char* dropped = "rounds_dropped";
inline constexpr const char* hits = "hit_rate";
inline constexpr const char* call_share = "call_share";
inline constexpr const char* against_plain = "time_against_plain";
inline constexpr const char* cost_share = "share_of_attention";
inline constexpr const char* observing_share = "observing_share_of_attention";
}  // namespace counter

class Row {
 public:
  explicit Row(benchmark::State& state) : state_(state) {}

  void of(const Case& c) {
    set("context", static_cast<double>(c.context));
    set("query_heads", static_cast<double>(c.query_heads));
    set("kv_heads", static_cast<double>(c.kv_heads));
    set("head_dim", static_cast<double>(c.head_dim));
    set("workers", static_cast<double>(c.threads));
  }
  /// `tokens` and `bytes` of one call; 0 is not shown.
  void times(const Medians& medians, double tokens, double bytes) {
    for (auto _ : state_) { state_.SetIterationTime(medians.seconds); }
    set(counter::tokens, tokens / medians.seconds);
    if (bytes > 0.0) {
      set(counter::bytes, bytes);
      set(counter::rate, bytes / medians.seconds);
    }
    if (medians.share > 0.0) { set(counter::share, medians.share); }
    if (medians.speed > 0.0) { set(counter::speed, medians.speed); }
    set(counter::rounds, static_cast<double>(medians.kept));
    set(counter::dropped, static_cast<double>(medians.dropped));
  }
  void errors(const Errors& errors) {
    set(counter::kernel_error, errors.kernel);
    set(counter::output_error, errors.output);
  }
  void set(const std::string& name, double value) { state_.counters[name] = value; }
  void note(const std::string& text) { state_.SetLabel(text); }

 private:
  benchmark::State& state_;
};

/// Registers a row; it is measured once, by its own clock.
template <class Function>
void add_row(const std::string& name, Function&& function) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Function>(function))
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace bench
