// tests/compile_fail/saving_without_persist.cpp - a state that does not say how it is saved is refused when a cache with it is saved.
// SPDX-License-Identifier: MIT
// expect: the State of its eviction must provide persist\(self, archive, rows\)
#include "kvcompress/cache/persist.hpp"
#include "kvcompress/kvcompress.hpp"

struct Silent : kvcompress::SinkWindow {
  struct State {
    static void reserve(std::size_t) {}
    static void resize(std::size_t) {}
    static void move(std::size_t, std::size_t) {}
    static void erase(std::size_t, std::size_t) {}
    static void compact(std::size_t) {}
    static void account(kvcompress::MemoryReport&) {}
  };
  static State state(const Options&, const kvcompress::Site&, const kvcompress::Memory&) { return {}; }
  static void select(const Options&, std::span<kvcompress::RowSet>, const kvcompress::Moment&) {}
};
struct SilentPolicy {
  using Eviction = Silent;
};

void keep(const kvcompress::KVCache<SilentPolicy>& cache) { kvcompress::detail::Persistence<SilentPolicy>::save(cache, {}, nullptr); }
