// bench/competitors/policies.hpp - our policies that are measured, and caches made of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "runner/data.hpp"

namespace bench {

/// What one attention reads of a cache.
enum class Reads {
  everything,
  basis,   ///< xKV: the basis of its group of layers, the coefficients of its own layer
  pages,   ///< Quest: the index and the chosen rows
  chunks,  ///< ShadowKV: landmarks, and the chosen rows, at hand or from the basis and the slow tier
};

struct Policy {
  const char* name;
  const char* spec;  ///< as the registry takes it
  Reads reads = Reads::everything;
  std::size_t shortest = 0;         ///< contexts below are left out: nothing would be evicted or chosen
  std::size_t longest = 1U << 20U;  ///< longer ones take too long to compress
  bool observes = false;            ///< needs the prompt's last queries
  std::size_t layers = 1;
  double tolerance = 2e-4;  ///< of the kernel's error, of any one head; 2e-4 holds near_exact to its promise (core/accumulation.hpp)
  bool reserves = false;    ///< takes memory for the whole context first, as an engine that knows it does; nothing is evicted
  double turn = 0.0;        ///< radians by which the queries of a step differ from those of the step before
};

/// Rows that Quest and ShadowKV choose.
inline constexpr std::size_t rows_chosen = 2048;

const std::vector<Policy>& policies();
const Policy& policy(std::string_view name);

kvcompress::AnyCache make_cache(const Policy& policy, const Case& c, const kvcompress::Memory& memory = {});
/// Appends tokens [first, first + count) to a layer; with `attend`, the last up to 32 of them look at the cache.
void append(kvcompress::AnyCache& cache, const Data& data, std::size_t layer, std::size_t first, std::size_t count, bool attend = false);
/// The prompt of all layers; not ended.
void append_prompt(kvcompress::AnyCache& cache, const Policy& policy, const Data& data);
/// The prompt, compressed, and one decoded token after it.
kvcompress::AnyCache compressed_prompt(const Policy& policy, const Data& data, const kvcompress::Memory& memory = {});
/// How far attention of layer 0 is from its definition over the rows as they are decoded, in the last head.
double error_of_attend(kvcompress::AnyCache& cache, const Data& data);
/// Bytes of rows and factors, in whatever form they are.
std::size_t bytes_of_rows(const kvcompress::AnyCache& cache);

}  // namespace bench
