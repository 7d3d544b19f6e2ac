// include/kvcompress/policies/gear.hpp - GEAR: quantised rows, a low-rank factorisation of the error, exact outliers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/gear/store.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// GEAR's storage; see Gear.
template <int Bits, class Backbone, ValueVectors Vectors, class Scale>
struct GearStorage {
  using Keys = GearKeys<Bits, Backbone, Scale>;
  using Values = GearValues<Bits, Backbone, Vectors, Scale>;
  using Options = GearOptions<Backbone::buffer>;

  /// Numbers of options.start.
  static std::size_t start_count(const Options& options, const Shape& shape) noexcept {
    std::size_t most = 0;
    for (std::size_t layer = 0; layer < shape.kinds(); ++layer) {
      const Shape& of = shape.of(layer);
      const std::size_t heads = Vectors == ValueVectors::layer ? of.kv_heads : 1;
      most = std::max({most, of.key_width(), heads * of.value_width()});
    }
    return most * options.prompt_rank;
  }
  static void validate(const Options& options) {
    require(options.buffer >= 1 && options.buffer % Backbone::row_multiple == 0, ErrorCode::option, "gear: buffer is ", options.buffer,
            ", must be a positive multiple of ", Backbone::row_multiple);
    check_bounds("gear: buffer", options.buffer);
    require(options.sweeps >= 1, ErrorCode::option, "gear: sweeps is ", options.sweeps, ", must be at least 1");
    require(options.sweeps <= 1000, ErrorCode::option, "gear: sweeps is ", options.sweeps, ", must be at most 1000");
    require(options.sparsity >= 0.0 && options.sparsity <= 1.0, ErrorCode::option, "gear: sparsity is ", options.sparsity,
            ", must lie between 0 and 1");
    require(options.prompt_rank <= 1024, ErrorCode::option, "gear: prompt_rank is ", options.prompt_rank, ", must be at most 1024");
    require(options.decode_rank <= 1024, ErrorCode::option, "gear: decode_rank is ", options.decode_rank, ", must be at most 1024");
    check_accumulation<Bits>(options.accumulation, "gear");
    require(options.merge != 1, ErrorCode::option, "gear: merge is 1, must be 0 or at least 2");
    check_bounds("gear: merge", options.merge);
  }
};

/// "GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM" (arXiv:2403.05527);
/// opengear-project/GEAR@efe0bfe2b5a3. A segment of rows is codes + outliers + a low-rank factorisation of what these leave. A prompt is one
/// segment, then every `buffer` tokens; the newest rows are exact. Backbones: Kcvt (a scale per key channel and segment, a scale per value
/// token) and KiviGroups<Group>. `Scale` is the type of scales, factors, outliers and exact rows. sparsity = 0 is GEAR-L.
/// Deviations: the paper's counts of outliers, not the official code's (options.official_simulation has those), the mean in their slots as in
/// the code; each segment is encoded once, from the exact rows; the power iteration starts from a seed; factors carry sqrt(rows) on one side;
/// an outlier is its difference to the nearest code, rounded to Scale.
///
/// Keeps: every row. Observes: nothing. Loses: what two roundings and the rest of the spectrum leave; outliers are exact at rank 0. Cost: see
/// GearStore. Bits per number, d channels, segments of t rows, rank r, sparsity s: Bits + q + 16 r (1/d + 1/t) + 32 s, with q = 32/t (keys)
/// and 32/(heads d) (values; 32/d with ValueVectors::head) under Kcvt, 32/Group otherwise: 4.5 for a long prompt at 4 bits without outliers,
/// 5.2 with them; decoded tokens take 1 to 3 more, so set `merge` for long texts. Merging encodes rows a second time, once: the error is at
/// most the sum of both (triangle inequality). With an eviction, rows die in place, a dead segment goes, and segments are encoded anew from
/// what they decode to when fewer than half of the encoded rows are alive. H2O, whose rows differ from head to head, needs
/// ValueVectors::head; SnapKV chooses one set of rows for all heads of a layer, or one per head with ValueVectors::head.
template <int Bits = 4, class Backbone = Kcvt, ValueVectors Vectors = ValueVectors::layer, class Scale = half>
struct Gear {
  using Storage = GearStorage<Bits, Backbone, Vectors, Scale>;
};

}  // namespace kvcompress
