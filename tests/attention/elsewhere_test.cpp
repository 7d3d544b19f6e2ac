// tests/attention/elsewhere_test.cpp - queries whose own rows lie in another cache: attended at a position, observed with the softmax over all rows.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "attention/answers.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "support/errors.hpp"

namespace elsewhere_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};

/// As ask, of one token whose row is elsewhere.
template <class Cache>
Answer ask_behind(Cache& cache, const Text& text, std::size_t token, AttendOptions options = {}) {
  options.query_position = static_cast<Position>(token);
  return ask(cache, text, token, 1, options);
}
/// The token's row alone, in a cache of its own.
Answer own_row(const Text& text, std::size_t token) {
  KVCache<Full<float>> own(shape);
  own.append(0, text.key_rows(token, 1), text.value_rows(token, 1), static_cast<Position>(token));
  return ask(own, text, token, 1);
}
Answer merged(Answer a, const Answer& b) {
  merge({a.log_sum_exp.data(), a.out.data()}, {b.log_sum_exp.data(), b.out.data()}, shape.query_heads, shape.value_width(),
        a.log_sum_exp.data(), a.out.data());
  return a;
}
TEST(QueryPosition, QueriesSeeRowsOfACacheThatHasNotTheirs) {
  const Text text(shape, 300, 3);
  KVCache<Full<float>> whole(shape);
  add(whole, text, 0, 201);
  KVCache<Full<float>> prefix(shape);
  add(prefix, text, 0, 200);
  const Answer expected = ask(whole, text, 200, 1);
  for (const bool ended : {false, true}) {
    if (ended) { prefix.end_prompt(0); }
    const Answer both = merged(ask_behind(prefix, text, 200), own_row(text, 200));
    expect_near(both.out, expected.out, 1e-5F);
    expect_near(both.log_sum_exp, expected.log_sum_exp, 1e-5F);
  }
  std::vector<Workspace> workspaces(2, Workspace(shape));
  Outputs out(text.output_width());
  prefix.attend(0, text.query_rows(200, 1), Output::tokens_first(out.data(), 1, 4, 16), workspaces, SerialExecutor{},
                {.query_position = 200});
  EXPECT_EQ(out, ask_behind(prefix, text, 200).out);

  KVCache<StreamingLLM> streaming(shape, {.eviction = {.sinks = 4, .window = 32}});
  KVCache<StreamingLLM> longer(shape, {.eviction = {.sinks = 4, .window = 32}});
  for (auto* cache : {&streaming, &longer}) {
    add(*cache, text, 0, 200);
    cache->end_prompt(0);
  }
  add(longer, text, 200,
      1);  // it sees the rows at in-cache positions, as the other's query does
  expect_near(merged(ask_behind(streaming, text, 200), own_row(text, 200)).out, ask(longer, text, 200, 1).out, 1e-4F);
}
TEST(QueryPosition, IsRefusedWhereItCannotBe) {
  const Text text(shape, 50, 3);
  KVCache<Full<float>> full(shape);
  add(full, text, 0, 40);
  EXPECT_NE(refusal([&] { ask_behind(full, text, 39); }).find("query_position is 39, must be at least 40"), std::string::npos);
  KVCache<H2O> h2o(shape);
  add(h2o, text, 0, 40);
  EXPECT_NE(refusal([&] { ask_behind(h2o, text, 40); }).find("observes every query"), std::string::npos);
}

/// Two caches hold the rows of one sequence; what each observes of its rows is what one cache observes of them.
TEST(Observe, QueriesWithTheSoftmaxOverTheRowsOfAllCaches) {
  const Text text(shape, 90, 7);
  const auto show = [&](auto& cache, std::size_t first, std::size_t last, const AttendOptions& options, const float* log_sum_exp) {
    std::vector<Position> at(last - first);
    for (std::size_t t = first; t < last; ++t) { at[t - first] = static_cast<Position>(t); }
    cache.observe(0, text.query_rows(first, last - first), at, options, log_sum_exp);
  };
  KVCache<H2O> whole(shape, {.eviction = {.budget = 100}});
  add(whole, text, 0, 80);
  const Answer all = ask(whole, text, 0, 80);
  KVCache<H2O> first(shape, {.eviction = {.budget = 100}});
  KVCache<H2O> second(shape, {.eviction = {.budget = 100}});
  add(first, text, 0, 40);
  second.append(0, text.key_rows(40, 40), text.value_rows(40, 40), Position{40});
  show(first, 0, 80, {}, all.log_sum_exp.data());
  show(second, 40, 80, {}, all.log_sum_exp.data() + 40 * 4);
  whole.end_prompt(0);
  first.end_prompt(0);
  second.end_prompt(0);
  const auto alike = [&](double bound) {
    for (std::size_t head = 0; head < 2; ++head) {
      for (std::size_t row = 0; row < 80; ++row) {
        const float part = row < 40 ? first.state(0, head).get(row, 0) : second.state(0, head).get(row - 40, 0);
        EXPECT_NEAR(static_cast<double>(part), static_cast<double>(whole.state(0, head).get(row, 0)), bound) << row;
      }
    }
  };
  alike(1e-4);
  // A decoded row lies in the second; the first has nothing open, and a fork that must not see it.
  const KVCache<H2O> fork = first.fork();
  const float seen = fork.state(0, 0).get(3, 0);
  add(whole, text, 80, 1);
  const Answer one = ask(whole, text, 80, 1);
  second.append(0, text.key_rows(80, 1), text.value_rows(80, 1));
  show(first, 80, 81, {}, one.log_sum_exp.data());
  show(second, 80, 81, {}, one.log_sum_exp.data());
  for (auto* cache : {&whole, &first, &second}) { cache->commit(0); }
  alike(1e-4);
  EXPECT_EQ(fork.state(0, 0).get(3, 0), seen);
  EXPECT_NE(first.state(0, 0).get(3, 0), seen);
  EXPECT_NE(refusal([&] { show(first, 80, 81, {}, nullptr); }).find("no rows since the last commit"), std::string::npos);

  // The last queries of a prompt, whose softmax is computed at its end: the other cache's part stands beside the rows.
  KVCache<SnapKV> snap(shape, {.eviction = {.budget = 100, .window = 8}});
  KVCache<SnapKV> half_of_it(shape, {.eviction = {.budget = 100, .window = 8}});
  add(snap, text, 0, 80);
  static_cast<void>(ask(snap, text, 0, 80));
  add(half_of_it, text, 0, 40);
  KVCache<Full<half>> other(shape);
  other.append(0, text.key_rows(40, 40), text.value_rows(40, 40), Position{40});
  const Answer part = ask(other, text, 72, 8);
  const Partial beside{part.log_sum_exp.data(), part.out.data()};
  show(half_of_it, 72, 80, {.partials = {&beside, 1}}, nullptr);
  snap.end_prompt(0);
  half_of_it.end_prompt(0);
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t row = 0; row < 36; ++row) {  // pooling looks three rows further
      EXPECT_NEAR(half_of_it.state(0, head).get(row, 0), snap.state(0, head).get(row, 0), 1e-5F) << row;
    }
  }
}

}  // namespace elsewhere_test
