// tests/quantization/gear_test.cpp - GEAR's stores against the reference and against what they decode to; bytes, copies, evictions.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kvcompress/reference/gear.hpp"
#include "support/counting_memory.hpp"
#include "support/gear_stores.hpp"
#include "support/random_matrix.hpp"
#include "support/random_rows.hpp"

namespace gear_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;
using reference::Matrix;
using Heads = std::vector<Matrix>;

/// Heads of floats with offset channels and a few large numbers.
Heads random_heads(std::size_t heads, std::size_t tokens, std::size_t dim, unsigned seed) {
  std::mt19937 rng(seed);
  Heads all;
  for (std::size_t h = 0; h < heads; ++h) {
    Matrix x = random_matrix(rng, static_cast<Index>(tokens), static_cast<Index>(dim));
    for (Index c = 0; c < x.cols(); c += 7) { x.col(c).array() += 5.0; }
    for (int i = 0; i < 20; ++i) { x(static_cast<Index>(rng() % tokens), static_cast<Index>(rng() % dim)) *= 6.0; }
    all.emplace_back(x.cast<float>().cast<double>());
  }
  return all;
}
double distance(const Heads& x, const auto& layer) {
  double sum = 0.0;
  for (std::size_t h = 0; h < x.size(); ++h) { sum += (x[h] - layer.decoded(h)).squaredNorm(); }
  return std::sqrt(sum);
}

/// Logits or weighted sums of ranges, whole and not, against the decoded rows.
template <class Store>
void check_answers(const Store& store, std::size_t dim, std::mt19937& rng) {
  const std::size_t queries = 3;
  const std::size_t stride = kernels::padded(dim);
  const std::size_t rows = store.rows();
  std::vector<float> query(queries * stride, 0.0F);
  for (std::size_t q = 0; q < queries; ++q) {
    std::ranges::copy(normal_numbers(dim, rng), query.begin() + static_cast<std::ptrdiff_t>(q * stride));
  }
  std::vector<float> row(dim);
  std::vector<float> room(Store::scratch_floats(dim, queries));
  for (int round = 0; round < 25; ++round) {
    const std::size_t first = round == 0 ? 0 : rng() % rows;
    const std::size_t last = round == 0 ? rows : first + rng() % (rows - first) + 1;
    const std::size_t count = last - first;
    const auto weights = normal_numbers(queries * count, rng);
    std::vector<float> logits(queries * count);
    std::vector<float> out(queries * stride, 0.5F);
    if constexpr (requires { store.scores({first, last}, query.data(), stride, queries, logits.data(), count, room.data()); }) {
      store.scores({first, last}, query.data(), stride, queries, logits.data(), count, room.data());
    } else {
      store.accumulate({first, last}, weights.data(), count, queries, out.data(), stride, room.data());
    }
    std::vector<double> mixed(queries * dim, 0.5);
    for (std::size_t r = 0; r < count; ++r) {
      store.read(first + r, row.data());
      for (std::size_t q = 0; q < queries; ++q) {
        double logit = 0.0;
        for (std::size_t c = 0; c < dim; ++c) {
          logit += static_cast<double>(query[q * stride + c]) * static_cast<double>(row[c]);
          mixed[q * dim + c] += static_cast<double>(weights[q * count + r]) * static_cast<double>(row[c]);
        }
        if constexpr (requires { store.scores({first, last}, query.data(), stride, queries, logits.data(), count, room.data()); }) {
          ASSERT_NEAR(logits[q * count + r], logit, 1e-3) << "dim " << dim << ", rows " << first << " to " << last << ", row " << first + r;
        }
      }
    }
    if constexpr (requires { store.accumulate({first, last}, weights.data(), count, queries, out.data(), stride, room.data()); }) {
      for (std::size_t i = 0; i < queries * dim; ++i) {
        ASSERT_NEAR(out[i / dim * stride + i % dim], mixed[i], 2e-3) << "dim " << dim << ", rows " << first << " to " << last;
      }
    }
  }
}

