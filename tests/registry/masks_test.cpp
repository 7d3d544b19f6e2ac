// tests/registry/masks_test.cpp - masks given as ranges and as bits over open rows, against attention in double over what the cache holds.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvcompress/reference/rope.hpp"
#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace masks_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
constexpr std::size_t prompt = 200;

AnyCache make(const std::string& policy, std::size_t speculation = 0) {
  AnyCache::Options options = examples::registry().options(policy, shape);
  options.speculation = speculation;
  return AnyCache(shape, options);
}
/// A cache after its prompt.
AnyCache settled(const std::string& policy, const Text& text, std::size_t speculation = 0) {
  AnyCache cache = make(policy, speculation);
  static_cast<void>(step(cache, text, 0, prompt));
  cache.end_prompt(0);
  return cache;
}

/// What one head of a cache holds and its newest `count` rows ask, as the reference takes it: in-cache positions, keys and queries turned to them.
struct Held {
  reference::Matrix keys, values, queries;
  reference::Positions places, asked;
};
Held held(AnyCache& cache, const Text& text, std::size_t token, std::size_t count, std::size_t query_head) {
  const std::size_t head = query_head / shape.group();
  const RowTable& table = cache.table(0, head);
  const auto rows = static_cast<reference::Index>(table.live());
  const auto asking = static_cast<reference::Index>(count);
  Held all{reference::Matrix(rows, 16), reference::Matrix(rows, 16), reference::Matrix(asking, 16), reference::Positions(rows),
           reference::Positions(asking)};
  reference::Positions turns(rows), turns_asked(asking);
  std::vector<float> key(16), value(16);
  reference::Index i = 0;
  for (std::size_t row = 0; row < table.rows(); ++row) {
    if (!table.alive(row)) { continue; }
    cache.read(0, head, row, key.data(), value.data());
    for (reference::Index c = 0; c < 16; ++c) {
      all.keys(i, c) = static_cast<double>(key[static_cast<std::size_t>(c)]);
      all.values(i, c) = static_cast<double>(value[static_cast<std::size_t>(c)]);
    }
    all.places(i) = table.slot(row);
    turns(i) = std::int64_t{table.slot(row)} - std::int64_t{table.position(row)};
    ++i;
  }
  all.keys = reference::rotate(all.keys, turns);
  const reference::Matrix queries = text.query_matrix(query_head);
  for (reference::Index t = 0; t < asking; ++t) {
    all.queries.row(t) = queries.row(static_cast<reference::Index>(token) + t);
    all.asked(t) = all.places(rows - asking + t);
    turns_asked(t) = turns(rows - asking + t);
  }
  all.queries = reference::rotate(all.queries, turns_asked);
  return all;
}
/// The newest `count` rows, of the tokens from `token` on, attend; the worst deviation from attention in double. `until`: how many rows further
/// than itself each of them sees; `among`: (count, open rows), or empty.
double worst(AnyCache& cache, const Text& text, std::size_t token, std::size_t count, const AttendOptions& options,
             const std::vector<std::int64_t>& further, const reference::Matrix& among = {}) {
  const Outputs out = attend(cache, text, token + count, count, 0, options);
  Outputs expected(out.size());
  for (std::size_t h = 0; h < shape.query_heads; ++h) {
    const Held from = held(cache, text, token, count, h);
    reference::AttentionOptions as = reference_options(options);
    as.slope = options.alibi_slopes.empty() ? 0.0 : static_cast<double>(options.alibi_slopes[h]);
    as.among_last = among;
    if (!further.empty()) {
      as.until = from.asked;
      for (std::size_t t = 0; t < count; ++t) { as.until(static_cast<reference::Index>(t)) += 1 + further[t]; }
    }
    auto result = reference::attention(from.queries, from.keys, from.values, from.asked, from.places, as);
    for (reference::Index t = 0; t < result.output.rows(); ++t) {
      // A learned sink is one more term of the denominator.
      const double sink = options.sinks.empty() ? 0.0 : std::exp(static_cast<double>(options.sinks[h]) - result.log_sum_exp(t));
      for (std::size_t c = 0; c < 16; ++c) {
        expected[(static_cast<std::size_t>(t) * shape.query_heads + h) * 16 + c] =
            static_cast<float>(result.output(t, static_cast<reference::Index>(c)) / (1.0 + sink));
      }
    }
  }
  return deviation(out, expected);
}

