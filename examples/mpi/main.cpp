// examples/mpi/main.cpp - one long sequence over several processes: each holds a part of the rows in a compressed cache of its own.
// SPDX-License-Identifier: MIT
//
//     mpirun -np 3 over_ranks [POLICY [BUDGET [PROMPT [STEPS [PIECE [BOUND]]]]]]      e.g. kivi4, or h2o 240
//
// A prompt's rows are dealt out to the ranks in turn, PIECE rows at a time (64; 0: in equal parts, one behind the other), decoded rows one at
// a time. Every rank attends over the rows that it has, the parts are merged, and each rank's policy observes the queries with the merged
// softmax. BUDGET is one of all ranks together. Rows are random, with some that queries look for. Rank 0 holds everything twice more, in
// one cache of the policy and uncompressed, and says how far the merged outputs are from theirs; all say whether they have the same bits.
// It fails if they do not, if the ranks hold more or fewer rows than one cache, if what must be exact is not, or if the error of the outputs is
// more than BOUND times that of one cache (0: any).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/core/row_scores.hpp"
#include "mpi/over_ranks.hpp"
#include "registry/registry.hpp"

namespace {

using namespace kvcompress;

constexpr std::size_t layers = 2;
constexpr std::size_t query_heads = 8;
constexpr std::size_t kv_heads = 2;
constexpr std::size_t lanes = layers * kv_heads;
constexpr std::size_t width = 64;
const Shape shape{.layers = layers, .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = width};

/// The rows that a model would have made of the text: the same on every rank.
struct Text {
  explicit Text(std::size_t tokens) : keys(tokens * kv_heads * width), values(keys.size()), queries(tokens * query_heads * width) {
    std::mt19937 random(1);
    for (std::vector<float>* rows : {&keys, &values, &queries}) {
      for (float& x : *rows) { x = static_cast<float>(random() >> 8U) / 8388608.0F - 1.0F; }
    }
    // Even heads look for some rows, odd ones for others, but most of all for the first token: of their softmax a rank without it has little.
    for (std::size_t head = 0; head < tokens * query_heads; ++head) {
      float* const query = queries.data() + head * width;
      const bool even = head % query_heads % 2 == 0;
      add(query, even ? 1 : 2, 1.0F);
      add(query, 0, even ? 0.0F : 2.0F);
    }
    for (std::size_t token = 0; token < tokens; ++token) {
      const std::size_t kind = random() % 10;
      for (std::size_t head = 0; head < kv_heads; ++head) {
        float* const key = keys.data() + (token * kv_heads + head) * width;
        if (token == 0) { add(key, 0, 1.5F); }
        if (token > 0 && kind < 2) { add(key, 1 + kind, 1.5F); }
      }
    }
  }
  [[nodiscard]] Rows query_rows(std::size_t first, std::size_t last) const {
    return Rows::tokens_first(queries.data() + first * query_heads * width, last - first, query_heads, width);
  }
  void append(AnyCache& cache, std::size_t layer, std::size_t first, std::size_t last) const {
    const std::size_t at = first * kv_heads * width;
    cache.append(layer, Rows::tokens_first(keys.data() + at, last - first, kv_heads, width),
                 Rows::tokens_first(values.data() + at, last - first, kv_heads, width), static_cast<Position>(first));
  }
  std::vector<float> keys, values, queries;

 private:
  static void add(float* row, std::size_t quarter, float x) {
    for (std::size_t i = quarter * width / 4; i < (quarter + 1) * width / 4; ++i) { row[i] += x; }
  }
};

/// Which rank holds which row, and how many of a budget's rows each may keep: of the prompt's as many in a hundred as it was dealt.
struct Deal {
  std::size_t ranks, prompt, piece;

