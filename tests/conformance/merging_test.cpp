// tests/conformance/merging_test.cpp - what becomes of rows that go, against the official implementations: merges, spread values, a mean row.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/eviction/dispositions/merge_nearest.hpp"
#include "kvcompress/eviction/scorers/text_first.hpp"
#include "kvcompress/policies/cam.hpp"
#include "kvcompress/policies/d2o.hpp"
#include "kvcompress/policies/key_diff.hpp"
#include "kvcompress/policies/knorm.hpp"
#include "kvcompress/policies/razorattention.hpp"
#include "support/d2o_cases.hpp"
#include "support/eviction_cases.hpp"

namespace merging_test {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_within;
using conformance::Members;
using reference::Index;
using test::HeadArray;

/// Scores that are handed in, one per live row in text order, and add up over calls.
struct Given : ScoredRows {
  static constexpr std::string_view name = "given";
  static inline std::vector<std::vector<float>> of_head{};

  static std::span<const float> score(const Options&, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    State& sums = lane.state<State>();
    const Vector<Position> order = rows_in_text_order(rows, moment);
    const std::vector<float>& own = of_head.at(lane.site.kv_head);
    for (std::size_t i = 0; i < order.size(); ++i) { sums.set(order[i], 0, sums.get(order[i], 0) + own.at(i)); }
    return sums.largest_of_each(out);
  }
  static void take(const npy::Array& columns) {
    of_head.clear();
    for (std::size_t head = 0; head < columns.shape.at(0); ++head) {
      const std::vector<float> all = columns.as<float>();
      const auto first = all.begin() + static_cast<std::ptrdiff_t>(head * columns.shape.at(1));
      of_head.emplace_back(first, first + static_cast<std::ptrdiff_t>(columns.shape.at(1)));
    }
  }
};

/// A cache of exact rows with an eviction that is chosen at run time, so that the driver compiles once.
AnyCache cache_of(const HeadArray& q, const HeadArray& k, const HeadArray& v, const AnyEviction::Options& eviction) {
  AnyCache::Options options;
  options.eviction = eviction;
  options.storage = AnyStorage::all_of<ExactStorage<float>>();
  return AnyCache(test::shape_of(q, k, v), options);
}
template <class E>
AnyCache cache_of(const HeadArray& q, const HeadArray& k, const HeadArray& v, const typename E::Options& eviction) {
  AnyEviction::Options options;
  options.chosen = {{AnyEviction::of<E>(eviction)}, {}};
  return cache_of(q, k, v, options);
}
template <class E>
AnyCache prompt_of(const HeadArray& k, const HeadArray& v, std::size_t tokens, const typename E::Options& eviction) {
  AnyCache cache = cache_of<E>(k, k, v, eviction);
  cache.append(0, k.rows(0, tokens), v.rows(0, tokens));
  cache.end_prompt(0);
  return cache;
}

/// Keys and values (null: not compared) of the rows at the positions that the columns of `ids` name, against official ones in that order.
void expect_rows(const Case& one, AnyCache& cache, const reference::Matrix& ids, const npy::Array* keys, const npy::Array& values,
                 double bound) {
  double worst = 0.0;
  const std::vector<reference::Matrix> official_values = conformance::heads(values);
  std::vector<reference::Matrix> official_keys;
  if (keys != nullptr) { official_keys = conformance::heads(*keys); }
  std::vector<float> key(cache.shape().key_width());
  std::vector<float> value(cache.shape().value_width());
  for (std::size_t head = 0; head < official_values.size(); ++head) {
    const RowTable& table = cache.table(0, head);
    const reference::Matrix own = ids.row(ids.rows() == 1 ? 0 : static_cast<Index>(head));
    for (Index i = 0; i < own.cols(); ++i) {
      std::size_t row = 0;
      while (row < table.rows() && static_cast<double>(table.position(row)) != own(0, i)) { ++row; }
      ASSERT_LT(row, table.rows()) << one.path() << " head " << head << " lost " << own(0, i);
      cache.read(0, head, row, key.data(), value.data());
      for (std::size_t c = 0; c < value.size(); ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(value[c]) - official_values[head](i, static_cast<Index>(c))));
      }
      for (std::size_t c = 0; keys != nullptr && c < key.size(); ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(key[c]) - official_keys[head](i, static_cast<Index>(c))));
      }
    }
  }
  expect_within(one, "merged rows", worst, bound);
}
void expect_kept_rows(const Case& one, const AnyCache& cache, const reference::Matrix& ids, std::size_t heads) {
  for (std::size_t head = 0; head < heads; ++head) {
    EXPECT_EQ(conformance::members(cache.kept(0, head)),
              conformance::members(ids.row(ids.rows() == 1 ? 0 : static_cast<Index>(head)).eval().reshaped()))
        << one.path() << " head " << head;
  }
}