const std::vector<std::string> policies{"f32",
                                        "f16",
                                        "kivi4:residual=32",
                                        "kivi2:residual=32",
                                        "h2o:budget=90+f32",
                                        "h2o:budget=90,recent=40+kivi4:residual=32",
                                        "snapkv:budget=60+kivi4:residual=32",
                                        "streaming:sinks=4,window=60",
                                        "streaming:sinks=4,window=60+kivi4:residual=32",
                                        "f32+quest:budget=4096",
                                        "kivi4:residual=32+landmarks:budget=4096"};

/// Twelve tokens of which the fifth to the tenth are an image, and the tokens before and behind it text.
TEST(Until, AnImageSeesAllOfItself) {
  const Text text(shape, prompt + 20, 1);
  std::vector<std::int64_t> further(12, 0);
  for (std::size_t t = 4; t < 10; ++t) { further[t] = static_cast<std::int64_t>(9 - t); }
  std::vector<Position> until(12);
  for (std::size_t t = 0; t < 12; ++t) { until[t] = static_cast<Position>(prompt + t + 1 + static_cast<std::size_t>(further[t])); }
  const std::vector<float> slopes{0.5F, 0.0625F, 0.0F, 0.01F};
  const std::vector<float> sinks{0.5F, -1.0F, 3.0F, -2.0F};
  for (const std::string& policy : policies) {
    AnyCache cache = settled(policy, text);
    cache.append(0, text.key_rows(prompt, 12), text.value_rows(prompt, 12));
    const auto near = [&](AttendOptions options) {
      options.until = until;
      EXPECT_LT(worst(cache, text, prompt, 12, options, further), 5e-4) << policy;
    };
    near({});
    near({.window = 20});
    near({.window = 3});
    near({.soft_cap = 3.0F, .sinks = sinks});
    if (policy.find("snapkv") == std::string::npos && policy.find("quest") == std::string::npos &&
        policy.find("landmarks") == std::string::npos) {
      near({.window = 40, .alibi_slopes = slopes});
    }
    EXPECT_GT(deviation(attend(cache, text, prompt + 12, 12, 0, {.until = until}), attend(cache, text, prompt + 12, 12)), 0.01);
    std::vector<Workspace> workspaces(2, Workspace(shape));
    Outputs threads(12 * text.output_width());
    cache.attend(0, text.query_rows(prompt, 12), Output::tokens_first(threads.data(), 12, 4, 16), workspaces, SerialExecutor{},
                 {.until = until});
    EXPECT_EQ(threads, attend(cache, text, prompt + 12, 12, 0, {.until = until})) << policy;
  }
}

/// A prompt that is read in both directions, in one piece or in two, of which each sees itself; what a policy observes of it; what it keeps.
TEST(Until, PromptsMayBeReadInBothDirections) {
  const Text text(shape, prompt + 20, 2);
  std::vector<Position> until(prompt, 100);
  std::fill(until.begin() + 100, until.end(), Position{prompt});
  for (const std::string policy : {"f32", "h2o:budget=60", "snapkv:budget=150,window=120,kernel=1", "kivi4"}) {
    AnyCache whole = make(policy);
    AnyCache pieces = make(policy);
    AnyCache causal = make(policy);
    AnyCache shown = make(policy);
    const Outputs expected = step(whole, text, 0, prompt, 0, {.until = until});
    Outputs out = step(pieces, text, 0, 100, 0, {.until = std::span(until).first(100)});
    const Outputs second = step(pieces, text, 100, 100, 0, {.until = std::span(until).last(100)});
    out.insert(out.end(), second.begin(), second.end());
    EXPECT_LT(deviation(out, expected), 1e-6) << policy;
    static_cast<void>(step(causal, text, 0, prompt));
    std::vector<float> log_sum_exp(prompt * shape.query_heads);
    AnyCache engine = make("f32");
    static_cast<void>(step(engine, text, 0, prompt, 0, {.log_sum_exp = log_sum_exp.data(), .until = until}));
    std::vector<Position> positions(prompt);
    for (std::size_t t = 0; t < prompt; ++t) { positions[t] = static_cast<Position>(t); }
    shown.append(0, text.key_rows(0, prompt), text.value_rows(0, prompt));
    shown.observe(0, text.query_rows(0, prompt), positions, {.until = until}, log_sum_exp.data());
    AnyCache loaded = make(policy);
    load_from(loaded, saved(whole));
    for (AnyCache* cache : {&whole, &pieces, &causal, &shown, &loaded}) { cache->end_prompt(0); }
    bool differs = false;
    for (std::size_t head = 0; head < 2; ++head) {
      EXPECT_EQ(whole.kept(0, head), pieces.kept(0, head)) << policy;
      EXPECT_EQ(whole.kept(0, head), shown.kept(0, head)) << policy;
      EXPECT_EQ(whole.kept(0, head), loaded.kept(0, head)) << policy;
      differs = differs || whole.kept(0, head) != causal.kept(0, head);
    }
    EXPECT_EQ(differs, whole.table(0, 0).live() < prompt) << policy << ": what is kept follows from what the queries saw";
  }
}