/// A prompt, decoded tokens one by one and in bursts: sizes after every step, answers at the end.
template <class Store, class Options>
void check_stream(std::size_t dim, const Options& options, unsigned seed) {
  std::mt19937 rng(seed);
  const std::size_t tokens = 330;
  const Heads x = random_heads(2, tokens, dim, seed);
  GearLayer<Store> layer(2, dim, options);
  std::size_t settled = 0;
  for (std::size_t t = 0, count = 0; t < tokens; t += count) {
    count = std::min<std::size_t>(t == 0 ? 201 : rng() % 4 == 0 ? rng() % 50 + 1 : 1, tokens - t);
    const Matrix before = layer.decoded(0);
    layer.append(x, t, t + count);
    layer.settle(t == 0);
    for (const Store& store : layer.stores) {
      ASSERT_EQ(store.rows(), t + count);
      ASSERT_LT(store.rows() - store.settled(), options.buffer);
      ASSERT_EQ((store.settled() - (t == 0 ? 0 : settled)) % options.buffer, 0U);
    }
    if (options.merge == 0) {
      const auto old = static_cast<Index>(settled);
      ASSERT_EQ(layer.decoded(0).topRows(old), before.topRows(old)) << "a segment has changed";
    }
    settled = layer.stores[0].settled();
  }
  ASSERT_EQ(layer.stores[0].settled(),
            201 - 201 % options.buffer + (tokens - (201 - 201 % options.buffer)) / options.buffer * options.buffer);
  for (const Store& store : layer.stores) { check_answers(store, dim, rng); }
}

TEST(GearStores, AnswerFromTheCompressedFormAsTheirDecodedRowsDo) {
  check_stream<GearKeys<4, Kcvt, float>>(64, GearOptions<20>{}, 1);
  check_stream<GearKeys<4, Kcvt, float>>(96, GearOptions<20>{.merge = 3}, 2);
  check_stream<GearKeys<2, KiviGroups<32>, half>>(80, GearOptions<32>{.sparsity = 0.1}, 3);
  check_stream<GearKeys<3, Kcvt, half>>(20, GearOptions<20>{.prompt_rank = 0, .sparsity = 0.05, .buffer = 13}, 4);
  check_stream<GearKeys<8, KiviGroups<64>, float>>(128, GearOptions<64>{.decode_rank = 0}, 5);
  check_stream<GearValues<4, Kcvt, ValueVectors::layer, float>>(64, GearOptions<20>{}, 6);
  check_stream<GearValues<4, Kcvt, ValueVectors::layer, float>>(300, GearOptions<20>{.merge = 2}, 7);  // channels of two bytes
  check_stream<GearValues<2, KiviGroups<32>, ValueVectors::head, half>>(80, GearOptions<32>{.sparsity = 0.1}, 8);
  check_stream<GearValues<3, Kcvt, ValueVectors::head, half>>(20, GearOptions<20>{.prompt_rank = 7, .decode_rank = 30}, 9);
  check_stream<GearValues<8, KiviGroups<64>, ValueVectors::layer, float>>(128, GearOptions<64>{.prompt_rank = 1, .sparsity = 1.0}, 10);
}

/// One segment against the reference, from the same start.
template <class Store, class Options>
void check_reference(std::size_t dim, std::size_t tokens, Options options, reference::GearOptions expected, unsigned seed) {
  const Heads x = random_heads(3, tokens, dim, seed);
  std::mt19937 rng(seed);
  Heads starts;
  std::vector<float> start;
  for (std::size_t h = 0; h < x.size(); ++h) {
    starts.emplace_back(random_matrix(rng, static_cast<Index>(dim), expected.rank).cast<float>().cast<double>());
    for (Index c = 0; c < starts[h].rows(); ++c) {
      for (Index j = 0; j < starts[h].cols(); ++j) { start.push_back(static_cast<float>(starts[h](c, j))); }
    }
  }
  expected.tensor = Store::scope == Scope::lane ? reference::GearTensor::keys : reference::GearTensor::values;
  options.prompt_rank = static_cast<std::size_t>(expected.rank);
  options.sweeps = static_cast<std::size_t>(expected.sweeps);
  options.sparsity = expected.sparsity;
  options.official_simulation = expected.official_simulation;
  options.start = expected.rank > 0 ? start.data() : nullptr;
  GearLayer<Store> layer(x.size(), dim, options);
  layer.encode(x);
  ASSERT_EQ(layer.stores[0].settled(), tokens);
  const auto segment = reference::gear_compress(x, starts, expected);
  for (std::size_t h = 0; h < x.size(); ++h) {
    const Matrix sparse = layer.sparse(h);
    const bool rounded = expected.official_simulation && expected.sparsity > 0.0;
    const Matrix shown = rounded ? Matrix(sparse.unaryExpr(reference::RoundToHalf{})) : sparse;
    // An ulp of fp32, since Clang fuses what GCC rounds twice; and rounding D + S to fp16 may then go the other way: an ulp of fp16.
    EXPECT_LE((shown - segment.restored[h]).cwiseAbs().maxCoeff(), rounded && expected.sparsity == 1.0 ? 5e-4 : 5e-6);
    EXPECT_LE((layer.decoded(h) - sparse - segment.low_rank[h]).cwiseAbs().maxCoeff(), 2e-5);
  }
}

