// bench/suite/main.cpp - the program: all scenarios, one table, one JSON file.
// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "kvcompress/core/version.hpp"
#include "kvcompress/simd/native.hpp"
#include "runner/machine.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"
#include "runner/table.hpp"

namespace {

std::vector<std::pair<std::string, std::string>> facts() {
#if defined(__clang__)
  const std::string compiler = "Clang " __clang_version__;
#else
  const std::string compiler = "GCC " __VERSION__;
#endif
  using namespace kvcompress;
  const auto mib = [](std::size_t bytes) { return fmt::format("{} MiB", bytes >> 20U); };
  return {{"kvcompress", fmt::format("{}.{}.{}, SIMD backend {}", version_major, version_minor, version_patch, simd::backend)},
          {"processor", fmt::format("{}, last-level cache {}", bench::cpu_model(), mib(bench::last_level_cache()))},
          {"compiler", compiler},
          {"flags", KVCOMPRESS_BENCH_FLAGS},
          {"threads", "1, but in threads/"},
          {"pages", std::getenv("GLIBC_TUNABLES") != nullptr ? std::getenv("GLIBC_TUNABLES") : "as the C library takes them"},
          {"cold", "at least " + mib(bench::cold_bytes()) + " of other bytes between two reads of the same ones"},
          {"rounds", fmt::format("medians of {} undisturbed rounds: read limit, our f16, the subject", bench::settings().rounds)},
          {"data", "random rows: no text, so what is evicted or not retrieved is missed as much as any other"}};
}

}  // namespace

int main(int argc, char** argv) {
  bench::settings().take(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) { return EXIT_FAILURE; }
  bench::add_decode();
  bench::add_shape();
  bench::add_head_size();
  bench::add_threads();
  bench::add_append();
  bench::add_call();
  bench::add_prompt();
  bench::add_end_prompt();
  bench::add_cost();
  bench::add_save_load();
  bench::add_factorisation();
#ifndef KVCOMPRESS_BENCH_GGML
  bench::notes().push_back("ggml left out: CMake found no package of it; install it and configure with -DCMAKE_PREFIX_PATH=<its prefix>.");
#endif
  for (const auto& [name, value] : facts()) { benchmark::AddCustomContext(name, value); }
  bench::Table table(facts());
  bench::Json json;
  benchmark::RunSpecifiedBenchmarks(&table, bench::settings().writes_file ? &json : nullptr);
  fmt::print(
      "\nerror of kernel: against the definition in double over the rows as they are decoded; of output: over the rows as they were.\n");
  for (const std::string& note : bench::notes()) { fmt::print("{}\n", note); }
  if (table.failed() > 0) { fmt::print("{} rows FAILED\n", table.failed()); }
  return table.failed() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