// ---------------------------------------------------------------------------------------------------------------- D2O, LOOK-M

using Ranked = Evict<Given, Uniform, Best, MergeRanked>;
using Pivoted = Evict<Given, Uniform, Best, MergeNearest<false>>;

Ranked::Options ranked(std::size_t budget, std::size_t sinks, std::size_t recent, const MergeRanked::Options& fate) {
  Ranked::Options options;
  options.budget = budget;
  options.sinks = sinks;
  options.recent = recent;
  options.fate = fate;
  return options;
}

void token_merge(const Case& one) {
  const HeadArray k(one.array("k"));
  const HeadArray v(one.array("v"));
  const auto tokens = one.get<std::size_t>("prompt");
  const auto recent = one.get<std::size_t>("recent_size");
  const std::size_t budget = one.get<std::size_t>("hh_size") + recent;
  const MergeRanked::Options fate{.old_share = one.get<double>("alpha"), .new_share = one.get<double>("beta")};
  for (const MergeWeights weights : {MergeWeights::exponential, MergeWeights::cosine}) {  // the paper's, of one call; the code's
    const bool official = weights == MergeWeights::cosine;
    Ranked::Options options = ranked(budget, one.get<std::size_t>("sinks"), recent, fate);
    options.fate.weights = weights;
    Given::take(one.array("attention_columns_0"));
    AnyCache cache = prompt_of<Ranked>(k, v, tokens, options);
    for (std::size_t call = 0; call < (official ? one.get<std::size_t>("calls") : 1); ++call) {
      const std::string number = "_" + std::to_string(call);
      if (call > 0) {
        Given::take(one.array("attention_columns" + number));
        cache.append(0, k.rows(tokens + call - 1, 1), v.rows(tokens + call - 1, 1));
        cache.commit(0);
      }
      const reference::Matrix kept = conformance::matrix(one.array("kept_tokens" + number));
      expect_kept_rows(one, cache, kept, k.heads);
      const npy::Array keys = one.array((official ? "keys" : "keys_paper") + number);
      expect_rows(one, cache, kept, &keys, one.array((official ? "values" : "values_paper") + number), 2e-5);
      using Both = Ranked::State;
      const double threshold = static_cast<const Both*>(std::as_const(cache).state(0, 0).inner())->fate.get();
      expect_within(one, "threshold", std::abs(threshold - one.array("threshold" + number).values.at(0)), 2e-6);
    }
  }
}
TEST(D2O, ReproducesTheOfficialVectors) {
  conformance::run_cases("d2o", {{"token_merge", token_merge}, {"layer_ratios", conformance::d2o_layer_shares}});
}

template <class S>
AnyCache looked_at_once(const Case& one, const HeadArray& k, const HeadArray& v, const typename S::Options& scorer, std::size_t sinks) {
  const auto mode = one.get<std::string>("mode");
  const auto recent = one.get<std::size_t>("recent_size");
  const auto prompt = [&]<class Fate>(const typename Fate::Options& fate) {
    typename Evict<S, Uniform, Best, Fate>::Options options;
    options.budget = one.get<std::size_t>("hh_size") + recent;
    options.sinks = sinks;
    options.recent = recent;
    options.scorer = scorer;
    options.fate = fate;
    return prompt_of<Evict<S, Uniform, Best, Fate>>(k, v, k.tokens, options);
  };
  if (mode == "pivot") { return prompt.template operator()<MergeNearest<false>>({.weights = MergeWeights::pivot}); }
  return prompt.template operator()<MergeRanked>({mode == "average" ? MergeWeights::average : MergeWeights::cosine, 0.0, 1.0});
}
void look_at_once(const Case& one) {
  const bool text = one.get<bool>("text_prior");
  const std::string of = text ? "text_" : "plain_";
  const HeadArray k(one.array(of + "k"));
  const HeadArray v(one.array(of + "v"));
  Given::take(one.array(of + "attention_columns"));
  AnyCache cache = [&] {
    if (!text) { return looked_at_once<Given>(one, k, v, {}, 4); }
    const auto first = one.get<float>("image_start");
    const float image[]{first, first + one.get<float>("image_tokens")};
    return looked_at_once<TextFirst<Given>>(one, k, v, {.images = LoadedNumbers(image)}, 0);
  }();
  const reference::Matrix kept = conformance::matrix(one.array("kept_idx"));
  expect_kept_rows(one, cache, kept, k.heads);
  const npy::Array keys = one.any({"keys_fixed", "keys"});
  expect_rows(one, cache, kept, &keys, one.any({"values_fixed", "values"}), 2e-5);
}
TEST(LookM, ReproducesTheOfficialVectors) { conformance::run_cases("lookm", {{"merge", look_at_once}}); }

