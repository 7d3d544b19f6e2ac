// bench/competitors/ours.cpp - kvcompress, a competitor per policy.
// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "competitors/chosen_rows.hpp"
#include "competitors/policies.hpp"
#include "runner/competitor.hpp"
#include "runner/settings.hpp"
#include "runner/threads.hpp"

namespace bench {
namespace {

using namespace kvcompress;

class Ours final : public Competitor {
 public:
  explicit Ours(const Policy& policy) : policy_(policy) {}

  void prepare(const Data& data, std::size_t cold_bytes) override {
    const Case& c = case_ = data.of();
    caches_.push_back(compressed_prompt(policy_, data));
    first_ = data.queries(c.context, 1);
    second_ = data.queries(c.context + 1, 1);
    queries_ = first_;
    output_.resize(first_.size());
    workspaces_.assign(c.threads, Workspace(caches_.front().shape()));
    run_all();
    steps_ = fetched_ = 0;
    run_all();  // now the rows that steps before have chosen are at hand
    read_ = bytes_of_step();
    while (caches_.size() * policy_.layers * read_ < cold_bytes) { caches_.push_back(AnyCache(caches_.front())); }
    run_all();
    steps_ = fetched_ = 0;
  }
  void run() override {
    latest_ = next_;
    next_ = (next_ + 1) % (caches_.size() * policy_.layers);
    if (latest_ == 0) { turn(); }
    AnyCache& cache = caches_[latest_ / policy_.layers];
    const std::size_t layer = latest_ % policy_.layers;
    const Rows queries = Rows::tokens_first(queries_.data(), 1, case_.query_heads, case_.head_dim);
    const Output out = Output::tokens_first(output_.data(), 1, case_.query_heads, case_.head_dim);
    const std::size_t fetched = cache.fetched();
    if (case_.threads == 1) {
      cache.attend(layer, queries, out, workspaces_.front(), {}, {});
    } else {
      cache.attend(layer, queries, out, workspaces_, std::ref(threads(case_.threads)), {});
    }
    fetched_ += cache.fetched() - fetched;
    ++steps_;
  }
  [[nodiscard]] std::span<const float> output() const override { return output_; }
  [[nodiscard]] std::size_t bytes_read() const override { return read_; }
  [[nodiscard]] double bits_per_value() const override { return caches_.front().bits_per_value(); }
  [[nodiscard]] double hit_rate() const override {
    if (policy_.reads != Reads::chunks) { return -1.0; }
    return 1.0 - static_cast<double>(fetched_) / static_cast<double>(steps_ * rows_chosen * case_.kv_heads * case_.head_dim * sizeof(half));
  }
  void query(const Data&, std::size_t query_head, float* out) const override {
    std::copy_n(queries_.data() + query_head * case_.head_dim, case_.head_dim, out);
  }
  /// A choice that two roundings put on either side of the budget's border changes a chunk in 256.
  [[nodiscard]] double tolerance() const override {
    return policy_.reads == Reads::everything || policy_.reads == Reads::basis ? policy_.tolerance : 2e-2;
  }
  void rows(const Data& data, std::size_t query_head, const Visit& visit) override {
    AnyCache& cache = caches_[latest_ / policy_.layers];
    const std::size_t layer = latest_ % policy_.layers;
    const std::size_t head = query_head / case_.group();
    std::vector<float> row(2 * case_.head_dim);
    const auto show = [&](std::size_t r) {
      cache.read(layer, head, r, row.data(), row.data() + case_.head_dim);
      visit(row.data(), row.data() + case_.head_dim);
    };
    if (policy_.reads == Reads::everything || policy_.reads == Reads::basis) {
      const RowTable& table = cache.table(layer, head);
      for (std::size_t r = 0; r < table.rows(); ++r) {
        if (table.alive(r)) { show(r); }
      }
    } else {
      for (const reference::Index r : chosen(data, head)) { show(static_cast<std::size_t>(r)); }
    }
  }

