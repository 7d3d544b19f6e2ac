// examples/mpi/main.cpp - one long sequence over several processes: each holds a part of the rows in a compressed cache of its own.
// SPDX-License-Identifier: MIT
//
//     mpirun -np 3 over_ranks [POLICY [BUDGET [PROMPT [STEPS]]]]      e.g. kivi4, or keydiff 600
//
// A prompt's rows are dealt out in equal parts, one behind the other; decoded rows go to the ranks in turn. A step attends on every rank over
// the rows that it has, and merges. BUDGET is one of all ranks together. Rows are random. Rank 0 holds everything once more, in one cache,
// and says how far the merged outputs are from its own; all say whether they have the same bits.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "mpi/over_ranks.hpp"
#include "registry/registry.hpp"

namespace {

using namespace kvcompress;

constexpr std::size_t layers = 2;
constexpr std::size_t query_heads = 8;
constexpr std::size_t kv_heads = 2;
constexpr std::size_t width = 64;
const Shape shape{.layers = layers, .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = width};

/// The rows that a model would have made of the text: the same on every rank.
struct Text {
  explicit Text(std::size_t tokens) : keys(tokens * kv_heads * width), values(keys.size()), queries(tokens * query_heads * width) {
    std::mt19937 random(1);
    for (std::vector<float>* rows : {&keys, &values, &queries}) {
      for (float& x : *rows) { x = static_cast<float>(random() >> 8U) / 8388608.0F - 1.0F; }
    }
  }
  void append(AnyCache& cache, std::size_t layer, std::size_t first, std::size_t last) const {
    const std::size_t at = first * kv_heads * width;
    cache.append(layer, Rows::tokens_first(keys.data() + at, last - first, kv_heads, width),
                 Rows::tokens_first(values.data() + at, last - first, kv_heads, width), static_cast<Position>(first));
  }
  std::vector<float> keys, values, queries;
};
/// A token's attention over the rows of a cache, with the log-sum-exp that merging needs.
struct Attended {
  std::vector<float> output = std::vector<float>(query_heads * width);
  std::vector<float> log_sum_exp = std::vector<float>(query_heads, -INFINITY);
};
void attend(AnyCache& cache, std::size_t layer, const Text& text, std::size_t token, bool own_row, Attended& result) {
  AttendOptions options{.log_sum_exp = result.log_sum_exp.data()};
  if (!own_row) { options.query_position = static_cast<Position>(token); }  // the token's own row lies elsewhere
  cache.attend(layer, Rows::tokens_first(text.queries.data() + token * query_heads * width, 1, query_heads, width),
               Output::tokens_first(result.output.data(), 1, query_heads, width), options);
}

bool run(int argc, char** argv) {
  over_ranks::Merger merger(MPI_COMM_WORLD);
  const int rank = merger.rank();
  const std::string policy = argc > 1 ? argv[1] : "full";
  const std::size_t budget = argc > 2 ? std::stoul(argv[2]) : 0;
  const std::size_t prompt = argc > 3 ? std::stoul(argv[3]) : 3000;
  const std::size_t steps = argc > 4 ? std::stoul(argv[4]) : 40;
  require(prompt >= static_cast<std::size_t>(merger.ranks()), ErrorCode::input, "prompt is ", prompt, ", must be at least the ranks, ",
          merger.ranks());
  const auto with_budget = [&](std::size_t rows) { return budget == 0 ? policy : policy + ":budget=" + std::to_string(rows); };
  const Text text(prompt + steps);
  AnyCache mine = examples::registry().make(with_budget(merger.last(budget, rank) - merger.first(budget, rank)), shape);
  AnyCache whole = examples::registry().make(with_budget(budget), shape);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    text.append(mine, layer, merger.first(prompt, rank), merger.last(prompt, rank));
    mine.end_prompt(layer);
    if (rank == 0) {
      text.append(whole, layer, 0, prompt);
      whole.end_prompt(layer);
    }
  }
  double difference = 0.0, length = 0.0, merging = 0.0;
  bool same = true, alone_as_in_batch = true;
  for (std::size_t step = 0; step < steps; ++step) {
    const std::size_t token = prompt + step;
    const bool own_row = step % static_cast<std::size_t>(merger.ranks()) == static_cast<std::size_t>(rank);
    for (std::size_t layer = 0; layer < layers; ++layer) {
      if (own_row) { text.append(mine, layer, token, token + 1); }
      Attended result;
      attend(mine, layer, text, token, own_row, result);
      Attended batch = result;  // once more, behind another query, as in a batch of sequences
      batch.output.insert(batch.output.begin(), result.output.rbegin(), result.output.rend());
      batch.log_sum_exp.insert(batch.log_sum_exp.begin(), query_heads, 0.5F);
      const auto start = std::chrono::steady_clock::now();
      merger.merge(result.log_sum_exp, result.output, width);
      merging += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      merger.merge(batch.log_sum_exp, batch.output, width);
      alone_as_in_batch =
          alone_as_in_batch && std::equal(result.output.begin(), result.output.end(), batch.output.end() - query_heads * width);
      std::vector<float> of_rank_0 = result.output;
      MPI_Bcast(of_rank_0.data(), static_cast<int>(of_rank_0.size()), MPI_FLOAT, 0, MPI_COMM_WORLD);
      same = same && of_rank_0 == result.output;
      if (rank != 0) { continue; }
      Attended expected;
      text.append(whole, layer, token, token + 1);
      attend(whole, layer, text, token, true, expected);
      for (std::size_t i = 0; i < expected.output.size(); ++i) {
        const auto by_one = static_cast<double>(expected.output[i]);
        difference = std::max(difference, std::abs(by_one - static_cast<double>(result.output[i])));
        length = std::max(length, std::abs(by_one));
      }
    }
  }
  unsigned long rows = mine.kept(0, 0).size(), all_rows = 0;
  int right = same && alone_as_in_batch ? 1 : 0;
  int all_right = 0;
  MPI_Reduce(&rows, &all_rows, 1, MPI_UNSIGNED_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
  MPI_Allreduce(&right, &all_right, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (rank == 0) {
    std::printf(
        "%s on %d ranks: %lu rows of %zu held in all, %zu bytes on rank 0; outputs of up to %.2f differ by at most %.1e from one "
        "cache's; %s; merging took %.0f us a token and layer\n",
        with_budget(budget).c_str(), merger.ranks(), all_rows, prompt + steps, mine.memory().total(), length, difference,
        all_right == 1 ? "the same bits on all ranks, alone and in a batch" : "THE RANKS DIFFER",
        1e6 * merging / static_cast<double>(steps * layers));
  }
  const bool exact = policy == "full" || policy == "f32";
  return all_right == 1 && (!exact || difference < 1e-6 * std::max(1.0, length)) &&
         (rank != 0 || budget == 0 || all_rows <= budget + steps);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  bool right = false;
  try {
    right = run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "over_ranks: %s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  MPI_Finalize();
  return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