TEST(GearStores, EncodeAsTheReference) {
  for (const bool official : {false, true}) {
    for (const double sparsity : {0.0, 0.1, 1.0}) {
      const reference::GearOptions kcvt{
          .bits = 4, .sparsity = sparsity, .rank = 3, .sweeps = sparsity > 0.0 ? 3 : 6, .official_simulation = official};
      check_reference<GearKeys<4, Kcvt, float>>(24, 140, GearOptions<20>{}, kcvt, 11);
      check_reference<GearValues<4, Kcvt, ValueVectors::layer, float>>(24, 140, GearOptions<20>{}, kcvt, 12);
      const reference::GearOptions kivi{.backbone = reference::GearBackbone::kivi,
                                        .bits = 8,
                                        .group = 64,
                                        .sparsity = sparsity,
                                        .rank = 2,
                                        .official_simulation = official};
      check_reference<GearKeys<8, KiviGroups<64>, float>>(40, 192, GearOptions<64>{}, kivi, 13);
      check_reference<GearValues<8, KiviGroups<64>, ValueVectors::layer, float>>(80, 128, GearOptions<64>{}, kivi, 14);
    }
  }
}

template <class Store, class Options>
void check_bytes(const Options& options) {
  const Heads x = random_heads(2, 300, 40, 15);
  CountingMemory memory;
  const auto total = [](const auto&... layers) {
    MemoryReport report;
    (static_cast<void>([&] {
       for (const Store& store : layers.stores) { store.account(report); }
     }()),
     ...);
    return report;
  };
  {
    GearLayer<Store> layer(2, 40, options, memory.handle());
    const std::size_t around = memory.bytes;  // the rotation's tables
    const auto held = [&] { return memory.bytes - around - layer.scratch.capacity() * sizeof(float); };
    layer.append(x, 0, 130);
    EXPECT_EQ(total(layer).total(), held());
    layer.settle(true);
    EXPECT_EQ(layer.scratch.capacity(), 0U) << "a prompt's scratch is long";
    EXPECT_EQ(total(layer).total(), held());
    EXPECT_EQ(total(layer).factors > 0, options.prompt_rank > 0);
    EXPECT_EQ(total(layer).outliers > 0, options.sparsity > 0.0);
    for (std::size_t t = 130; t < 250; ++t) {
      layer.append(x, t, t + 1);
      layer.settle(false);
      ASSERT_EQ(total(layer).total(), held());
      ASSERT_LE(total(layer).codes + total(layer).scales + total(layer).factors + total(layer).outliers,
                2 * Store::bytes_for(t + 1, 40, options));
    }
    const Matrix before = layer.decoded(1);
    {
      std::vector<Store> copies(layer.stores);
      for (Store& copy : copies) {
        MemoryReport report;
        copy.account(report);
        EXPECT_GT(report.shared, report.codes) << "segments are shared";
      }
      EXPECT_EQ(
          total(layer).total() +
              [&] {
        MemoryReport report;
        for (const Store& copy : copies) { copy.account(report); }
        return report.total() - report.shared;
          }(),
          held());
      layer.append(x, 250, 300);  // the origin goes on, the copies do not notice
      layer.settle(false);
      EXPECT_EQ(copies[0].rows(), 250U);
      for (Store& copy : copies) { copy.unshare(); }
      MemoryReport apart = total(layer);
      EXPECT_EQ(apart.shared, 0U);
      layer.stores.swap(copies);
    }
    EXPECT_EQ(layer.decoded(1), before);
    EXPECT_EQ(total(layer).total(), held());
  }
  EXPECT_EQ(memory.live, 0U);
}

