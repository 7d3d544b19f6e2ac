// tests/lifecycle/public_entries_test.cpp - every public function with NaN, infinities, negative, huge, null and mismatched arguments.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "support/errors.hpp"
#include "support/policies.hpp"

namespace public_entries_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::size_t huge = std::size_t{1} << 63U;
constexpr std::size_t all_ones = static_cast<std::size_t>(-1);

template <class P>
class PublicEntries : public ::testing::Test {
 protected:
  PublicEntries() : cache(small, options_with<P>(48)), untouched(small, options_with<P>(48)) {
    for (KVCache<P>* one : {&cache, &untouched}) {
      for (std::size_t layer = 0; layer < small.layers; ++layer) {
        static_cast<void>(step(*one, text, 0, 100, layer));
        one->end_prompt(layer);
        static_cast<void>(step(*one, text, 100, 1, layer));
      }
    }
  }
  /// An Error; then the cache holds, reports and answers what one does that never met it.
  template <class Verb>
  void refused(ErrorCode code, const std::vector<std::string>& parts, Verb&& verb) {
    const auto held = [&] { return cache.memory().total() - cache.memory().scratch; };
    const std::size_t bytes = held();
    expect_error_with(code, parts, verb);
    EXPECT_EQ(held(), bytes) << parts.front();
    EXPECT_EQ(cache.kept(0, 1), untouched.kept(0, 1)) << parts.front();
    EXPECT_EQ(cache.tokens(0), untouched.tokens(0)) << parts.front();
  }
  void TearDown() override {
    for (std::size_t t = 101; t < 140; ++t) {
      ASSERT_TRUE(step(cache, text, t, 1) == step(untouched, text, t, 1)) << "something changed, seen at token " << t;
    }
  }
  Rows queries(std::size_t count = 1) const { return text.query_rows(100, count); }
  Rows keys() const { return text.key_rows(101, 1); }
  Output to(std::size_t tokens = 1) { return Output::tokens_first(out.data(), tokens, 4, 16); }

  const Text text{small, 140, 71};
  KVCache<P> cache;
  KVCache<P> untouched;
  Outputs out = Outputs(64, -1.0F);
};
using SomePolicies = ::testing::Types<Full<float>, Combine<H2O, Kivi<4, 32, 32>>>;
TYPED_TEST_SUITE(PublicEntries, SomePolicies);

TYPED_TEST(PublicEntries, HowToAttend) {
  const std::vector<Position> at{100};
  const auto both = [&](const AttendOptions& how, const std::vector<std::string>& parts) {
    this->refused(ErrorCode::option, parts, [&] { this->cache.attend(0, this->queries(), this->to(), how); });
    this->refused(ErrorCode::option, parts, [&] { this->cache.observe(0, this->queries(), at, how); });
  };
  both({.scale = nan}, {"scale is nan", "finite and above 0"});
  both({.scale = infinity}, {"scale is inf", "finite and above 0"});
  both({.scale = -1.0F}, {"scale is -1", "finite and above 0"});
  both({.soft_cap = nan}, {"soft_cap is nan", "above 0"});
  both({.soft_cap = -2.0F}, {"soft_cap is -2", "above 0"});
  both({.soft_cap = -infinity}, {"soft_cap is -inf", "above 0"});
}

TYPED_TEST(PublicEntries, Queries) {
  const std::vector<Position> at{100};
  std::vector<float> row(64, 1.0F);
  for (const float bad : {nan, infinity, -infinity, 3e38F, 1e30F}) {
    row[35] = bad;
    const Rows rows = Rows::tokens_first(row.data(), 1, 4, 16);
    this->refused(ErrorCode::input, {"queries is ", "head 2, channel 3", "at most 1.1258"},
                  [&] { this->cache.attend(0, rows, this->to()); });
    this->refused(ErrorCode::input, {"queries is ", "head 2, channel 3", "at most 1.1258"}, [&] { this->cache.observe(0, rows, at); });
  }
  row[35] = 1e10F;
  const Rows rows = Rows::tokens_first(row.data(), 1, 4, 16);
  this->refused(ErrorCode::input, {"queries is 1e+10", "at most 112589"},
                [&] { this->cache.attend(0, rows, this->to(), {.scale = 1e10F}); });
  this->refused(ErrorCode::shape, {"strides"}, [&] { this->cache.attend(0, Rows(row.data(), 1, 4, 16, huge, huge), this->to()); });
  this->refused(ErrorCode::position, {"positions[0] is 4294967295", "less than 101"},
                [&] { this->cache.observe(0, this->queries(), std::vector<Position>{no_position}); });
}

