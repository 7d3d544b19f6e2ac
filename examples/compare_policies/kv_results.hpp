// examples/compare_policies/kv_results.hpp - what is asked of tensors of one's own, and what comes out: plain data.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "compare_policies/results.hpp"

namespace comparison {

/// As it was typed: what the defaults are, the dump decides.
struct KvSetup {
  std::string path;
  std::string layout;        // empty: told apart
  std::string policies;      // the list
  std::string budget;        // rows or a percentage of the prompt
  std::size_t decoded = 0;   // tokens behind the prompt; 0: half of them, at most 256
  double rope_theta = -1.0;  // below 0: what config.json says
  std::size_t threads = 1;
};

/// Sums over the decoded tokens and the query heads of a layer, or of several. All in double.
struct KvSums {
  double queries = 0.0;
  double error_square = 0.0;   // |output - exact output|^2
  double output_square = 0.0;  // |exact output|^2
  double mass = 0.0;           // of the exact attention, on the rows that are read
  double divergence = 0.0;     // KL(policy || exact), nats
  double bytes = 0.0;          // after the last token, without scratch and the slow tier
  double slow_bytes = 0.0;
  double values = 0.0;          // numbers that the tokens would be uncompressed
  double prompt_seconds = 0.0;  // append, observe, end_prompt
  double decode_seconds = 0.0;  // append, attend, commit
  double decoded = 0.0;         // tokens of a layer

  void add(const KvSums& other) {
    for (const auto field :
         {&KvSums::queries, &KvSums::error_square, &KvSums::output_square, &KvSums::mass, &KvSums::divergence, &KvSums::bytes,
          &KvSums::slow_bytes, &KvSums::values, &KvSums::prompt_seconds, &KvSums::decode_seconds, &KvSums::decoded}) {
      this->*field += other.*field;
    }
  }
  /// Length of all errors by that of all outputs.
  [[nodiscard]] double output_error() const { return std::sqrt(error_square / output_square); }
  [[nodiscard]] double mass_kept() const { return mass / queries; }
  [[nodiscard]] double kl() const { return divergence / queries; }
  [[nodiscard]] double bits_per_value() const { return 8.0 * bytes / values; }
  /// Of one layer.
  [[nodiscard]] double us_per_token() const { return 1e6 * decode_seconds / decoded; }
};

struct KvRow {
  Policy policy;
  std::vector<KvSums> layers;  // over all sequences
  [[nodiscard]] KvSums all() const {
    KvSums sums;
    for (const KvSums& layer : layers) { sums.add(layer); }
    return sums;
  }
};

struct KvComparison {
  KvSetup setup;
  std::vector<KvRow> rows;  // full first
  std::vector<std::size_t> layers;
  std::size_t sequences = 0;
  std::size_t tokens = 0;
  std::size_t decoded = 0;
  std::size_t budget = 0;
  std::vector<Fact> dump;
  std::vector<Fact> machine;
  std::string date;
  std::string command;
  double seconds = 0.0;
};

}  // namespace comparison