/// Nine drafts behind a text: a path of the numbers 0, 2, 5, 8, and what else was guessed on the way.
struct Tree {
  std::vector<Position> positions{200, 200, 201, 201, 201, 202, 202, 203, 203};
  std::vector<std::size_t> parents{9, 9, 0, 0, 1, 2, 4, 5, 5};
  std::vector<std::uint64_t> bits;
  reference::Matrix among = reference::Matrix::Zero(9, 9);
  Tree() {
    for (std::size_t t = 0; t < 9; ++t) {
      bits.push_back((t < 2 ? 0 : bits[parents[t]]) | (std::uint64_t{1} << t));
      for (std::size_t r = 0; r < 9; ++r) {
        among(static_cast<reference::Index>(t), static_cast<reference::Index>(r)) = static_cast<double>((bits[t] >> r) & 1U);
      }
    }
  }
};
const std::vector<std::size_t> path{0, 2, 5, 8};

/// The keys of siblings are those of their shared position: here, of any numbers.
void grow(AnyCache& cache, const Text& text, const Tree& tree) {
  cache.append(0, text.key_rows(prompt, 9), text.value_rows(prompt, 9), tree.positions);
}

TEST(AmongOpen, DraftsSeeTheTextAndTheirAncestors) {
  const Text text(shape, prompt + 40, 3);
  const Tree tree;
  const std::vector<float> slopes{0.5F, 0.0625F, 0.0F, 0.01F};
  for (const std::string& policy : policies) {
    AnyCache cache = settled(policy, text, 9);
    grow(cache, text, tree);
    const auto near = [&](AttendOptions options) {
      options.among_open = tree.bits;
      AnyCache fork = cache.fork();
      EXPECT_LT(worst(fork, text, prompt, 9, options, {}, tree.among), 5e-4) << policy;
    };
    near({});
    near({.window = 20});
    near({.soft_cap = 2.0F, .window = 3});
    if (policy.find("snapkv") == std::string::npos && policy.find("quest") == std::string::npos &&
        policy.find("landmarks") == std::string::npos) {
      near({.alibi_slopes = slopes});
    }
    // The accepted path stays, as if nothing else had been there: in the outputs, in what is kept, and in what comes later.
    AnyCache linear = settled(policy, text, 9);
    Text of_path(shape, 4, 1);
    for (std::size_t i = 0; i < 4; ++i) {
      std::copy_n(text.keys.begin() + static_cast<std::ptrdiff_t>((prompt + path[i]) * 32), 32,
                  of_path.keys.begin() + static_cast<std::ptrdiff_t>(i * 32));
      std::copy_n(text.values.begin() + static_cast<std::ptrdiff_t>((prompt + path[i]) * 32), 32,
                  of_path.values.begin() + static_cast<std::ptrdiff_t>(i * 32));
      std::copy_n(text.queries.begin() + static_cast<std::ptrdiff_t>((prompt + path[i]) * 64), 64,
                  of_path.queries.begin() + static_cast<std::ptrdiff_t>(i * 64));
    }
    const Outputs expected = step(linear, of_path, 0, 4);
    const Outputs drafts = attend(cache, text, prompt + 9, 9, 0, {.among_open = tree.bits});
    for (std::size_t i = 0; i < 4; ++i) {
      const auto of = [&](const Outputs& all, std::size_t t) { return std::span(all).subspan(t * 64, 64); };
      EXPECT_LT(deviation(of(drafts, path[i]), of(expected, i)), 2e-5) << policy;
    }
    AnyCache loaded = make(policy, 9);
    load_from(loaded, saved(cache));
    for (AnyCache* one : {&cache, &loaded}) {
      one->keep_open(0, path);
      EXPECT_EQ(one->tokens(), 204U);
      EXPECT_LT(deviation(attend(*one, of_path, 4, 1), std::span(expected).last(64)), 2e-5) << policy;
    }
    for (std::size_t t = 204; t < 212; ++t) {
      const Outputs wanted = step(linear, text, t, 1);
      EXPECT_LT(deviation(step(cache, text, t, 1), wanted), 2e-5) << policy << " " << t;
      EXPECT_LT(deviation(step(loaded, text, t, 1), wanted), 2e-5) << policy << " " << t;
      for (std::size_t head = 0; head < 2; ++head) { EXPECT_EQ(cache.kept(0, head), linear.kept(0, head)) << policy; }
    }
  }
}