 private:
  void turn() {
    if (policy_.turn == 0.0) { return; }
    angle_ += policy_.turn;
    const auto cosine = static_cast<float>(std::cos(angle_));
    const auto sine = static_cast<float>(std::sin(angle_));
    for (std::size_t i = 0; i < queries_.size(); ++i) { queries_[i] = cosine * first_[i] + sine * second_[i]; }
  }
  /// A step of every layer of every copy.
  void run_all() {
    for (std::size_t i = 0; i < caches_.size() * policy_.layers; ++i) { run(); }
  }
  /// Indices are made of the exact rows, before these are encoded.
  [[nodiscard]] reference::Rows chosen(const Data& data, std::size_t head) const {
    const auto dim = static_cast<reference::Index>(case_.head_dim);
    reference::Matrix keys(static_cast<reference::Index>(case_.context + 1), dim);
    std::vector<float> row(case_.head_dim);
    for (reference::Index t = 0; t < keys.rows(); ++t) {
      data.key(0, static_cast<std::size_t>(t), head, row.data());
      for (reference::Index i = 0; i < dim; ++i) {
        keys(t, i) = static_cast<double>(static_cast<float>(half(row[static_cast<std::size_t>(i)])));
      }
    }
    std::vector<reference::Matrix> queries;
    for (std::size_t q = 0; q < case_.group(); ++q) {
      const float* from = queries_.data() + (head * case_.group() + q) * case_.head_dim;
      queries.emplace_back(Eigen::Map<const Eigen::RowVectorXf>(from, dim).cast<double>());
    }
    if (policy_.reads == Reads::pages) { return quest_rows(keys, queries, rows_chosen); }
    return shadowkv_rows(keys, queries, rows_chosen, static_cast<reference::Index>(case_.context));
  }
  [[nodiscard]] std::size_t bytes_of_step() const {
    const AnyCache& cache = caches_.front();
    const MemoryReport memory = cache.memory();
    const std::size_t width = case_.kv_heads * case_.head_dim;  // of a layer's keys
    switch (policy_.reads) {
      case Reads::everything:
        return bytes_of_rows(cache);
      case Reads::basis: {  // ranks of 1/8 and 3/16 of the group's channels; each layer has coefficients of its own
        const std::size_t group = policy_.layers * width;
        const std::size_t coefficients = (group / 8 + group * 3 / 16) * group * sizeof(half);
        const std::size_t exact = memory.exact_rows / policy_.layers;
        return memory.factors - coefficients + coefficients / policy_.layers + exact;
      }
      case Reads::pages:
        return memory.indices + bytes_of_rows(cache) * rows_chosen / (case_.context + 1);
      case Reads::chunks: {  // the exact rows hold the chosen ones; where these are missed, the basis and the slow tier are read instead
        const std::size_t rank = width * 5 / 32;
        const auto missed = static_cast<std::size_t>((1.0 - hit_rate()) * rows_chosen);
        const std::size_t basis = missed * case_.kv_heads * rank + (missed > 0 ? rank * width : 0);
        return memory.indices + memory.exact_rows + (basis + missed * width - missed * 2 * width) * sizeof(half);
      }
    }
    return 0;
  }

  const Policy& policy_;
  Case case_{};
  std::vector<AnyCache> caches_{};
  std::vector<float> first_{};   // queries turn from these
  std::vector<float> second_{};  // to these
  std::vector<float> queries_{};
  std::vector<float> output_{};
  std::vector<Workspace> workspaces_{};
  std::size_t read_ = 0;
  std::size_t next_ = 0;
  std::size_t latest_ = 0;
  double angle_ = 0.0;
  std::size_t steps_ = 0;
  std::size_t fetched_ = 0;  // bytes, in these steps
};

/// What takes long to compress is short unless everything is asked for.
std::size_t longest(const Policy& policy) { return policy.layers > 1 && !settings().full ? policy.shortest : policy.longest; }

const bool entered = [] {
  for (const Policy& one : policies()) {
    entrants().push_back({.name = one.name,
                          .make = [&one] { return std::make_unique<Ours>(one); },
                          .fits = [&one](const Case& c) { return c.context >= one.shortest && c.context <= longest(one); }});
  }
  return true;
}();

}  // namespace
}  // namespace bench
