// bench/call/call.cpp - short contexts: what a call of attend takes beside its rows, from the caches; and what its options cost.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <memory>
#include <vector>

#include "competitors/policies.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace bench {
namespace {

using namespace kvcompress;

/// A step of decoding, again and again.
class Step {
 public:
  Step(const Policy& policy, const Case& c, const AttendOptions& options = {})
      : data_(c), cache_(compressed_prompt(policy, data_)), queries_(data_.queries(c.context, 1)), out_(queries_.size()),
        workspace_(cache_.shape()), options_(options) {}

  void run() {
    const Case& c = data_.of();
    cache_.attend(0, Rows::tokens_first(queries_.data(), 1, c.query_heads, c.head_dim),
                  Output::tokens_first(out_.data(), 1, c.query_heads, c.head_dim), workspace_, options_, {});
  }
  [[nodiscard]] double error() { return error_of_attend(cache_, data_); }
  [[nodiscard]] const AnyCache& cache() const { return cache_; }

 private:
  Data data_;
  AnyCache cache_;
  std::vector<float> queries_;
  std::vector<float> out_;
  Workspace workspace_;
  AttendOptions options_;
};

void measure_call(benchmark::State& state, const Policy& which, const Case& c) {
  Case shortest = c;
  shortest.context = 1;
  Step subject(which, c);
  Step two_rows(which, shortest);
  const double error = subject.error();
  if (!(error <= which.tolerance)) {
    return state.SkipWithError(fmt::format("wrong: differs from its definition by {:.1e}", error).c_str());
  }
  const Medians medians = measure({.baseline = [&] { two_rows.run(); }, .subject = [&] { subject.run(); }}, settings().rounds);
  Row row(state);
  row.of(c);
  row.times({.seconds = medians.seconds, .kept = medians.kept, .dropped = medians.dropped}, 1.0, 0.0);
  row.set(counter::kernel_error, error);
  row.set(counter::bits, subject.cache().bits_per_value());
  row.set(counter::call_share, medians.speed);
  row.note(fmt::format("a call on two rows takes {:.1f} % of it", 100.0 * medians.speed));
}

/// Attention with options against plain attention over the rows that it sees.
void measure_options(benchmark::State& state, const Policy& which, const Case& c, const Case& plain, const AttendOptions& options) {
  Step subject(which, c, options);
  Step baseline(which, plain);
  const Medians medians = measure({.baseline = [&] { baseline.run(); }, .subject = [&] { subject.run(); }}, settings().rounds);
  Row row(state);
  row.of(c);
  row.times({.seconds = medians.seconds, .kept = medians.kept, .dropped = medians.dropped}, 1.0, 0.0);
  row.set(counter::against_plain, 1.0 / medians.speed);
  row.note(fmt::format("{:.2f} x plain attention over {} rows", 1.0 / medians.speed, plain.context));
}

}  // namespace

void add_call() {
  const Case c{.context = 512};
  for (const char* name : {"f16", "kivi8", "kivi4", "kivi2", "kivi4_fast", "kivi2_fast", "gear4"}) {
    const Policy& which = policy(name);
    add_row("call/" + std::string(name) + "/" + c.path(), [&which, c](benchmark::State& state) { measure_call(state, which, c); });
  }
  for (const char* name : {"f16", "kivi4"}) {
    const auto add = [&which = policy(name), name](const char* options_name, std::size_t context, std::size_t seen, AttendOptions options) {
      const Case all{.context = context};
      const Case plain{.context = seen};
      add_row(fmt::format("call/{}_{}/{}", name, options_name, all.path()),
              [&which, all, plain, options](benchmark::State& state) { measure_options(state, which, all, plain, options); });
    };
    add("window1024", 32768, 1024, {.window = 1024});
    add("soft_cap", 4096, 4096, {.soft_cap = 30.0F});
  }
}

}  // namespace bench