TEST(AmongOpen, ATreeIsTruncatedByPosition) {
  const Text text(shape, prompt + 40, 4);
  Tree tree;  // depth first: rows are not in order
  tree.positions = {200, 201, 202, 203, 201, 202, 200, 201, 202};
  for (const std::string policy : {"f32", "kivi4:residual=32", "h2o:budget=90", "streaming:sinks=4,window=60"}) {
    AnyCache cache = settled(policy, text, 9);
    AnyCache shorter = cache.fork();
    grow(cache, text, tree);
    const File grown = saved(cache);
    EXPECT_EQ(cache.tokens(), 204U);
    cache.truncate(202);
    EXPECT_EQ(cache.tokens(), 202U);
    const std::vector<std::size_t> lower{0, 1, 4, 6, 7};
    const auto row_of = [&](auto&& rows, std::size_t t) { return rows(prompt + lower[t], 1); };
    std::vector<float> keys, values;
    for (std::size_t t = 0; t < 5; ++t) {
      for (std::size_t h = 0; h < 2; ++h) {
        for (auto* numbers : {&keys, &values}) { numbers->resize(numbers->size() + 16); }
        row_of([&](std::size_t first, std::size_t count) { return text.key_rows(first, count); }, t).load(0, h, &*(keys.end() - 16));
        row_of([&](std::size_t first, std::size_t count) { return text.value_rows(first, count); }, t).load(0, h, &*(values.end() - 16));
      }
    }
    const std::vector<Position> positions{200, 201, 201, 200, 201};
    shorter.append(0, Rows::tokens_first(keys.data(), 5, 2, 16), Rows::tokens_first(values.data(), 5, 2, 16), positions);
    EXPECT_EQ(saved(cache), saved(shorter)) << policy;
    const std::vector<std::size_t> one{3, 4};
    cache.keep_open(0, one);
    EXPECT_EQ(cache.tokens(), 202U);
    cache.keep_open(0, {});
    EXPECT_EQ(cache.tokens(), 200U);
    EXPECT_LT(deviation(step(cache, text, 200, 1), step(*std::make_unique<AnyCache>(settled(policy, text, 9)), text, 200, 1)), 1e-6);
  }
}

/// Queries of one call are observed over the rows of all of them; some of these may be taken back.
TEST(AmongOpen, WhatDraftsSawOfRowsThatGoIsForgotten) {
  const Text text(shape, prompt + 40, 6);
  AnyCache cache = settled("h2o:budget=90", text, 4);
  AnyCache expected = settled("h2o:budget=90", text, 4);
  static_cast<void>(step(cache, text, prompt, 4));
  cache.truncate(prompt + 2);
  static_cast<void>(step(expected, text, prompt, 2));
  EXPECT_EQ(saved(cache), saved(expected));
  AnyCache some = settled("h2o:budget=90", text, 4);
  static_cast<void>(step(some, text, prompt, 4));
  const std::vector<std::size_t> two{0, 1};
  some.keep_open(0, two);
  EXPECT_EQ(saved(some), saved(expected));
}