TYPED_TEST(PublicEntries, Outputs) {
  auto& c = this->cache;
  float* data = this->out.data();
  const auto bad = [&](const Output& to, const std::vector<std::string>& parts, ErrorCode code = ErrorCode::shape) {
    this->refused(code, parts, [&] { c.attend(0, this->queries(), to); });
    this->refused(code, parts, [&] {
      std::vector<Workspace> workspaces(2, Workspace(small));
      c.attend(0, this->queries(), to, workspaces, SerialExecutor{});
    });
  };
  bad(Output{}, {"out is null"}, ErrorCode::input);
  bad(Output::tokens_first(nullptr, 1, 4, 16), {"out is null"}, ErrorCode::input);
  bad(Output::tokens_first(data, 2, 4, 16), {"out.tokens() is 2", "must be queries.tokens() = 1"});
  bad(Output::tokens_first(data, 1, 2, 16), {"out.heads() is 2", "must be shape.query_heads = 4"});
  bad(Output::heads_first(data, 1, 4, 17), {"out.dim() is 17", "must be the value width = 16"});
  bad(Output(data, 1, 4, 16, 64, 15), {"strides 64 (tokens) and 15 (heads)", "rows of 16"});
  bad(Output(data, 1, 4, 16, 64, 0), {"strides 64 (tokens) and 0 (heads)", "rows of 16"});
  bad(Output(data, 1, 4, 16, huge, huge), {"strides"});
  EXPECT_EQ(this->out, Outputs(64, -1.0F)) << "something was written";
}

TYPED_TEST(PublicEntries, HeadsWorkspacesAndExecutors) {
  auto& c = this->cache;
  const auto q = this->queries();
  this->refused(ErrorCode::shape, {"heads.last is 3", "at most shape.kv_heads = 2"}, [&] {
    c.attend(0, q, this->to(), {}, HeadRange{0, 3});
  });
  this->refused(ErrorCode::shape, {"heads.first is 2", "less than heads.last = 1"}, [&] {
    c.attend(0, q, this->to(), {}, HeadRange{2, 1});
  });
  const auto made_for = [&](auto change, const std::vector<std::string>& parts) {
    Shape other = small;
    change(other);
    Workspace ws(other);
    this->refused(ErrorCode::shape, parts, [&] { c.attend(0, q, this->to(), ws); });
    std::vector<Workspace> workspaces{Workspace(small), ws};
    this->refused(ErrorCode::shape, parts, [&] { c.attend(0, q, this->to(), workspaces, SerialExecutor{}); });
  };
  made_for([](Shape& s) { s.head_dim = 32; }, {"key width is 32", "must be 16"});
  made_for([](Shape& s) { s.value_dim = 8; }, {"value width is 8", "must be 16"});
  made_for([](Shape& s) { s.query_heads = 2; }, {"query_heads is 2", "must be 4"});
  made_for([](Shape& s) { s.kv_heads = 4; }, {"kv_heads is 4", "must be 2"});
  made_for([](Shape& s) { s.rope.theta = 500.0; }, {"another rope", "must be the same"});
  made_for([](Shape& s) { s.rope.scale = 0.5; }, {"another rope", "must be the same"});
  made_for([](Shape& s) { s.rope.pairing = RopePairing::interleaved; }, {"another rope", "must be the same"});
  const std::vector<double> factors(8, 2.0);
  made_for([&](Shape& s) { s.rope.frequency_factors = factors.data(); }, {"another rope", "must be the same"});
  this->refused(ErrorCode::input, {"workspaces is empty"}, [&] { c.attend(0, q, this->to(), std::span<Workspace>{}, SerialExecutor{}); });
}

