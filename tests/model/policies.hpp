// tests/model/policies.hpp - the policies that random verbs are tried on, and what must hold of each.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

namespace kvcompress::test::model {

inline constexpr double unknown = std::numeric_limits<double>::infinity();

struct PolicyCase {
  std::string name;         // of the test
  std::string spec;         // for the registry
  double row_error = 0.0;   // largest difference of a decoded number from the one that was appended, whose size is at most 1.75; or unknown
  double tolerance = 3e-5;  // of outputs, against attention in double over decoded rows, relative to the larger of 1 and the output
  bool exact = false;       // neither encodes nor evicts nor chooses: truncates anywhere
  bool observes = false;    // every query must be seen once, before its row is committed
  bool together = false;    // layers are encoded together: end_prompt comes for both
  bool hides = false;       // a query reads fewer rows than are there: outputs are only bounded
  std::size_t sinks = 0;    // first rows that an eviction must keep
  std::size_t recent = 0;   // newest rows that it must keep
  std::size_t budget = 0;   // rows that it keeps after end_prompt; 0: it evicts nothing
  std::size_t decoded = 0;  // on top of that after a commit
};

inline void PrintTo(const PolicyCase& policy, std::ostream* out) { *out << policy.name; }

/// Steps of codes: numbers lie in [-1.75, 1.75]; a row that was encoded anew is twice as far off.
constexpr double steps(int bits, double count) { return count * 3.5 / ((1 << bits) - 1); }

inline std::vector<PolicyCase> policies() {
  return {
      {.name = "full", .spec = "f32", .exact = true},
      {.name = "streaming", .spec = "streaming:sinks=4,window=28", .row_error = 1e-3, .sinks = 4, .recent = 28, .budget = 32},
      {.name = "h2o", .spec = "h2o:budget=32,recent=8+f32", .observes = true, .recent = 8, .budget = 32},
      {.name = "snapkv",
       .spec = "snapkv:budget=32,window=8,decode_budget=16+f32",
       .observes = true,
       .recent = 8,
       .budget = 32,
       .decoded = 16},
      {.name = "kivi4", .spec = "kivi4:residual=32", .row_error = steps(4, 1.0), .tolerance = 2e-3},
      {.name = "kivi2", .spec = "kivi2:residual=32,accumulation=exact", .row_error = steps(2, 1.0)},
      {.name = "gear4", .spec = "gear4:buffer=8", .row_error = steps(4, 2.0), .tolerance = 2e-3},
      {.name = "h2o_kivi4",
       .spec = "h2o:budget=32,recent=8+kivi4:residual=32",
       .row_error = steps(4, 3.0),
       .tolerance = 2e-3,
       .observes = true,
       .recent = 8,
       .budget = 32},
      {.name = "quest_of_all",
       .spec = "quest:budget=4096,page=8,dense_layers=0+kivi4:residual=32",
       .row_error = steps(4, 1.0),
       .tolerance = 2e-3},
      {.name = "quest_kivi4", .spec = "quest:budget=32,page=8,dense_layers=1+kivi4:residual=32", .row_error = steps(4, 1.0), .hides = true},
      {.name = "xkv", .spec = "xkv:layers_per_group=2,rank_keys=32,rank_values=32", .row_error = unknown, .together = true},
      {.name = "shadowkv",
       .spec = "shadowkv:budget=32,local_chunks=1,outlier_chunks=1,rank=16",
       .row_error = unknown,
       .observes = true,
       .hides = true},
  };
}

}  // namespace kvcompress::test::model