// ------------------------------------------------------------------------------------------------------------- merges of one lane

void merge_dropped(const Case& one) {
  const HeadArray k(one.array("k"));
  const HeadArray v(one.array("v"));
  const auto window = one.get<std::size_t>("window");
  const reference::Matrix selected = conformance::matrix(one.array("selected_idx"));
  Pivoted::Options options;
  options.budget = static_cast<std::size_t>(selected.cols()) + window;
  options.recent = window;
  options.fate.weights = one.get<std::string>("mode") == "pivot" ? MergeWeights::pivot : MergeWeights::similarity;
  reference::Matrix kept(selected.rows(), selected.cols() + static_cast<Index>(window));
  Given::of_head.assign(k.heads, std::vector<float>(k.tokens));
  for (Index head = 0; head < kept.rows(); ++head) {
    for (Index i = 0; i < selected.cols(); ++i) {
      Given::of_head[static_cast<std::size_t>(head)][static_cast<std::size_t>(selected(head, i))] = 1.0F;
      kept(head, i) = selected(head, i);
    }
    for (std::size_t i = 0; i < window; ++i) {
      kept(head, selected.cols() + static_cast<Index>(i)) = static_cast<double>(k.tokens - window + i);
    }
  }
  AnyCache cache = prompt_of<Pivoted>(k, v, k.tokens, options);
  expect_kept_rows(one, cache, kept, k.heads);
  const npy::Array keys = one.array("keys");
  expect_rows(one, cache, kept, &keys, one.array("values"), 2e-5);
}
TEST(MergeKV, ReproducesTheOfficialVectors) { conformance::run_cases("merge_kv", {{"merge_dropped", merge_dropped}}); }

template <class S>
AnyCache merged_values(const Case& one, const HeadArray& k, const HeadArray& v) {
  using E = Evict<S, Uniform, Best, MergeNearest<false>>;
  typename E::Options options;
  options.budget = one.get<std::size_t>("n_kept");
  options.fate = {.weights = MergeWeights::value_norm,
                  .keys = false,
                  .threshold = one.get<double>("similarity_threshold"),
                  .fraction = one.get<double>("merge_fraction")};
  return prompt_of<E>(k, v, k.tokens, options);
}
void value_merge(const Case& one) {
  const HeadArray k(one.array("k_postrope"));
  const HeadArray v(one.array("v"));
  const auto inner = one.get<nlohmann::json>("inner").at("method").get<std::string>();
  if (inner != "keydiff" && inner != "knorm") { throw conformance::NotCovered(one.path() + ": scores of " + inner); }
  AnyCache cache = inner == "knorm" ? merged_values<KeyNorm>(one, k, v) : merged_values<KeyDifference>(one, k, v);
  const reference::Matrix kept = conformance::matrix(one.array("kept_idx"));
  expect_kept_rows(one, cache, kept, k.heads);
  expect_rows(one, cache, kept, nullptr, one.any({"values_fixed", "values"}), 2e-5);
}
TEST(MergingPress, ReproducesTheOfficialVectors) { conformance::run_cases("merging", {{"value_merge", value_merge}}); }

// ------------------------------------------------------------------------------------------------------------------------- CaM

