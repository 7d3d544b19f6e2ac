// bench/runner/competitor.hpp - what takes part in the measurements of attention, and how it enters.
// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runner/data.hpp"

namespace bench {

/// Decodes one token of one layer: attention of query token `context` over the rows of tokens 0 to `context`. To take part, derive from
/// this and make a global `const Enter` (competitors/ggml.cpp does); -DKVCOMPRESS_BENCH_ENGINE=/path/to/file.cpp compiles your file in.
class Competitor {
 public:
  using Visit = std::function<void(const float* key, const float* value)>;

  virtual ~Competitor() = default;

  /// Takes the rows. If one step reads less than `cold_bytes`, hold so many copies that taking them in turn reads at least that: what a
  /// step reads must not lie in the processor's cache, as in a model of many layers.
  virtual void prepare(const Data& data, std::size_t cold_bytes) = 0;
  /// One step, on the next copy.
  virtual void run() = 0;
  /// (query_heads, head_dim), of the latest step. Empty: there is nothing to verify.
  [[nodiscard]] virtual std::span<const float> output() const = 0;
  /// Bytes that a step reads.
  [[nodiscard]] virtual std::size_t bytes_read() const = 0;
  /// Bits held per number of keys and values.
  [[nodiscard]] virtual double bits_per_value() const = 0;

  /// The rows that the latest step should have read for a query head, decoded; the output is compared with the definition over them.
  virtual void rows(const Data& data, std::size_t query_head, const Visit& visit) {
    const std::size_t dim = data.of().head_dim;
    std::vector<float> row(2 * dim);
    for (std::size_t t = 0; t <= data.of().context; ++t) {
      data.key(0, t, query_head / data.of().group(), row.data());
      data.value(0, t, query_head / data.of().group(), row.data() + dim);
      visit(row.data(), row.data() + dim);
    }
  }
  /// The latest step's query of a head.
  virtual void query(const Data& data, std::size_t query_head, float* out) const { data.query(data.of().context, query_head, out); }
  /// The largest relative_error to that definition that is right, of any verified head.
  [[nodiscard]] virtual double tolerance() const { return 2e-4; }
  /// Share of the chosen rows that were at hand already; below 0 if there is no such thing.
  [[nodiscard]] virtual double hit_rate() const { return -1.0; }
};

struct Entrant {
  std::string name;
  std::function<std::unique_ptr<Competitor>()> make;
  bool external = false;  ///< takes part in every scenario of attention
  std::function<bool(const Case&)> fits = [](const Case&) { return true; };
};

/// In the order in which they entered: by file, so sort what you show.
inline std::vector<Entrant>& entrants() {
  static std::vector<Entrant> all;
  return all;
}

struct Enter {
  explicit Enter(Entrant entrant) { entrants().push_back(std::move(entrant)); }
};

}  // namespace bench