TYPED_TEST(PublicEntries, WhatIsAppended) {
  auto& c = this->cache;
  std::vector<float> row(32, 1.0F);
  for (const float bad : {nan, infinity, -infinity, 3e38F, -1e30F}) {
    row[20] = bad;
    const Rows rows = Rows::tokens_first(row.data(), 1, 2, 16);
    this->refused(ErrorCode::input, {"keys is ", "head 1, channel 4", "must be finite and at most "},
                  [&] { c.append(0, rows, this->keys()); });
    this->refused(ErrorCode::input, {"values is ", "head 1, channel 4", "must be finite and at most "},
                  [&] { c.append(0, this->keys(), rows); });
  }
  row[20] = 1.0F;
  const Rows many = Rows::tokens_first(row.data(), huge, 2, 16);
  this->refused(ErrorCode::position, {"last position is", "less than 4294967295"}, [&] { c.append(0, many, many); });
  this->refused(ErrorCode::position, {"first_position is 3", "at least 101"}, [&] { c.append(0, this->keys(), this->keys(), 3); });
  this->refused(ErrorCode::position, {"last position is 4294967295", "less than 4294967295"},
                [&] { c.append(0, this->keys(), this->keys(), no_position); });
  this->refused(ErrorCode::shape, {"keys has the strides", "must end within"},
                [&] { c.append(0, Rows(row.data(), 1, 2, 16, 0, huge), this->keys()); });
  this->refused(ErrorCode::input, {"keys or values is null"},
                [&] { c.append(0, this->keys(), Rows::tokens_first(static_cast<const half*>(nullptr), 1, 2, 16)); });
}

TYPED_TEST(PublicEntries, Inspection) {
  auto& c = this->cache;
  float row[16];
  for (const std::size_t layer : {std::size_t{2}, std::size_t{99}, huge, all_ones}) {
    const std::vector<std::string> parts{"layer is " + std::to_string(layer), "must be less than 2"};
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.tokens(layer)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.kept(layer, 0)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.table(layer, 0)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.keys(layer, 0)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.values(layer, 0)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.state(layer, 0)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.index(layer, 0)); });
    this->refused(ErrorCode::shape, parts, [&] { c.read(layer, 0, 0, row, row); });
    this->refused(ErrorCode::shape, parts, [&] { c.append(layer, this->keys(), this->keys()); });
    this->refused(ErrorCode::shape, parts, [&] { c.attend(layer, this->queries(), this->to()); });
    this->refused(ErrorCode::shape, parts, [&] { c.observe(layer, this->queries(), std::vector<Position>{100}); });
    this->refused(ErrorCode::shape, parts, [&] { c.commit(layer); });
    this->refused(ErrorCode::shape, parts, [&] { c.end_prompt(layer); });
  }
  for (const std::size_t head : {std::size_t{2}, std::size_t{99}, all_ones}) {
    const std::vector<std::string> parts{"kv_head is " + std::to_string(head), "must be less than 2"};
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.kept(0, head)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.table(0, head)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.keys(0, head)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.values(0, head)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.state(0, head)); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.index(0, head)); });
    this->refused(ErrorCode::shape, parts, [&] { c.read(0, head, 0, row, row); });
  }
  const std::size_t rows = c.table(0, 0).rows();
  this->refused(ErrorCode::shape, {"row is " + std::to_string(rows)}, [&] { c.read(0, 0, rows, row, row); });
  this->refused(ErrorCode::shape, {"row is 18446744073709551615"}, [&] { c.read(0, 0, all_ones, row, row); });
  this->refused(ErrorCode::input, {"read: key is null", "16 numbers"}, [&] { c.read(0, 0, 0, nullptr, row); });
  this->refused(ErrorCode::input, {"read: value is null", "16 numbers"}, [&] { c.read(0, 0, 0, row, nullptr); });
}

TYPED_TEST(PublicEntries, NumbersOfTokens) {
  auto& c = this->cache;
  for (const std::size_t tokens : {std::size_t{no_position}, huge, all_ones}) {
    const std::vector<std::string> parts{"tokens is " + std::to_string(tokens), "at most 4294967294"};
    this->refused(ErrorCode::shape, parts, [&] { c.reserve(tokens); });
    this->refused(ErrorCode::shape, parts, [&] { static_cast<void>(c.bytes_for(small, tokens, c.options())); });
    expect_error_with(ErrorCode::shape, {"rows is " + std::to_string(tokens)}, [&] { Workspace(small).reserve(small, tokens); });
  }
  EXPECT_GT(c.bytes_for(small, most_rows, c.options()), most_rows * 32);
  c.truncate(no_position);  // nothing is that new: no change
  EXPECT_EQ(c.tokens(0), 101U);
}

