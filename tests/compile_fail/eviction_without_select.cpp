// tests/compile_fail/eviction_without_select.cpp - an eviction that decides nothing is refused by the name of its concept.
// SPDX-License-Identifier: MIT
// expect: the eviction of P must model kvcompress::Eviction
#include "kvcompress/kvcompress.hpp"

struct Undecided : kvcompress::ScoredRows {
  static constexpr std::string_view name = "undecided";
  struct Options {};
  static void validate(const Options&, const kvcompress::Shape&) {}
};
struct UndecidedPolicy {
  using Eviction = Undecided;
};

kvcompress::KVCache<UndecidedPolicy> cache({});
