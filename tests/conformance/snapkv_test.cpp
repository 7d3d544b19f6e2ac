// tests/conformance/snapkv_test.cpp - SnapKV through KVCache against the official implementations, and against the reference.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kvcompress/eviction/allocators/pyramid.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/reference/snapkv.hpp"
#include "support/kept_sets.hpp"
#include "support/sequence.hpp"

namespace snapkv_test {

using kvcompress::Pooling;
using kvcompress::Position;
using kvcompress::Reduction;
using kvcompress::test::HeadArray;
namespace conformance = kvcompress::conformance;
namespace reference = kvcompress::reference;

/// SnapKV that also writes down the scores of each lane, in the order in which the lanes decide.
struct Watched : kvcompress::ObservationWindow {
  struct Scores {
    std::vector<float> sums;    // of the rows before the window, over queries and the heads of the group
    std::vector<float> pooled;  // the same, pooled
  };
  static inline std::vector<Scores> lanes;

  static void select(const Options& options, std::span<kvcompress::RowSet> sets, const kvcompress::Moment& moment) {
    for (kvcompress::RowSet& set : sets) {
      Scores& scores = lanes.emplace_back();
      for (std::size_t row = 0; row < set.rows.rows() - std::min(set.rows.rows(), options.window); ++row) {
        scores.sums.push_back(set.lanes.front().state<State>().largest(row));
      }
      std::vector<float> all(set.rows.rows());
      std::copy(scores.sums.begin(), scores.sums.end(), all.begin());
      kvcompress::WindowAttention::join({options.window, options.kernel, options.pooling, options.reduction}, set, all, moment);
      scores.pooled.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(scores.sums.size()));
    }
    ObservationWindow::select(options, sets, moment);
  }
};
struct WatchedSnapKV {
  using Eviction = Watched;
};
using Sequence = kvcompress::test::Sequence<kvcompress::Combine<WatchedSnapKV, kvcompress::Full<float>>>;

Reduction reduction_of(const conformance::Case& one) {
  const nlohmann::json given = one.params.value("reduction", nlohmann::json());
  const std::string name = given.is_string() ? given.get<std::string>() : "mean";
  return name == "max" ? Reduction::max : name == "sum" ? Reduction::sum : Reduction::mean;
}

/// What counts as the divisor between our sums and a mean over the group.
double divisor(Reduction reduction, std::size_t group) { return reduction == Reduction::mean ? static_cast<double>(group) : 1.0; }

double deviation(const std::vector<float>& scores, double divide_by, const reference::Matrix& expected, std::size_t row) {
  double worst = 0.0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(scores[i]) / divide_by -
                                     expected(static_cast<reference::Index>(row), static_cast<reference::Index>(i))));
  }
  return worst;
}

/// The same rows but for near ties: averages have none in the vectors, maxima are equal for whole neighbourhoods of a row.
void compare_selection(const conformance::Members& official, const conformance::Members& kept, const std::vector<float>& pooled,
                       const std::string& what) {
  const auto score = [&](std::int64_t row) {  // rows of the window have none: they are kept whatever they score
    const auto at = static_cast<std::size_t>(row);
    return at < pooled.size() ? static_cast<double>(pooled[at]) : std::numeric_limits<double>::infinity();
  };
  conformance::expect_same_set(what, kept, official, score, 5e-6);
}

void prompt(const conformance::Case& one) {
  const HeadArray q(one.array("q_postrope"));
  const HeadArray given(one.array("k_postrope"));
  const std::size_t times = one.get<std::string>("granularity") == "kv_head" ? 1 : q.heads / given.heads;
  const HeadArray k = given.repeated(times);
  const HeadArray v = HeadArray(one.array("v")).repeated(times);
  const std::string pooling_name = one.get<std::string>("pooling");
  if (pooling_name != "avg" && pooling_name != "max") { throw conformance::NotCovered(one.path() + ": pooling " + pooling_name); }
  const Pooling pooling = pooling_name == "avg" ? Pooling::average : Pooling::max;
  const Reduction reduction = reduction_of(one);
  const auto capacity = one.get<std::size_t>("capacity");
  Watched::lanes.clear();
  Sequence run(kvcompress::test::shape_of(q, k, v),
               {.eviction = {.budget = capacity,
                             .window = one.get<std::size_t>("window"),
                             .kernel = one.get<std::size_t>("kernel"),
                             .pooling = pooling,
                             .reduction = reduction}},
               q, k, v);
  run.step(q.tokens);
  run.cache.end_prompt(0);
  const auto stored = conformance::matrix(one.array("idx_storage_order"));
  ASSERT_EQ(static_cast<std::size_t>(stored.rows()), k.heads);
  const double divide_by = divisor(reduction, q.heads / k.heads);
  const std::string sum_name = one.has("score_sum") ? "score_sum" : "score_grouped_before_pool";
  double worst_sum = 0.0;
  double worst_pooled = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    const auto official = conformance::members(stored.row(static_cast<reference::Index>(head)).eval().reshaped());
    const auto kept = conformance::members(run.cache.kept(0, head));
    if (k.tokens < capacity) {
      EXPECT_EQ(kept, official);
      continue;
    }
    const auto& scores = Watched::lanes.at(head);
    if (one.has(sum_name)) {
      worst_sum = std::max(worst_sum, deviation(scores.sums, divide_by, conformance::matrix(one.array(sum_name)), head));
    }
    if (one.has("score_pooled")) {
      worst_pooled = std::max(worst_pooled, deviation(scores.pooled, divide_by, conformance::matrix(one.array("score_pooled")), head));
    }
    compare_selection(official, kept, scores.pooled, one.path() + " head " + std::to_string(head));
  }
  conformance::expect_rows_kept(one, "k_out", "v_out", stored, run);
  conformance::expect_within(one, "scores before pooling", worst_sum, 5e-6);
  conformance::expect_within(one, "pooled scores", worst_pooled, 5e-6);
}

