// tests/support/policies.hpp - the policies of the typed tests, with small budgets, and an oracle that fits them all.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <type_traits>
#include <vector>

#include "kvcompress/kvcompress.hpp"
#include "support/random_rows.hpp"

namespace kvcompress::test {

// Every combination is tested by name (tests/matrix). A type takes 4 s of each of these programs to compile, 20 s with a sanitizer: there each
// part stands once.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
using Policies = ::testing::Types<Full<half>, StreamingLLM, Combine<H2O, Kivi<2, 32, 32>>, Combine<SnapKV, Kivi<4, 32, 32, float>>>;
#else
using Policies = ::testing::Types<Full<half>, Kivi<4, 32, 64, float>, StreamingLLM, H2O, SnapKV, Combine<H2O, Kivi<2, 32, 32>>,
                                  Combine<SnapKV, Kivi<4, 32, 32, float>>>;
#endif

inline constexpr std::size_t unbounded = std::numeric_limits<std::size_t>::max();

/// Small settings of each eviction, for tests; `rows` of a lane stay, `unbounded` means all.
inline void set_budget(KeepAll::Options& /*options*/, std::size_t /*rows*/) {}
inline void set_budget(SinkWindow::Options& options, std::size_t rows) {
  options.sinks = 4;
  options.window = rows == unbounded ? 1U << 20U : rows - options.sinks;
}
inline void set_budget(HeavyHitters::Options& options, std::size_t rows) {
  options.budget = rows == unbounded ? 1U << 20U : rows;
  options.recent = rows == unbounded ? 0 : rows / 3;
}
/// Small settings of each retrieval: a query reads about `rows` rows, `unbounded` means all.
inline void set_reading(ReadAll::Options& /*options*/, std::size_t /*rows*/) {}
inline void set_reading(PageBounds<half>::Options& options, std::size_t rows) {
  options.budget = rows == unbounded ? 1U << 20U : rows;
  options.page = 8;
  options.dense_layers = 0;
}
template <class Options>
requires requires(Options options) { options.outlier_chunks; }
void set_reading(Options& options, std::size_t rows) {
  options.budget = rows == unbounded ? 1U << 20U : rows;
  options.local_chunks = 2;
  options.outlier_chunks = 2;
}
/// Two thirds for the prompt, one third for decoded rows.
inline void set_budget(ObservationWindow::Options& options, std::size_t rows) {
  options.budget = rows == unbounded ? 1U << 20U : rows - rows / 3;
  options.window = 8;
  options.decode_budget = rows == unbounded ? 0 : rows / 3;
}
/// How codes are added up, where a storage has codes.
inline void add_up(auto& storage, Accumulation mode) {
  if constexpr (requires { storage.accumulation; }) { storage.accumulation = mode; }
}
/// In fp32, so that what is left is rounding.
inline void add_up_exactly(auto& storage) { add_up(storage, Accumulation::exact); }
/// The modes that tests against an oracle run in: fp32, whose rounding alone is left, and the default.
inline constexpr Accumulation tested_modes[] = {Accumulation::exact, Accumulation::near_exact};
/// What a mode adds to the deviation of outputs from the oracle.
constexpr double accumulation_slack(Accumulation mode) { return mode == Accumulation::exact ? 0.0 : 4e-4; }

/// Small settings, in the default mode of accumulation if no other is wanted.
template <class P>
PolicyOptions<P> options_with(std::size_t rows = unbounded, Accumulation mode = Accumulation::near_exact) {
  PolicyOptions<P> options{};
  set_budget(options.eviction, rows);
  set_reading(options.retrieval, rows);
  add_up(options.storage, mode);
  return options;
}

template <class P>
using EvictionOf = typename KVCache<P>::Eviction;
/// Whether rows ever leave.
template <class P>
inline constexpr bool evicts = EvictionOf<P>::may.decides != Decides::never;
/// Whether rows are encoded with loss.
template <class P>
inline constexpr bool encodes = requires(const typename KVCache<P>::Keys keys) {
  keys.body();
};
/// Rounding of a row that is held exactly.
template <class P>
inline constexpr double row_rounding = std::is_same_v<typename KVCache<P>::Keys::exact_type, float> ? 1e-6 : 5e-4;

/// What a cache must answer for the newest `count` tokens of `text`, whose rows are open: attention in double over the rows that it
/// holds, as it decodes them, at the positions or slots that it gives them: a window counts slots, left padding is a matter of positions.
template <class Cache>
Outputs attention_over_held_rows(Cache& cache, const Text& text, std::size_t end, std::size_t count, std::size_t layer = 0,
                                 const AttendOptions& options = {}) {
  using reference::Index;
  const Shape& shape = text.shape;
  Outputs out(count * text.output_width());
  std::vector<float> key(shape.key_width());
  std::vector<float> value(shape.value_width());
  const reference::Rope rope{
      .pairing = shape.rope.pairing == RopePairing::half_split ? reference::Pairing::half : reference::Pairing::interleaved,
      .theta = shape.rope.theta,
      .rotary_dim = static_cast<Index>(shape.rope.rotary_dim)};
  for (std::size_t lane = 0; lane < shape.kv_heads; ++lane) {
    const RowTable& table = cache.table(layer, lane);
    const auto live = static_cast<Index>(table.live());
    reference::Matrix keys(live, static_cast<Index>(shape.key_width()));
    reference::Matrix values(live, static_cast<Index>(shape.value_width()));
    reference::Positions positions(live);
    reference::Positions slots(live);
    reference::Vector log_weights(live);
    Index at = 0;
    for (std::size_t r = 0; r < table.rows(); ++r) {
      if (!table.alive(r)) { continue; }
      cache.read(layer, lane, r, key.data(), value.data());
      for (Index c = 0; c < keys.cols(); ++c) { keys(at, c) = static_cast<double>(key[static_cast<std::size_t>(c)]); }
      for (Index c = 0; c < values.cols(); ++c) { values(at, c) = static_cast<double>(value[static_cast<std::size_t>(c)]); }
      log_weights(at) = static_cast<double>(table.log_weight(r));
      positions(at++) = static_cast<std::int64_t>(table.position(r));
    }
    for (Index i = 0; i < live; ++i) {  // the rank by position, found without the table
      slots(i) = table.renumbers() ? (positions.array() < positions(i)).count() : positions(i);
    }
    if (table.renumbers()) { keys = reference::rerotate(keys, positions, slots, rope); }
    reference::AttentionOptions hiding = reference_options(options);
    if (table.renumbers()) { hiding.start = (positions.array() < hiding.start).count(); }
    const reference::Positions query_slots = slots.tail(static_cast<Index>(count));
    const reference::Positions query_positions = positions.tail(static_cast<Index>(count));
    for (std::size_t h = 0; h < shape.group(); ++h) {
      const std::size_t head = lane * shape.group() + h;
      reference::Matrix queries = text.query_matrix(head).middleRows(static_cast<Index>(end - count), static_cast<Index>(count));
      if (shape.keys == KeyForm::unrotated) {
        queries = reference::rotate(queries, query_slots, rope);
      } else if (table.renumbers()) {
        queries = reference::rerotate(queries, query_positions, query_slots, rope);
      }
      const auto result = reference::attention(queries, keys, values, query_slots, slots, hiding, log_weights);
      for (std::size_t t = 0; t < count; ++t) {
        for (std::size_t c = 0; c < shape.value_width(); ++c) {
          out[(t * shape.query_heads + head) * shape.value_width() + c] =
              static_cast<float>(result.output(static_cast<Index>(t), static_cast<Index>(c)));
        }
      }
    }
  }
  return out;
}

}  // namespace kvcompress::test
