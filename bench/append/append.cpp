// bench/append/append.cpp - appending decoded tokens to all heads of a layer: what evicting and encoding them cost.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "competitors/policies.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"
#include "runner/touched_memory.hpp"

namespace bench {
namespace {

using namespace kvcompress;

constexpr std::size_t tokens_at_once = 256;  // a multiple of every residual length and buffer, so that each call encodes the same rows

/// Grows with every call, as a text does.
class Growing {
 public:
  Growing(const Policy& policy, const Data& data)
      : data_(data), cache_(compressed_prompt(policy, data, memory_.handle())), keys_(data.keys(0, 0, tokens_at_once)),
        values_(data.values(0, 0, tokens_at_once)) {}

  void run() {
    const Case& c = data_.of();
    const std::size_t width = c.kv_heads * c.head_dim;
    for (std::size_t t = 0; t < tokens_at_once; ++t) {
      cache_.append(0, Rows::tokens_first(keys_.data() + t * width, 1, c.kv_heads, c.head_dim),
                    Rows::tokens_first(values_.data() + t * width, 1, c.kv_heads, c.head_dim));
    }
  }
  [[nodiscard]] const AnyCache& cache() const { return cache_; }
  /// Attention after it against the definition.
  [[nodiscard]] double error() { return error_of_attend(cache_, data_); }

 private:
  const Data& data_;
  TouchedMemory memory_{};
  AnyCache cache_;
  std::vector<float> keys_;
  std::vector<float> values_;
};

void measure_append(benchmark::State& state, const Policy& which, const Case& c) {
  const Data data(c);
  Growing subject(which, data);
  Growing f16(policy("f16"), data);
  subject.run();
  const double error = subject.error();
  if (!(error <= 2e-4)) {
    return state.SkipWithError(fmt::format("wrong: attention after it differs from its definition by {:.1e}", error).c_str());
  }
  Medians medians = measure({.baseline = [&] { f16.run(); }, .subject = [&] { subject.run(); }}, settings().rounds);
  medians.seconds /= static_cast<double>(tokens_at_once);
  Row row(state);
  row.of(c);
  row.times(medians, 1.0, 0.0);
  row.set(counter::kernel_error, error);
  row.set(counter::bits, subject.cache().bits_per_value());
}

}  // namespace

void add_append() {
  const Case c{.context = 4096};
  for (const char* name : {"f16", "kivi8", "kivi4", "kivi2", "rot4", "lm4", "q8_0", "q4_0", "nvfp4", "gear4", "streaming1024", "h2o1024",
                           "h2o1024+kivi4", "snapkv1024"}) {
    const Policy& which = policy(name);
    add_row("append/" + std::string(name) + "/" + c.path(), [&which, c](benchmark::State& state) { measure_append(state, which, c); });
  }
}

}  // namespace bench