/// The draws that the official run made; probabilities are remembered.
struct Recorded {
  static inline reference::Matrix mask{};
  static inline std::vector<std::vector<double>> probabilities{};
  static bool merges(std::size_t, const Site& site, std::size_t rank, Position, double probability) {
    probabilities.at(site.kv_head).push_back(probability);
    return mask(static_cast<Index>(site.kv_head), static_cast<Index>(rank)) != 0.0;
  }
};
void decode_merge(const Case& one) {
  using E = Disposed<WhileDecoding<Evict<InLayer<KeyNorm>>>, ValueSpread<Recorded>>;
  if (one.get<nlohmann::json>("inner").at("method") != "knorm") { throw conformance::NotCovered(one.path() + ": other scores"); }
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const HeadArray v(one.array("v"));
  const auto period = one.get<std::size_t>("compression_interval");
  const auto tokens = one.get<std::size_t>("prompt");
  E::Options options;
  options.budget = one.get<std::size_t>("target_size");
  options.period = period;
  options.fate.candidates = period;
  options.fate.spread = one.get<std::size_t>("merge_budget");
  AnyCache cache = cache_of<E>(q, k, v, options);
  HeadArray out(q.heads, q.tokens, v.dim);
  const auto step = [&](std::size_t first, std::size_t count) {
    cache.append(0, k.rows(first, count), v.rows(first, count));
    cache.attend(0, q.rows(first, count),
                 Output(out.data.data() + first * out.dim, count, out.heads, out.dim, out.dim, out.tokens * out.dim));
  };
  step(0, tokens);
  cache.end_prompt(0);
  for (std::size_t event = 0; event < one.get<std::size_t>("events"); ++event) {
    const std::string number = "_" + std::to_string(event);
    Recorded::mask = conformance::matrix(one.array("merge_mask" + number));
    Recorded::probabilities.assign(k.heads, {});
    for (std::size_t i = 0; i < period; ++i) { step(tokens + event * period + i, 1); }
    cache.commit(0);
    const npy::Array ids = one.array("kept_tokens" + number);
    const reference::Matrix kept = conformance::matrix({{1, ids.values.size()}, ids.values});
    expect_kept_rows(one, cache, kept, k.heads);
    expect_rows(one, cache, kept, nullptr, one.array("values" + number), 2e-5);
    const reference::Matrix official = conformance::matrix(one.array("merge_prob" + number));
    const reference::Matrix official_sums = conformance::matrix(one.array("attention_sum" + number));
    double worst = 0.0;
    double worst_sum = 0.0;
    for (std::size_t head = 0; head < k.heads; ++head) {
      ASSERT_EQ(Recorded::probabilities.at(head).size(), static_cast<std::size_t>(official.cols()));
      for (Index m = 0; m < official.cols(); ++m) {
        worst =
            std::max(worst, std::abs(Recorded::probabilities[head][static_cast<std::size_t>(m)] - official(static_cast<Index>(head), m)));
      }
      const auto& sums = static_cast<const E::State*>(std::as_const(cache).state(0, head).inner())->fate;
      const RowTable& table = cache.table(0, head);
      for (std::size_t row = 0; row < table.rows(); ++row) {
        const auto place = std::find(ids.values.begin(), ids.values.end(), static_cast<double>(table.position(row))) - ids.values.begin();
        const double mean = static_cast<double>(sums.get(row, 0)) / static_cast<double>(q.heads / k.heads);
        worst_sum = std::max(worst_sum, std::abs(mean - official_sums(static_cast<Index>(head), static_cast<Index>(place))));
      }
    }
    expect_within(one, "probabilities", worst, 2e-5);
    expect_within(one, "sums of attention", worst_sum, 1e-5);
  }
}
TEST(CaM, ReproducesTheOfficialVectors) { conformance::run_cases("cam", {{"decode_merge", decode_merge}}); }

// -------------------------------------------------------------------------------------------------------------- RazorAttention