/// kvpress: the mean over the window's queries, average pooling, the mean over the group (the two commute).
void scores(const conformance::Case& one) {
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto window = one.get<std::size_t>("window");
  Watched::lanes.clear();
  Sequence run(kvcompress::test::shape_of(q, k, k),
               {.eviction = {.budget = k.tokens, .window = window, .kernel = one.get<std::size_t>("kernel"), .pooling = Pooling::average}},
               q, k, k);
  run.step(q.tokens);
  run.cache.end_prompt(0);
  const auto expected = conformance::matrix(one.any({"score", "scores"}));
  double worst = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    worst = std::max(worst, deviation(Watched::lanes.at(head).pooled, static_cast<double>(window * q.heads / k.heads), expected, head));
  }
  conformance::expect_within(one, "scores", worst, 5e-6);
}

const conformance::Method method("snapkv", {{"prompt", prompt}, {"scores", scores}});
TEST(SnapKV, ReproducesTheOfficialVectors) {
  method.run();
  // A case without a folder: PyramidKV's budgets by layer, rows of (layers, capacity, window, tokens), without the window.
  const auto folder = conformance::directory() / "snapkv";
  if (!std::filesystem::is_regular_file(folder / "pyramidkv_budgets_L_cap_w_qlen.npy")) { return; }
  const auto args = conformance::matrix(kvcompress::npy::read(folder / "pyramidkv_budget_args.npy"));
  const auto official = conformance::matrix(kvcompress::npy::read(folder / "pyramidkv_budgets_L_cap_w_qlen.npy"));
  const std::size_t before = conformance::failures();
  for (reference::Index c = 0; c < args.rows(); ++c) {
    const auto arg = [&](reference::Index i) { return static_cast<std::size_t>(args(c, i)); };
    for (std::size_t layer = 0; layer < arg(0); ++layer) {
      const std::size_t rows = kvcompress::Pyramid::whole_rows_of_layer({}, arg(1) - arg(2), arg(3) - arg(2), layer, arg(0));
      EXPECT_EQ(static_cast<double>(rows), official(c, static_cast<reference::Index>(layer)))
          << "configuration " << c << " layer " << layer;
    }
  }
  conformance::Tally::get().count("snapkv", conformance::failures() > before ? conformance::Verdict::wrong : conformance::Verdict::right);
}

// For users without the official vectors: the same path against the shipped reference, on numbers made here.
TEST(SnapKV, SelectsWhatTheReferenceSelects) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  HeadArray q(4, 90, 16);
  HeadArray k(2, 90, 16);
  for (HeadArray* array : {&q, &k}) {
    for (float& x : array->data) { x = normal(rng); }
  }
  const auto matrices = [](const HeadArray& a) {
    const auto size = [](std::size_t n) { return static_cast<reference::Index>(n); };
    return reference::HeadsView<float>{a.data.data(), size(a.tokens), size(a.heads), size(a.dim), size(a.dim), size(a.tokens * a.dim)}
        .split();
  };
  for (const Pooling pooling : {Pooling::average, Pooling::max}) {
    for (const Reduction reduction : {Reduction::mean, Reduction::max}) {
      Sequence run(kvcompress::test::shape_of(q, k, k),
                   {.eviction = {.budget = 40, .window = 8, .kernel = 5, .pooling = pooling, .reduction = reduction}}, q, k, k);
      for (const std::size_t chunk : {50U, 37U, 3U}) { run.step(chunk); }  // the window spans two chunks
      run.cache.end_prompt(0);
      for (std::size_t head = 0; head < 2; ++head) {
        const auto queries = matrices(q);
        const auto kept = reference::snapkv_select(
            std::span(queries).subspan(2 * head, 2), matrices(k)[head],
            {.window = 8,
             .capacity = 40,
             .kernel = 5,
             .pooling = pooling == Pooling::max ? reference::Pooling::max : reference::Pooling::average,
             .reduction = reduction == Reduction::max ? reference::HeadReduction::max : reference::HeadReduction::mean});
        const auto ours = run.cache.kept(0, head);
        EXPECT_EQ(reference::Rows(ours.begin(), ours.end()), kept);
      }
    }
  }
}

}  // namespace snapkv_test