TEST(PublicEntriesOfCaches, ShapesAndMemory) {
  const auto bad = [](ErrorCode code, const std::vector<std::string>& parts, auto change) {
    Shape shape = small;
    change(shape);
    expect_error_with(code, parts, [&] { shape.validate(); });
    expect_error_with(code, parts, [&] { KVCache<Full<half>> cache(shape); });
    expect_error_with(code, parts, [&] { static_cast<void>(KVCache<Full<half>>::bytes_for(shape, 10)); });
    expect_error_with(code, parts, [&] { Workspace workspace(shape); });
    expect_error_with(code, parts, [&] { static_cast<void>(any_cache<Full<half>>(shape)); });
  };
  for (const std::size_t size : {std::size_t{65537}, std::size_t{1} << 60U, std::size_t{1} << 61U, huge, all_ones}) {
    const std::string is = " is " + std::to_string(size);
    bad(ErrorCode::shape, {"shape.layers" + is, "at most 65536"}, [&](Shape& s) { s.layers = size; });
    bad(ErrorCode::shape, {"shape.query_heads" + is, "at most 65536"}, [&](Shape& s) { s.query_heads = size; });
    bad(ErrorCode::shape, {"shape.kv_heads" + is, "at most 65536"}, [&](Shape& s) { s.kv_heads = size; });
    bad(ErrorCode::shape, {"shape.head_dim" + is, "at most 65536"}, [&](Shape& s) { s.head_dim = size; });
    bad(ErrorCode::shape, {"shape.key_dim" + is, "at most 65536"}, [&](Shape& s) { s.key_dim = size; });
    bad(ErrorCode::shape, {"shape.value_dim" + is, "at most 65536"}, [&](Shape& s) { s.value_dim = size; });
    bad(ErrorCode::shape, {"shape.rope.rotary_dim" + is}, [&](Shape& s) { s.rope.rotary_dim = size; });
  }
  bad(ErrorCode::shape, {"shape.layers * shape.kv_heads is 4294967296", "at most 1048576"},
      [](Shape& s) { s.layers = s.kv_heads = s.query_heads = 65536; });
  bad(ErrorCode::shape, {"is 8589934592", "at most 268435456"}, [](Shape& s) {
    s.layers = s.head_dim = 65536;
    s.kv_heads = 1;
  });
  for (const double theta : {-1.0, 0.5, std::nan(""), HUGE_VAL}) {
    bad(ErrorCode::shape, {"shape.rope.theta is ", "1 to 1e300, or 0"}, [&](Shape& s) { s.rope.theta = theta; });
  }
  for (const double scale : {0.0, -1.0, std::nan(""), HUGE_VAL, 1e300}) {
    bad(ErrorCode::shape, {"shape.rope.scale is ", "1e-9 to 1e9"}, [&](Shape& s) { s.rope.scale = scale; });
  }
  for (const double factor : {0.0, -1.0, std::nan(""), HUGE_VAL, 1e-300}) {
    const std::vector<double> factors{1, 1, 1, 1, 1, 1, 1, factor};
    bad(ErrorCode::shape, {"shape.rope.frequency_factors[7] is ", "1e-9 to 1e300"},
        [&](Shape& s) { s.rope.frequency_factors = factors.data(); });
  }
  bad(ErrorCode::shape, {"shape.rope.theta is 0", "rotary_dim"}, [](Shape& s) { s.rope = {.theta = 0.0, .rotary_dim = 8}; });
  bad(ErrorCode::option, {"shape.rope.pairing is 7", "0 to 1"}, [](Shape& s) { s.rope.pairing = static_cast<RopePairing>(7); });
  bad(ErrorCode::option, {"shape.keys is 2", "0 to 1"}, [](Shape& s) { s.keys = static_cast<KeyForm>(2); });
  Memory memory;
  memory.allocate = nullptr;
  expect_error_with(ErrorCode::input, {"memory: allocate is null"}, [&] { KVCache<Full<half>> cache(small, {}, memory); });
  expect_error_with(ErrorCode::input, {"memory: allocate is null"}, [&] { Workspace workspace(small, memory); });
  memory = {};
  memory.release = nullptr;
  expect_error_with(ErrorCode::input, {"memory: release is null"}, [&] { KVCache<Full<half>> cache(small, {}, memory); });
}