  [[nodiscard]] int owner(std::size_t token) const { return static_cast<int>((token < prompt ? token / piece : token - prompt) % ranks); }
  [[nodiscard]] std::size_t share(std::size_t budget, int rank) const {
    std::size_t until = 0, own = 0;  // rows of the prompt of the ranks before this one, and its own
    for (std::size_t token = 0; token < prompt; ++token) {
      until += owner(token) < rank ? 1U : 0U;
      own += owner(token) == rank ? 1U : 0U;
    }
    const std::size_t of_prompt = std::min(budget, prompt), beyond = budget - of_prompt;
    return of_prompt * (until + own) / prompt - of_prompt * until / prompt + beyond / ranks +
           (static_cast<std::size_t>(rank) < beyond % ranks ? 1 : 0);
  }
};

/// Attention of some tokens over the rows of a cache, with the log-sum-exp that merging needs; over no rows at first.
struct Attended {
  explicit Attended(std::size_t tokens) : output(tokens * query_heads * width), log_sum_exp(tokens * query_heads, -INFINITY) {}
  bool operator==(const Attended&) const = default;
  std::vector<float> output, log_sum_exp;
};

/// How far outputs are from others, and how large these are.
struct Distance {
  void add(const Attended& a, const Attended& b) {
    for (std::size_t i = 0; i < a.output.size(); ++i) {
      const auto to = static_cast<double>(b.output[i]);
      const double away = static_cast<double>(a.output[i]) - to;
      most = std::max(most, std::abs(away));
      longest = std::max(longest, std::abs(to));
      squares += away * away;
      of_all += to * to;
    }
  }
  [[nodiscard]] double relative() const { return std::sqrt(squares / of_all); }
  double most = 0.0, longest = 0.0, squares = 0.0, of_all = 0.0;
};

/// The time that calls take together.
struct Stopwatch {
  void time(auto&& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double seconds = 0.0;
};

/// One rank's part of the sequence.
class Sequence {
 public:
  Sequence(over_ranks::Merger& merger, const std::string& policy, const Text& text) : merger_(merger), text_(text) {
    mine.emplace(examples::registry().make(policy, shape));
  }
  /// Attention of the tokens [first, last), whose rows lie on rank `owner`, over the rows of all ranks.
  Attended step(std::size_t layer, std::size_t first, std::size_t last, int owner) {
    const bool here = owner == merger_.rank();
    if (here) { text_.append(*mine, layer, first, last); }
    Attended result(last - first);
    const bool has_rows = mine->tokens(layer) > 0;
    // The cache has a part of the softmax: what the policy is to see of the queries comes below.
    AttendOptions options{.log_sum_exp = result.log_sum_exp.data(), .record = Record::none};
    if (!here) { options.query_position = static_cast<Position>(first); }  // the tokens' own rows lie elsewhere
    if (has_rows) {
      attending.time([&] {
        mine->attend(layer, text_.query_rows(first, last), Output::tokens_first(result.output.data(), last - first, query_heads, width),
                     options);
      });
    }
    const std::vector<float> own = result.log_sum_exp;
    check_batch(result, [&] { merging.time([&] { merger_.merge(result.log_sum_exp, result.output, width); }); });
    if (!has_rows) { return result; }  // older queries than all rows here
    std::vector<float> others(own.size());
    over_ranks::weigh_others(result.log_sum_exp, own, others);
    const Partial beside{others.data(), result.output.data()};
    std::vector<Position> positions(last - first);
    std::iota(positions.begin(), positions.end(), static_cast<Position>(first));
    // The log-sum-exp is for policies that see every query (H2O), the others' part for those that keep the last ones (SnapKV).
    observing.time([&] {
      mine->observe(layer, text_.query_rows(first, last), positions, {.partials = {&beside, 1}}, result.log_sum_exp.data());
    });
    return result;
  }
  std::optional<AnyCache> mine;
  Stopwatch attending, merging, observing;
  bool alone_as_in_batch = true;

