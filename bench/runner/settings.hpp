// bench/runner/settings.hpp - the suite's own flags, beside those of Google Benchmark.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdlib>
#include <string_view>

namespace bench {

struct Settings {
  bool full = false;         ///< --full: every context and shape, up to 512k tokens
  std::size_t rounds = 31;   ///< --rounds=N: undisturbed rounds per row
  bool writes_file = false;  ///< --benchmark_out=FILE: Google Benchmark takes a reporter for a file only beside one

  /// Takes its flags out of the arguments and leaves the others.
  void take(int& argc, char** argv) {
    int kept = 1;
    for (int i = 1; i < argc; ++i) {
      const std::string_view flag = argv[i];
      writes_file = writes_file || flag.starts_with("--benchmark_out=");
      if (flag == "--full") {
        full = true;
      } else if (flag.starts_with("--rounds=")) {
        rounds = std::strtoul(argv[i] + 9, nullptr, 10);
      } else {
        argv[kept++] = argv[i];
      }
    }
    argc = kept;
    if (rounds == 0) { rounds = 1; }
  }
};

inline Settings& settings() {
  static Settings the;
  return the;
}

}  // namespace bench