TEST(PublicEntriesOfCaches, Options) {
  const auto bad = [](auto policy, const std::vector<std::string>& parts, auto change) {
    using P = typename decltype(policy)::type;
    PolicyOptions<P> options{};
    expect_error_with(ErrorCode::option, parts, [&] {
      change(options);
      static_cast<void>(KVCache<P>::bytes_for(small, 10, options));
    });
  };
  constexpr std::type_identity<H2O> h2o;
  constexpr std::type_identity<SnapKV> snapkv;
  constexpr std::type_identity<StreamingLLM> streaming;
  constexpr std::type_identity<Kivi<4>> kivi;
  constexpr std::type_identity<Combine<Full<half>, Quest>> quest;
  constexpr std::type_identity<Combine<Full<half>, Landmarks>> landmarks;
  bad(h2o, {"budget is -1 rows", "at least 1"}, [](auto& o) { o.eviction.budget = -1; });
  bad(h2o, {"budget is -9223372036854775808 rows", "at least 1"},
      [](auto& o) { o.eviction.budget = std::numeric_limits<long long>::min(); });
  bad(h2o, {"budget is -5 bytes", "at least 1"}, [](auto& o) { o.eviction.budget = Budget::bytes(-5); });
  bad(h2o, {"budget is 0", "at least 1"}, [](auto& o) { o.eviction.budget = Budget::bytes(0); });
  bad(h2o, {"budget is 18446744073709551615 rows", "at most 4294967294"}, [](auto& o) { o.eviction.budget = all_ones; });
  for (const double of : {std::nan(""), HUGE_VAL, -0.25, 1.0001}) {
    bad(h2o, {"is a fraction of ", "in (0, 1]"}, [&](auto& o) { o.eviction.budget = Budget::fraction(of); });
    bad(snapkv, {"is a fraction of ", "in (0, 1]"}, [&](auto& o) { o.eviction.budget = Budget::fraction(of); });
  }
  bad(h2o, {"given in two ways", "5 rows", "7 bytes"}, [](auto& o) {
    o.eviction.budget = 5;
    o.eviction.budget.bytes_of = 7;
  });
  bad(h2o, {"recent is 18446744073709551615", "0 to 4294967294"}, [](auto& o) {
    o.eviction.budget = Budget::fraction(0.5);
    o.eviction.recent = all_ones;
  });
  bad(h2o, {"reduction is 3", "0 to 2"}, [](auto& o) { o.eviction.reduction = static_cast<Reduction>(3); });
  bad(h2o, {"speculation is 18446744073709551615", "0 to 4294967294"}, [](auto& o) { o.speculation = all_ones; });
  bad(snapkv, {"window is ", "1 to 4294967294"}, [](auto& o) {
    o.eviction.budget = Budget::fraction(0.5);
    o.eviction.window = huge;
  });
  bad(snapkv, {"kernel is 18446744073709551615", "1 to 65535"}, [](auto& o) { o.eviction.kernel = all_ones; });
  bad(snapkv, {"decode_budget is ", "0 to 4294967294"}, [](auto& o) { o.eviction.decode_budget = huge; });
  bad(snapkv, {"pooling is 9", "0 to 1"}, [](auto& o) { o.eviction.pooling = static_cast<Pooling>(9); });
  bad(streaming, {"sinks is 4294967295", "less than 4294967295"}, [](auto& o) { o.eviction.sinks = no_position; });
  bad(kivi, {"residual is 9223372036854775808", "0 to 4294967294"}, [](auto& o) { o.storage.residual = huge; });
  bad(kivi, {"accumulation is 9", "0 to 2"}, [](auto& o) { o.storage.accumulation = static_cast<Accumulation>(9); });
  bad(quest, {"page is 9223372036854775808", "0 to 4294967294"}, [](auto& o) { o.retrieval.page = huge; });
  bad(quest, {"budget is 18446744073709551615", "0 to 4294967294"}, [](auto& o) { o.retrieval.budget = all_ones; });
  bad(landmarks, {"local_chunks is ", "0 to 4294967294"}, [](auto& o) { o.retrieval.local_chunks = all_ones; });
  bad(landmarks, {"outlier_chunks is ", "0 to 4294967294"}, [](auto& o) { o.retrieval.outlier_chunks = huge; });
  bad(landmarks, {"fold_in is ", "0 to 4294967294"}, [](auto& o) { o.retrieval.fold_in = huge; });
  bad(landmarks, {"behaviour is 2", "0 to 1"}, [](auto& o) { o.retrieval.behaviour = static_cast<ShadowKVClass>(2); });
}

