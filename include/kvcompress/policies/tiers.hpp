// include/kvcompress/policies/tiers.hpp - rows of two precisions: what a fate makes colder in codes, the rest exact.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/buffered.hpp"
#include "kvcompress/quantization/per_channel.hpp"
#include "kvcompress/quantization/per_token.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// See Tiers.
template <int Bits, std::size_t Group, class Scale>
struct TiersStorage {
  using Keys = Buffered<PerChannel<Bits, Group, Scale>, FlushColder>;
  using Values = Buffered<PerToken<Bits, Group, Scale>, FlushColder>;
  struct Options {
    static constexpr std::size_t residual = Group;
    Accumulation accumulation = Accumulation::near_exact;  ///< how attention adds up products with codes
    static void fields(auto& options, auto&& field) { field("accumulation", options.accumulation); }
  };
  static void validate(const Options& options) { check_accumulation<Bits>(options.accumulation, "tiers"); }
};

/// Exact rows in Scale, and colder ones in KIVI's codes: keys per channel in groups of `Group` rows (so that up to Group - 1 of the colder rows wait,
/// exact), values per token in groups of `Group` channels. With an eviction that demotes ("h2o:budget=25%+demote+tiers2"), which says which rows; without
/// one all rows stay exact. Keeps: every row, the important ones exact. In the manner of "No Token Left Behind: Reliable KV Cache Compression via
/// Importance-Aware Mixed Precision Quantization" (MiKV) and ZipCache, but for their codes: MiKV's are per token with its keys balanced by channel.
/// Bits per number: Bits + 32/Group of cold rows, those of Scale of the others.
template <int Bits, std::size_t Group = 32, class Scale = half>
struct Tiers {
  using Storage = TiersStorage<Bits, Group, Scale>;
};

}  // namespace kvcompress