TEST(Masks, BadOnesAreRefused) {
  const Text text(shape, prompt + 40, 5);
  AnyCache cache = settled("f16", text);
  const auto refused = [&](AnyCache& of, const std::string& sentence, auto&& act) {
    const File before = saved(of);
    try {
      act();
      ADD_FAILURE() << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: " + sentence); }
    EXPECT_EQ(saved(of), before) << sentence;
  };
  const auto asking = [&](const std::string& sentence, std::size_t count, const AttendOptions& options) {
    refused(cache, sentence, [&] { static_cast<void>(attend(cache, text, prompt + 9, count, 0, options)); });
  };
  cache.append(0, text.key_rows(prompt, 9), text.value_rows(prompt, 9));
  const std::vector<Position> until{208, 209}, low{207, 209}, high{208, 210};
  const std::vector<std::uint64_t> bits{1, 3};
  asking("attend: until has 2 positions, must have one for each of the 3 queries", 3, {.until = until});
  asking("attend: until[0] is 207, must be above the query's position 207 and at most 209, the position after the newest row", 2,
         {.until = low});
  asking("attend: until[1] is 210, must be above the query's position 208 and at most 209, the position after the newest row", 2,
         {.until = high});
  asking("attend: until and among_open are given, must be one of them", 2, {.until = until, .among_open = bits});
  asking("attend: query_position is 300, must be the default with until or among_open, which are about the newest rows", 2,
         {.until = until, .query_position = 300});
  asking("attend: among_open has 2 words, must have 1 for each of 3 queries: a bit for each of the 9 rows since the last commit", 3,
         {.among_open = bits});
  const std::vector<std::size_t> far{2, 9}, twice{2, 2};
  refused(cache, "keep_open: rows[1] is 9, must be at least 3, and less than the 9 rows since the last commit",
          [&] { cache.keep_open(0, far); });
  refused(cache, "keep_open: rows[1] is 2, must be at least 3, and less than the 9 rows since the last commit",
          [&] { cache.keep_open(0, twice); });

  const Tree tree;
  AnyCache grown = settled("f16", text);
  grow(grown, text, tree);
  const std::vector<std::size_t> siblings{0, 1};
  refused(grown, "keep_open: rows[1] is at position 200, must be above that of the row before it: they are a path",
          [&] { grown.keep_open(0, siblings); });
  refused(grown, "attend: among_open is empty, must say which of the 9 open rows each query sees: they are a tree of drafts",
          [&] { static_cast<void>(attend(grown, text, prompt + 9, 9)); });
  for (const std::string verb : {"commit", "append", "end_prompt", "begin_prompt"}) {
    refused(grown,
            verb + "(layer = 0) while its open rows are a tree of drafts: keep_open(layer, rows) first, which says those that are accepted",
            [&] {
      if (verb == "commit") { grown.commit(0); }
      if (verb == "append") { grown.append(0, text.key_rows(0, 1), text.value_rows(0, 1)); }
      if (verb == "end_prompt") { grown.end_prompt(0); }
      if (verb == "begin_prompt") { grown.begin_prompt(0); }
    });
  }
  AnyCache fresh = make("f16");
  refused(fresh, "append: positions[1] is 200, must be above the one before it, 200, while a prompt is open: its rows come in order",
          [&] { grow(fresh, text, tree); });
  AnyCache observed = settled("h2o:budget=90", text, 3);
  grow(observed, text, tree);
  static_cast<void>(attend(observed, text, prompt + 9, 9, 0, {.among_open = tree.bits}));
  refused(observed,
          "keep_open: position 200 goes, must be at least 203: observed queries before it are counted already (Options::speculation is 3)",
          [&] { observed.keep_open(0, path); });
}

}  // namespace masks_test