void compensation(const Case& one) {
  const HeadArray q(one.array("q_decode_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const HeadArray v(one.array("v"));
  const auto tokens = one.get<std::size_t>("prompt");
  const auto steps = one.get<std::size_t>("decode");
  CompensatedWindow::Options others;
  others.sinks = one.get<std::size_t>("sink");
  others.window = one.get<std::size_t>("window") - 1;  // and the new row
  AnyCache cache = cache_of(q, k, v, RazorAttention::options({false, false}, others));
  cache.append(0, k.rows(0, tokens), v.rows(0, tokens));
  cache.end_prompt(0);
  const std::vector<double> official = one.array("out").values;  // (steps, heads, channels)
  const reference::Matrix keys = conformance::matrix(one.array("k_mean_end"));
  const reference::Matrix values = conformance::matrix(one.array("v_mean_end"));
  double worst = 0.0;
  double worst_mean = 0.0;
  HeadArray out(q.heads, 1, v.dim);
  for (std::size_t step = 0; step < steps; ++step) {
    cache.append(0, k.rows(tokens + step, 1), v.rows(tokens + step, 1));
    cache.attend(0, q.rows(step, 1), Output(out.data.data(), 1, out.heads, out.dim, out.dim, out.dim));
    for (std::size_t i = 0; i < out.data.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(out.data[i]) - official.at(step * out.data.size() + i)));
    }
  }
  std::vector<float> key(k.dim);
  std::vector<float> value(v.dim);
  for (std::size_t head = 0; head < k.heads; ++head) {
    const RowTable& table = cache.table(0, head);
    std::size_t row = 0;
    while (table.log_weight(row) == 0.0F) { ASSERT_LT(++row, table.rows()); }
    EXPECT_NEAR(std::exp(table.log_weight(row)), static_cast<float>(tokens + steps - others.sinks - others.window - 1), 1e-3F);
    cache.read(0, head, row, key.data(), value.data());
    for (std::size_t c = 0; c < key.size(); ++c) {
      worst_mean = std::max({worst_mean, std::abs(static_cast<double>(key[c]) - keys(static_cast<Index>(head), static_cast<Index>(c))),
                             std::abs(static_cast<double>(value[c]) - values(static_cast<Index>(head), static_cast<Index>(c)))});
    }
  }
  expect_within(one, "outputs", worst, 2e-5);
  expect_within(one, "means", worst_mean, 1e-5);
}

void razor_heads(const Case& one) {
  const npy::Array q = one.array("q");
  const npy::Array k = one.array("k");
  const std::size_t layers = q.shape.at(0);
  const std::size_t heads = q.shape.at(1);
  const std::size_t group = heads / k.shape.at(1);
  const std::size_t tokens = q.shape.at(2);
  const auto part = [&](const npy::Array& all, std::size_t head) {
    const auto first = all.values.begin() + static_cast<std::ptrdiff_t>(head * tokens * all.shape.at(3));
    return conformance::matrix({{tokens, all.shape.at(3)}, {first, first + static_cast<std::ptrdiff_t>(tokens * all.shape.at(3))}});
  };
  using Repeats = RazorAttention::Repeats;
  for (const auto& [repeats, suffix] : {std::pair{Repeats::latest, "_latest"}, {Repeats::all, "_all"}}) {
    std::vector<RazorAttention::Looks> looks;
    const std::vector<double> echo = one.array(std::string("echo") + suffix).values;
    const std::vector<double> induction = one.array(std::string("induction") + suffix).values;
    double worst = 0.0;
    for (std::size_t head = 0; head < layers * heads; ++head) {
      const reference::Matrix keys = part(k, head / group);
      const reference::Positions at = reference::consecutive(0, keys.rows());
      const reference::Matrix seen = reference::attention(part(q, head), keys, keys, at, at).probabilities;
      std::vector<float> probabilities;
      for (Index t = 0; t < seen.rows(); ++t) {
        for (Index r = 0; r < seen.cols(); ++r) { probabilities.push_back(static_cast<float>(seen(t, r))); }
      }
      looks.push_back(RazorAttention::looks(probabilities, one.get<std::size_t>("block"), repeats));
      worst = std::max({worst, std::abs(looks.back().echo - echo.at(head)), std::abs(looks.back().induction - induction.at(head))});
    }
    expect_within(one, "looks", worst, 2e-6);
    const std::vector<bool> full =
        RazorAttention::full_lanes(looks, group, one.get<double>("echo_fraction"), one.get<double>("induction_fraction"));
    EXPECT_EQ(std::vector<double>(full.begin(), full.end()), one.array(std::string("retrieval") + suffix).values) << suffix;
  }
}
TEST(RazorAttention, ReproducesTheOfficialVectors) {
  conformance::run_cases("razorattention", {{"compensation", compensation}, {"head_classes", razor_heads}});
}

const conformance::Method d2o("d2o", {});
const conformance::Method lookm("lookm", {});
const conformance::Method merge_kv("merge_kv", {});
const conformance::Method merging("merging", {});
const conformance::Method cam("cam", {});
const conformance::Method razorattention("razorattention", {});

}  // namespace merging_test
