// tests/compile_fail/observer_without_observe.cpp - an eviction that says it observes attention must have the member for it.
// SPDX-License-Identifier: MIT
// expect: it must model kvcompress::ObservesAttention
#include "kvcompress/kvcompress.hpp"

struct Blind : kvcompress::ScoredRows {
  static constexpr std::string_view name = "blind";
  static constexpr kvcompress::Needs may{.observes = kvcompress::Observes::every_query};
  struct Options {};
  static void validate(const Options&, const kvcompress::Shape&) {}
  static void select(const Options&, std::span<kvcompress::RowSet>, const kvcompress::Moment&) {}
};
struct BlindPolicy {
  using Eviction = Blind;
};

kvcompress::KVCache<BlindPolicy> cache({});