TEST(PublicEntriesOfCaches, ACapOfInfinityIsNone) {
  const Shape one{.head_dim = 8};
  const std::vector<float> ones(32, 1.0F);
  for (const float cap : {0.0F, infinity, 3e38F}) {
    KVCache<Full<float>> cache(one);
    cache.append(0, Rows::tokens_first(ones.data(), 4, 1, 8), Rows::tokens_first(ones.data(), 4, 1, 8));
    Outputs out(8);
    float log_sum_exp = 0.0F;
    cache.attend(0, Rows::tokens_first(ones.data(), 1, 1, 8), Output::tokens_first(out.data(), 1, 1, 8),
                 {.soft_cap = cap, .log_sum_exp = &log_sum_exp});
    EXPECT_EQ(out, Outputs(8, 1.0F)) << cap;
    EXPECT_NEAR(log_sum_exp, 4.21472F, 1e-5F) << cap;
  }
}

/// The largest numbers that are accepted, in phase and against each other, give finite outputs of the right size.
TEST(PublicEntriesOfCaches, TheLargestNumbersGiveFiniteOutputs) {
  constexpr float most = 0x1p50F;
  const Shape wide{.head_dim = 512};
  const std::vector<float> values(512 * 40, most);
  for (const float sign : {1.0F, -1.0F}) {
    const std::vector<float> queries(512 * 40, sign * most);
    for (const float scale : {0.0F, 1.0F}) {
      KVCache<Full<float>> cache(wide);
      cache.append(0, Rows::tokens_first(values.data(), 40, 1, 512), Rows::tokens_first(values.data(), 40, 1, 512));
      Outputs out(512);
      float log_sum_exp = 0.0F;
      cache.attend(0, Rows::tokens_first(queries.data(), 1, 1, 512), Output::tokens_first(out.data(), 1, 1, 512),
                   {.scale = scale, .log_sum_exp = &log_sum_exp});
      EXPECT_TRUE(std::isfinite(log_sum_exp));
      for (const float x : out) { ASSERT_NEAR(x, most, 1e-5F * most); }
    }
  }
}

/// Of a log-sum-exp: NaN, infinity, and what makes a probability larger than 1; nothing is recorded, in any head.
TEST(PublicEntriesOfObserve, LogSumExp) {
  const Text text(small, 60, 73);
  const std::vector<Position> at{59};
  using P = H2O;
  KVCache<P> cache(small, options_with<P>(24));
  KVCache<P> untouched(small, options_with<P>(24));
  std::vector<float> right(4);
  Outputs out(64);
  for (KVCache<P>* one : {&cache, &untouched}) {
    static_cast<void>(step(*one, text, 0, 59));
    one->end_prompt(0);
    one->append(0, text.key_rows(59, 1), text.value_rows(59, 1));
  }
  KVCache<P> asked(cache);
  asked.attend(0, text.query_rows(59, 1), Output::tokens_first(out.data(), 1, 4, 16), {.log_sum_exp = right.data()});
  const auto refused = [&](float bad, const std::vector<std::string>& parts) {
    std::vector<float> given = right;
    given[3] = bad;
    expect_error_with(ErrorCode::input, parts, [&] { cache.observe(0, text.query_rows(59, 1), at, {}, given.data()); });
    EXPECT_EQ(cache.memory().total() - cache.memory().scratch, untouched.memory().total() - untouched.memory().scratch);
    for (std::size_t head = 0; head < 2; ++head) {
      for (std::size_t row = 0; row < cache.table(0, head).rows(); ++row) {
        ASSERT_EQ(cache.state(0, head).get(row, 0), untouched.state(0, head).get(row, 0)) << parts.front();
      }
    }
  };
  refused(nan, {"log_sum_exp is nan", "token 0, head 3", "must be finite"});
  refused(infinity, {"log_sum_exp is inf", "token 0, head 3", "must be finite"});
  refused(-500.0F, {"log_sum_exp is -500", "token 0, head 3", "largest logit"});
  refused(-infinity, {"log_sum_exp is -inf", "token 0, head 3", "largest logit"});
  refused(right[3] - 4.0F, {"log_sum_exp is ", "token 0, head 3", "largest logit"});
  // The right one is taken, and so is -infinity for a query that sees nothing.
  cache.observe(0, text.query_rows(59, 1), at, {}, right.data());
  untouched.observe(0, text.query_rows(59, 1), at);
  for (std::size_t row = 0; row < cache.table(0, 1).rows(); ++row) {
    EXPECT_NEAR(cache.state(0, 1).get(row, 0), untouched.state(0, 1).get(row, 0), 1e-5F);
  }
  const std::vector<float> nothing(4, -infinity);
  cache.observe(0, text.query_rows(59, 1), at, {.start = 1000}, nothing.data());
}

}  // namespace public_entries_test
