// bench/end_prompt/end_prompt.cpp - compressing a layer's prompt: what end_prompt takes, per byte of it in f32.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "competitors/policies.hpp"
#include "runner/machine.hpp"
#include "runner/read_limit.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace bench {
namespace {

using kvcompress::AnyCache;

/// The largest distance of a decoded number to what it was, over the largest number.
double decoding_error(AnyCache& cache, const Data& data) {
  const Case& c = data.of();
  std::vector<float> row(4 * c.head_dim);
  double worst = 0.0;
  double largest = 0.0;
  const kvcompress::RowTable& table = cache.table(0, 0);
  for (std::size_t r = 0; r < table.rows(); ++r) {
    if (!table.alive(r)) { continue; }
    cache.read(0, 0, r, row.data(), row.data() + c.head_dim);
    data.key(0, table.position(r), 0, row.data() + 2 * c.head_dim);
    data.value(0, table.position(r), 0, row.data() + 3 * c.head_dim);
    for (std::size_t i = 0; i < 2 * c.head_dim; ++i) {
      worst = std::max(worst, static_cast<double>(std::abs(row[i] - row[2 * c.head_dim + i])));
      largest = std::max(largest, static_cast<double>(std::abs(row[2 * c.head_dim + i])));
    }
  }
  return worst / largest;
}

/// `bound`: of that error; half a step of the codes, or a rounding.
void measure_end_prompt(benchmark::State& state, const Policy& which, double bound, const Case& c) {
  const Data data(c);
  AnyCache prompt = make_cache(which, c);
  append_prompt(prompt, which, data);
  const std::size_t held = bytes_of_rows(prompt);
  AnyCache cache = prompt;
  const auto end_prompt = [&] {
    for (std::size_t layer = 0; layer < which.layers; ++layer) { cache.end_prompt(layer); }
  };
  ReadLimit limit(std::max(cold_bytes(), held));
  const Medians medians =
      measure({.limit = [&] { limit.run(held, threads(1)); }, .subject = end_prompt, .before = [&] { cache = AnyCache(prompt); }},
              std::min<std::size_t>(settings().rounds, which.layers > 1 ? 3 : 7));
  const double error = decoding_error(cache, data);
  if (!(error <= bound)) { return state.SkipWithError(fmt::format("wrong: rows are decoded with an error of {:.1e}", error).c_str()); }
  const double numbers = static_cast<double>(c.context * c.values_per_token() * which.layers);
  Row row(state);
  row.of(c);
  row.times(medians, static_cast<double>(c.context * which.layers), numbers * sizeof(float));
  row.set(counter::output_error, error);
  row.set(counter::bits, cache.bits_per_value());
}

}  // namespace

void add_end_prompt() {
  const Case c{.context = settings().full ? std::size_t{16384} : std::size_t{4096}};
  struct Bounded {
    const char* name;
    double bound;
  };
  // Random rows have no low rank: what a factorisation leaves of them is shown, and must only be a number of their size.
  for (const auto [name, bound] : {Bounded{"kivi8", 5e-3}, Bounded{"kivi4", 8e-2}, Bounded{"kivi2", 4e-1}, Bounded{"gear4", 8e-2},
                                   Bounded{"streaming1024", 1e-3}, Bounded{"h2o1024", 1e-3}, Bounded{"snapkv1024", 1e-3},
                                   Bounded{"quest2048", 1e-3}, Bounded{"shadowkv2048_hits", 2.0}, Bounded{"xkv", 2.0}}) {
    if (policy(name).layers > 1 && !settings().full) { continue; }  // seconds for each of them
    add_row("end_prompt/" + std::string(name) + "/" + c.path(),
            [&which = policy(name), bound = bound, c](benchmark::State& state) { measure_end_prompt(state, which, bound, c); });
  }
}

}  // namespace bench