TEST(GearStores, ReportTheBytesTheyTake) {
  check_bytes<GearKeys<4, Kcvt, half>>(GearOptions<20>{.sparsity = 0.1});
  check_bytes<GearKeys<2, KiviGroups<32>, half>>(GearOptions<32>{.prompt_rank = 0, .sparsity = 0.0});
  check_bytes<GearValues<4, Kcvt, ValueVectors::layer, half>>(GearOptions<20>{.sparsity = 0.1, .merge = 3});
}

TEST(GearStores, BitsPerNumberAreThoseOfTheFormula) {
  const Heads x = random_heads(4, 2048, 128, 16);
  const auto bits = [&]<class Store>(std::type_identity<Store>, double sparsity, const auto& from) {
    auto options = from;
    options.sparsity = sparsity;
    options.buffer = 64;
    GearLayer<Store> layer(4, 128, options);
    layer.encode(x);
    MemoryReport report;
    for (const Store& store : layer.stores) { store.account(report); }
    return 8.0 * static_cast<double>(report.codes + report.scales + report.factors + report.outliers) / (4.0 * 2048.0 * 128.0);
  };
  const double low_rank = 16.0 * 4.0 * (1.0 / 128 + 1.0 / 2048);
  using Keys = std::type_identity<GearKeys<4, Kcvt, half>>;
  using Values = std::type_identity<GearValues<4, Kcvt, ValueVectors::layer, half>>;
  EXPECT_NEAR(bits(Keys{}, 0.0, GearOptions<20>{}), 4.0 + 32.0 / 2048 + low_rank, 0.01);
  EXPECT_NEAR(bits(Keys{}, 0.02, GearOptions<20>{}), 4.0 + 32.0 / 2048 + low_rank + 0.02 * 32.0, 0.02);
  EXPECT_NEAR(bits(Values{}, 0.02, GearOptions<20>{}), 4.0 + 32.0 / 512 + low_rank + 10.0 / 512 * 32.0, 0.02);  // 5 a side of 512
}

/// A settle that meets a refusal leaves everything as it was, in all members, and can be repeated.
template <class Store>
void check_refusals() {
  const Heads x = random_heads(2, 70, 16, 17);
  const GearOptions<20> options{.merge = 2};
  const auto run = [&](CountingMemory& memory, std::size_t refuse_after) {
    GearLayer<Store> layer(2, 16, options, memory.handle());
    bool refused = false;
    layer.append(x, 0, 25);
    layer.settle(true);
    layer.append(x, 25, 70);
    const Matrix before = layer.decoded(1);
    memory.refuse_after(refuse_after);
    try {
      layer.settle(false);
    } catch (const Error&) {
      refused = true;
      if (Store::scope == Scope::layer) { EXPECT_EQ(layer.decoded(1), before); }
      EXPECT_EQ(layer.stores[0].rows(), 70U);
      memory.allow();
      layer.settle(false);
    }
    memory.allow();
    EXPECT_EQ(layer.stores[0].settled(), 60U);
    EXPECT_EQ(layer.stores[1].settled(), 60U);
    return std::pair(refused, layer.decoded(1));
  };
  CountingMemory plenty;
  const Matrix expected = run(plenty, static_cast<std::size_t>(-1)).second;
  std::size_t refusals = 0;
  for (std::size_t n = 0; n < 60; ++n) {
    CountingMemory memory;
    const auto [refused, decoded] = run(memory, n);
    refusals += refused ? 1U : 0U;
    EXPECT_EQ(decoded, expected) << "refused at allocation " << n;
    EXPECT_EQ(memory.live, 0U) << "leak after a refusal at allocation " << n;
    if (!refused) { break; }
  }
  EXPECT_GE(refusals, 6U);
}

TEST(GearStores, AFailedSettleChangesNothingAndCanBeRepeated) {
  check_refusals<GearKeys<4, Kcvt, half>>();
  check_refusals<GearValues<4, Kcvt, ValueVectors::layer, half>>();
}

}  // namespace gear_test
