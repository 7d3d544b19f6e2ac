// bench/runner/table.hpp - the console's table and the JSON, as reporters of Google Benchmark.
// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "runner/row.hpp"

namespace bench {

/// One line of text per row, printed as it comes. Counts the rows that failed.
class Table final : public benchmark::BenchmarkReporter {
 public:
  explicit Table(std::vector<std::pair<std::string, std::string>> facts) : facts_(std::move(facts)) {}

  bool ReportContext(const Context&) override {
    for (const auto& [name, value] : facts_) { fmt::print("{:<16} {}\n", name, value); }
    fmt::print("\n");
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      const std::string& name = run.run_name.function_name;
      if (const std::string scenario = name.substr(0, name.find('/')); scenario != scenario_) {
        scenario_ = scenario;
        heading();
      }
      if (run.error_occurred) {
        ++failed_;
        fmt::print("{:<50} {}\n", name, run.error_message);
      } else {
        line(name, run);
      }
      std::fflush(stdout);
    }
  }

  [[nodiscard]] int failed() const { return failed_; }

 private:
  static void heading() {
    fmt::print("\n{:<50} {:>11} {:>9} {:>8} {:>6} {:>7} {:>6} {:>8} {:>8} {:>6} {:>6}\n", "", "time", "tokens/s", "read", "", "% of", "x",
               "error of", "error of", "bits /", "rounds");
    fmt::print("{:<50} {:>11} {:>9} {:>8} {:>6} {:>7} {:>6} {:>8} {:>8} {:>6} {:>6}\n{:-<137}\n", "", "us", "(layer)", "MB", "GB/s",
               "limit", "f16", "kernel", "output", "value", "kept", "");
  }
  static void line(const std::string& name, const Run& run) {
    const auto cell = [&](const char* counter, double factor, const char* format) {
      const auto found = run.counters.find(counter);
      return found == run.counters.end() ? std::string("-") : fmt::format(fmt::runtime(format), factor * found->second.value);
    };
    fmt::print("{:<50} {:>11} {:>9} {:>8} {:>6} {:>7} {:>6} {:>8} {:>8} {:>6} {:>6}  {}\n", name,
               fmt::format("{:.1f}", run.GetAdjustedRealTime()), cell(counter::tokens, 1.0, "{:.0f}"), cell(counter::bytes, 1e-6, "{:.2f}"),
               cell(counter::rate, 1e-9, "{:.1f}"), cell(counter::share, 100.0, "{:.0f}"), cell(counter::speed, 1.0, "{:.2f}"),
               cell(counter::kernel_error, 1.0, "{:.0e}"), cell(counter::output_error, 1.0, "{:.0e}"), cell(counter::bits, 1.0, "{:.2f}"),
               cell(counter::rounds, 1.0, "{:.0f}"), run.report_label);
  }

  std::vector<std::pair<std::string, std::string>> facts_;
  std::string scenario_{};
  int failed_ = 0;
};

/// Google Benchmark's JSON with our names: without "/iterations:1/manual_time".
class Json final : public benchmark::JSONReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> renamed = runs;
    for (Run& run : renamed) {
      run.run_name.iterations.clear();
      run.run_name.time_type.clear();
    }
    JSONReporter::ReportRuns(renamed);
  }
};

}  // namespace bench
