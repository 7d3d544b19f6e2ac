// examples/mpi/over_ranks.hpp - attention over rows that lie on several machines: each attends over its own, and the parts are merged.
// SPDX-License-Identifier: MIT
#pragma once

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "kvcompress/attention/partial.hpp"

namespace over_ranks {

/// What the other ranks' rows weigh in a softmax, of the merged log-sum-exp and this rank's own: AttendOptions::partials for `observe`, which
/// looks at the log-sum-exps alone. So it takes no message beyond those of Merger::merge.
inline void weigh_others(std::span<const float> merged, std::span<const float> own, std::span<float> others) {
  for (std::size_t q = 0; q < merged.size(); ++q) {
    const double share = own[q] == -INFINITY ? 0.0 : std::exp(static_cast<double>(own[q]) - static_cast<double>(merged[q]));
    others[q] = share < 1.0 ? static_cast<float>(static_cast<double>(merged[q]) + std::log1p(-share)) : -INFINITY;
  }
}

/// Merges the ranks' attention over their own rows into attention over all rows, the same bits on every rank.
///
/// Each query head is merged by one rank, which gets that head's parts from all ranks, folds them in the order of the ranks, and sends the
/// result to all. So the bits depend neither on how MPI reduces (a user-defined operator's order does, and with it the last digits, on
/// the implementation, the rank and the size of the batch), nor on what else is in the batch. Two collectives; each rank sends and
/// receives about 2 * queries * (value width + 1) numbers, however many ranks there are.
class Merger {
 public:
  explicit Merger(MPI_Comm ranks) : ranks_(ranks) {
    MPI_Comm_rank(ranks, &rank_);
    MPI_Comm_size(ranks, &count_);
  }
  /// `log_sum_exp` (queries) and `output` (queries, width), queries = tokens * query heads: this rank's attention, as attend gives it, is
  /// replaced by that over the rows of all ranks. The same `queries` and `width` on every rank.
  void merge(std::span<float> log_sum_exp, std::span<float> output, std::size_t width) {
    const std::size_t queries = log_sum_exp.size();
    const std::size_t mine = last(queries, rank_) - first(queries, rank_);
    // To every rank, of the queries that it merges: their log-sum-exps, then their outputs.
    sent_.resize(queries * (width + 1));
    received_.resize(static_cast<std::size_t>(count_) * mine * (width + 1));
    Counts sends(count_), receives(count_), results(count_);
    for (int r = 0; r < count_; ++r) {
      const std::size_t begin = first(queries, r);
      const std::size_t many = last(queries, r) - begin;
      float* to = sent_.data() + begin * (width + 1);
      std::copy_n(log_sum_exp.data() + begin, many, to);
      std::copy_n(output.data() + begin * width, many * width, to + many);
      sends.add(many * (width + 1)), receives.add(mine * (width + 1)), results.add(many * (width + 1));
    }
    MPI_Alltoallv(sent_.data(), sends.counts.data(), sends.starts.data(), MPI_FLOAT, received_.data(), receives.counts.data(),
                  receives.starts.data(), MPI_FLOAT, ranks_);
    float* own = received_.data();  // rank 0's part becomes the result
    for (int r = 1; r < count_; ++r) {
      const float* next = received_.data() + static_cast<std::size_t>(r) * mine * (width + 1);
      kvcompress::merge({own, own + mine}, {next, next + mine}, mine, width, own, own + mine);
    }
    MPI_Allgatherv(own, static_cast<int>(mine * (width + 1)), MPI_FLOAT, sent_.data(), results.counts.data(), results.starts.data(),
                   MPI_FLOAT, ranks_);
    for (int r = 0; r < count_; ++r) {
      const std::size_t begin = first(queries, r);
      const std::size_t many = last(queries, r) - begin;
      const float* from = sent_.data() + begin * (width + 1);
      std::copy_n(from, many, log_sum_exp.data() + begin);
      std::copy_n(from + many, many * width, output.data() + begin * width);
    }
  }
  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int ranks() const noexcept { return count_; }
  /// A rank's share [first, last) of `count` things, rows or queries.
  [[nodiscard]] std::size_t first(std::size_t count, int rank) const noexcept {
    return count * static_cast<std::size_t>(rank) / static_cast<std::size_t>(count_);
  }
  [[nodiscard]] std::size_t last(std::size_t count, int rank) const noexcept { return first(count, rank + 1); }

 private:
  struct Counts {
    explicit Counts(int ranks) { counts.reserve(static_cast<std::size_t>(ranks)), starts.reserve(static_cast<std::size_t>(ranks)); }
    void add(std::size_t count) {
      starts.push_back(starts.empty() ? 0 : starts.back() + counts.back());
      counts.push_back(static_cast<int>(count));
    }
    std::vector<int> counts, starts;
  };
  MPI_Comm ranks_;
  int rank_ = 0;
  int count_ = 1;
  std::vector<float> sent_, received_;
};

}  // namespace over_ranks