 private:
  /// The same merged once more, behind another query, as in a batch of sequences.
  void check_batch(Attended& result, auto&& merge) {
    Attended batch = result;
    batch.output.insert(batch.output.begin(), result.output.rbegin(), result.output.rend());
    batch.log_sum_exp.insert(batch.log_sum_exp.begin(), result.log_sum_exp.size(), 0.5F);
    merge();
    merger_.merge(batch.log_sum_exp, batch.output, width);
    batch.output.erase(batch.output.begin(), batch.output.end() - static_cast<std::ptrdiff_t>(result.output.size()));
    batch.log_sum_exp.erase(batch.log_sum_exp.begin(), batch.log_sum_exp.begin() + static_cast<std::ptrdiff_t>(result.log_sum_exp.size()));
    alone_as_in_batch = alone_as_in_batch && batch == result;
  }
  over_ranks::Merger& merger_;
  const Text& text_;
};

/// The same tokens of a cache that holds all rows.
Attended step_of(AnyCache& cache, const Text& text, std::size_t layer, std::size_t first, std::size_t last) {
  Attended result(last - first);
  text.append(cache, layer, first, last);
  cache.attend(layer, text.query_rows(first, last), Output::tokens_first(result.output.data(), last - first, query_heads, width),
               {.log_sum_exp = result.log_sum_exp.data()});
  return result;
}

bool same_on_all(const Attended& result) {
  Attended of_rank_0 = result;
  MPI_Bcast(of_rank_0.output.data(), static_cast<int>(of_rank_0.output.size()), MPI_FLOAT, 0, MPI_COMM_WORLD);
  MPI_Bcast(of_rank_0.log_sum_exp.data(), static_cast<int>(of_rank_0.log_sum_exp.size()), MPI_FLOAT, 0, MPI_COMM_WORLD);
  return of_rank_0 == result;
}

/// What rank 0 knows of the rows that the ranks hold together after the last commit.
struct Held {
  std::size_t rows = 0;    // in all lanes
  std::size_t common = 0;  // with one cache
  bool as_many_as_one_cache = true;
  double scores_differ = 0.0;  // by at most so much of the largest, from one cache's scores of the same rows
};
/// `scored`: the policy is H2O or SnapKV, which score rows by the attention that they receive.
Held held_by_all(AnyCache& mine, const AnyCache& whole, std::size_t tokens, bool scored) {
  Held result;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const auto score = [&](const AnyCache& cache, std::size_t layer, std::size_t head, std::size_t row) {
    return scored ? static_cast<const RowScores*>(cache.state(layer, head).inner())->largest(row) : 0.0F;
  };
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::size_t of_layer = 0, of_one = 0;  // an allocator may deal a layer's rows out to its heads as it likes
    for (std::size_t head = 0; head < kv_heads; ++head) {
      std::vector<float> here(2 * tokens), by_all(2 * tokens);  // whether a position is held, and its score
      const RowTable& table = mine.table(layer, head);
      for (std::size_t row = 0; row < table.rows(); ++row) {
        if (!table.alive(row)) { continue; }
        here[2 * table.position(row)] = 1.0F;
        here[2 * table.position(row) + 1] = score(mine, layer, head, row);
      }
      MPI_Reduce(here.data(), by_all.data(), static_cast<int>(2 * tokens), MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
      if (rank != 0) { continue; }
      for (std::size_t at = 0; at < tokens; ++at) { of_layer += static_cast<std::size_t>(by_all[2 * at]); }
      of_one += whole.kept(layer, head).size();
      const RowTable& by_one = whole.table(layer, head);
      double most = 0.0, largest = 1e-30;
      for (std::size_t row = 0; row < by_one.rows(); ++row) {
        const float* const there = by_all.data() + 2 * by_one.position(row);
        if (!by_one.alive(row) || there[0] == 0.0F) { continue; }
        const auto expected = static_cast<double>(score(whole, layer, head, row));
        ++result.common;
        largest = std::max(largest, expected);
        most = std::max(most, std::abs(static_cast<double>(there[1]) - expected));
      }
      result.scores_differ = std::max(result.scores_differ, most / largest);
    }
    result.rows += of_layer;
    result.as_many_as_one_cache = result.as_many_as_one_cache && of_layer == of_one;
  }
  return result;
}

bool run(int argc, char** argv) {
  over_ranks::Merger merger(MPI_COMM_WORLD);
  const int rank = merger.rank();
  const auto number = [&](int i, std::size_t usual) { return argc > i ? std::stoul(argv[i]) : usual; };
  const std::string policy = argc > 1 ? argv[1] : "full";
  const std::size_t budget = number(2, 0), prompt = number(3, 768), steps = number(4, 40), piece = number(5, 64);
  const double bound = argc > 6 ? std::stod(argv[6]) : 0.0;
  const auto ranks = static_cast<std::size_t>(merger.ranks());
  const Deal deal{ranks, prompt, piece > 0 ? piece : (prompt + ranks - 1) / ranks};
  require(prompt > deal.piece * (ranks - 1), ErrorCode::input, "prompt is ", prompt, ", must be more than ", deal.piece * (ranks - 1),
          ": every rank needs a piece of it");
  const auto with_budget = [&](std::size_t count) {  // of an eviction, whose options come before the storage's name
    const std::size_t end = std::min(policy.find('+'), policy.size());
    const std::string option = (policy.find(':') < end ? "," : ":") + ("budget=" + std::to_string(count));
    return budget == 0 ? policy : std::string(policy).insert(end, option);
  };
  const Text text(prompt + steps);
  Sequence sequence(merger, with_budget(deal.share(budget, rank)), text);
  AnyCache whole = examples::registry().make(with_budget(budget), shape);
  AnyCache full = examples::registry().make("f32", shape);

  bool same = true;
  Distance in_prompt, decoded, of_ranks, of_whole;
  const auto step = [&](std::size_t layer, std::size_t first, std::size_t last, Distance& from_whole) {
    const Attended result = sequence.step(layer, first, last, deal.owner(first));
    same = same_on_all(result) && same;
    if (rank != 0) { return; }
    const Attended by_one = step_of(whole, text, layer, first, last);
    const Attended expected = step_of(full, text, layer, first, last);
    from_whole.add(result, by_one);
    if (&from_whole == &in_prompt) { return; }
    of_ranks.add(result, expected);
    of_whole.add(by_one, expected);
  };
  for (std::size_t layer = 0; layer < layers; ++layer) {
    for (std::size_t first = 0, last = 0; first < prompt; first = last) {
      last = std::min({prompt, first + 64, (first / deal.piece + 1) * deal.piece});
      step(layer, first, last, in_prompt);
    }
    sequence.mine->end_prompt(layer);
    for (AnyCache* cache : {&whole, &full}) {
      if (rank == 0) { cache->end_prompt(layer); }
    }
  }
  sequence.attending = sequence.merging = sequence.observing = {};
  for (std::size_t token = prompt; token < prompt + steps; ++token) {
    for (std::size_t layer = 0; layer < layers; ++layer) { step(layer, token, token + 1, decoded); }
  }
  for (std::size_t layer = 0; layer < layers; ++layer) {
    sequence.mine->commit(layer);
    if (rank == 0) { whole.commit(layer); }
  }
  const bool snapkv = policy.starts_with("snapkv");
  const bool scored = policy.starts_with("h2o") || (snapkv && policy.ends_with("kernel=1"));  // pooled scores are those of neighbours
  const Held held = held_by_all(*sequence.mine, whole, prompt + steps, scored);
  int right = same && sequence.alone_as_in_batch ? 1 : 0;
  int all_right = 0;
  MPI_Allreduce(&right, &all_right, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  const auto us = [&](const Stopwatch& watch) { return 1e6 * watch.seconds / static_cast<double>(steps * layers); };
  // Before end_prompt every policy is exact; afterwards those that hold exact rows, if they hold all of them.
  const bool exact = held.rows == lanes * (prompt + steps) &&
                     (policy == "full" || policy == "f32" || ((scored || snapkv) && policy.find('+') == std::string::npos));
  const auto near = [](const Distance& distance) { return distance.most < 1e-6 * std::max(1.0, distance.longest); };
  if (rank == 0) {
    std::printf("%s on %d ranks: %zu rows of %zu held in a lane%s, %zu %% of them the same; %zu bytes on rank 0; %s\n",
                with_budget(budget).c_str(), merger.ranks(), held.rows / lanes, prompt + steps,
                held.as_many_as_one_cache ? ", as in one cache" : ", NOT AS MANY AS IN ONE CACHE", 100 * held.common / held.rows,
                sequence.mine->memory().total(), all_right == 1 ? "the same bits on all ranks, alone and in a batch" : "THE RANKS DIFFER");
    std::printf(
        "outputs of up to %.2f differ by at most %.1e from one cache's, in the prompt by %.1e; from full attention: %.4f, one cache %.4f; "
        "scores by %.0e\n",
        decoded.longest, decoded.most, in_prompt.most, of_ranks.relative(), of_whole.relative(), held.scores_differ);
    std::printf("a token and layer: attending %.0f us, merging %.0f us, observing %.0f us\n", us(sequence.attending), us(sequence.merging),
                us(sequence.observing));
  }
  return all_right == 1 && held.as_many_as_one_cache &&
         (rank != 0 || (near(in_prompt) && (!exact || (near(decoded) && held.scores_differ < 1e-4)) &&
                        (bound == 0.0 || of_ranks.relative() <= bound * of_whole.relative())));
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
