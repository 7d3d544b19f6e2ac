// tests/matrix/cells.hpp - the compositions that work: every eviction over every storage, read in full or by pages.
// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "support/policies.hpp"

namespace kvcompress::test {

/// What a test varies.
struct Settings {
  std::size_t budget = unbounded;  // rows that an eviction keeps
  std::size_t reads = unbounded;   // rows that a retrieval chooses
  std::size_t speculation = 0;
  Accumulation accumulation = Accumulation::near_exact;
};

/// One composition; its name is eviction/storage/retrieval.
struct Cell {
  std::string name;
  bool evicts;
  bool encodes;  // in codes, which can be added up in several ways
  std::function<AnyCache(const Shape&, const Settings&, const Memory&)> make;
};

inline void PrintTo(const Cell& cell, std::ostream* out) { *out << cell.name; }

template <class P>
Cell cell(const std::string& name) {
  return {name, evicts<P>, requires(PolicyOptions<P> o){o.storage.accumulation;
}
, [](const Shape& shape, const Settings& settings, const Memory& memory) {
  PolicyOptions<P> options{};
  set_budget(options.eviction, settings.budget);
  set_reading(options.retrieval, settings.reads);
  if constexpr (requires { options.storage.layers_per_group; }) { options.storage.layers_per_group = 2; }
  if constexpr (requires { options.storage.residual; }) { options.storage.residual = 32; }
  if constexpr (requires { options.eviction.in_cache_positions; }) {
    options.eviction.in_cache_positions =
        options.eviction.in_cache_positions && KVCache<P>::Retrieval::renumbers(options.retrieval, Site{0, 0, shape});
  }
  options.speculation = settings.speculation;
  add_up(options.storage, settings.accumulation);
  return any_cache<P>(shape, options, memory);
}
};
}

/// The cells of one storage: each eviction in `Evictions`, read in full and by Quest's pages.
template <class Storage>
std::vector<Cell> cells_with_quest(const std::string& storage) {
  return {cell<Combine<Storage>>("all/" + storage + "/all"),
          cell<Combine<StreamingLLM, Storage>>("streaming/" + storage + "/all"),
          cell<Combine<SnapKV, Storage>>("snapkv/" + storage + "/all"),
          cell<Combine<Storage, Quest>>("all/" + storage + "/quest"),
          cell<Combine<StreamingLLM, Storage, Quest>>("streaming/" + storage + "/quest"),
          cell<Combine<SnapKV, Storage, Quest>>("snapkv/" + storage + "/quest")};
}

// One source file each, so that they compile side by side.
std::vector<Cell> f16_cells();
std::vector<Cell> kivi2_cells();
std::vector<Cell> kivi4_cells();
std::vector<Cell> gear_cells();
std::vector<Cell> xkv_cells();
std::vector<Cell> shadowkv_cells();

}  // namespace kvcompress::test
