// tests/persistence/all_or_nothing_test.cpp - memory refused at any allocation of any verb: an Error, and the cache is what it was.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>

#include "registry/registry.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace all_or_nothing_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

struct Case {
  const char* policy;
  std::size_t layers;
  std::size_t steps;     // decoded, so that evictions, encodings and rebuilds fall due
  bool fetches = false;  // what attend brings to hand may stay there, and is saved
  bool writes = true;    // rows may be written in place
  std::size_t window = 0;
};

/// What a cache holds: its file, and bytes by purpose, without scratch and spare room.
struct Held {
  File file;
  std::vector<std::size_t> bytes;
  friend bool operator==(const Held&, const Held&) = default;
};
Held content_of(const AnyCache& cache) {
  const MemoryReport report = cache.memory();
  return {saved(cache),
          {report.codes, report.scales, report.exact_rows, report.factors, report.outliers, report.positions, report.policy_state,
           report.indices, report.slow_tier, report.slow_file}};
}

class AllOrNothing : public ::testing::TestWithParam<Case> {
 protected:
  using Verb = std::function<Outputs(AnyCache&, Workspace&)>;

  /// Calls the verb on copies and forks of `origin`, with memory refused at its first, second, ... allocation, until it succeeds.
  void expect_all_or_nothing(const AnyCache& origin, const std::string& name, const Verb& verb, bool attends = false) {
    const bool compare = !(attends && GetParam().fetches);
    for (const bool fork : {false, true}) {
      const auto fresh = [&] { return fork ? origin.fork() : AnyCache(origin); };
      auto twin = fresh();
      Workspace plenty(shape);
      const Outputs expected = verb(twin, plenty);
      const File after = saved(twin);
      bool refused = true;
      for (std::size_t n = 0; refused && !HasFailure(); ++n) {
        SCOPED_TRACE(name + (fork ? " of a fork" : " of a copy") + ", refused at allocation " + std::to_string(n));
        auto cache = fresh();
        const Held before = content_of(cache);
        Workspace scratch(shape, memory.handle());
        memory.refuse_after(n);
        refused = false;
        Outputs out;
        try {
          out = verb(cache, scratch);
        } catch (const Error& error) {
          refused = true;
          EXPECT_EQ(error.code(), ErrorCode::memory) << error.what();
        }
        memory.allow();
        if (refused) {
          EXPECT_TRUE(!compare || content_of(cache) == before) << "it has changed";
          out = verb(cache, plenty);
        }
        EXPECT_TRUE(out == expected) << "other outputs";
        EXPECT_TRUE(!compare || saved(cache) == after) << "another result";
      }
    }
  }
  void append(AnyCache& cache, std::size_t layer, std::size_t first, std::size_t count) const {
    cache.append(layer, text.key_rows(first, count), text.value_rows(first, count));
  }
  Outputs look(AnyCache& cache, Workspace& scratch, std::size_t layer, std::size_t end, std::size_t count) const {
    Outputs out(count * text.output_width());
    cache.attend(layer, text.query_rows(end - count, count),
                 Output::tokens_first(out.data(), count, shape.query_heads, shape.value_width()), scratch, {}, {});
    return out;
  }
  Verb appending(std::size_t layer, std::size_t first, std::size_t count) const {
    return [=, this](AnyCache& cache, Workspace&) {
      append(cache, layer, first, count);
      return Outputs{};
    };
  }
  Verb attending(std::size_t layer, std::size_t end, std::size_t count) const {
    return [=, this](AnyCache& cache, Workspace& scratch) { return look(cache, scratch, layer, end, count); };
  }
  static Verb calling(std::function<void(AnyCache&)> work) {
    return [work = std::move(work)](AnyCache& cache, Workspace&) {
      work(cache);
      return Outputs{};
    };
  }

  void prompt(AnyCache& cache) {
    expect_all_or_nothing(cache, "append", appending(0, 0, 40));
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      append(cache, layer, 0, 40);
      static_cast<void>(look(cache, workspace, layer, 40, 40));
    }
    expect_all_or_nothing(cache, "append of another chunk", appending(0, 40, first_prompt - 40));
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { append(cache, layer, 40, first_prompt - 40); }
    expect_all_or_nothing(cache, "attend", attending(shape.layers - 1, first_prompt, first_prompt - 40));
    std::vector<Position> positions;
    for (std::size_t t = 40; t < first_prompt; ++t) { positions.push_back(static_cast<Position>(t)); }
    expect_all_or_nothing(cache, "observe",
                          calling([&](AnyCache& one) { one.observe(0, text.query_rows(40, first_prompt - 40), positions, {}, nullptr); }));
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      static_cast<void>(look(cache, workspace, layer, first_prompt, first_prompt - 40));
    }
    expect_all_or_nothing(cache, "truncate", calling([](AnyCache& one) { one.truncate(first_prompt); }));
    expect_all_or_nothing(cache, "copy, fork and save", calling([](AnyCache& one) {
                            static_cast<void>(AnyCache(one));
                            static_cast<void>(one.fork());
                            static_cast<void>(saved(one));
                          }));
    const File open = saved(cache);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      expect_all_or_nothing(cache, "end_prompt", calling([=](AnyCache& one) { one.end_prompt(layer); }));
      cache.end_prompt(layer);
    }
    expect_all_or_nothing(cache, "load", calling([&](AnyCache& one) { load_from(one, open); }));
  }
  /// Returns the tokens seen.
  std::size_t decode(AnyCache& cache) {
    std::size_t t = first_prompt;
    for (std::size_t k = 0; k < GetParam().steps; ++k) {
      const std::size_t count = k % 11 == 5 ? 7 : 1;
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        expect_all_or_nothing(cache, "append at token " + std::to_string(t), appending(layer, t, count));
        append(cache, layer, t, count);
        if (k % 7 == 3) { expect_all_or_nothing(cache, "attend", attending(layer, t + count, count), true); }
        static_cast<void>(look(cache, workspace, layer, t + count, count));
        if (k % 5 == 2) {
          expect_all_or_nothing(cache, "commit at token " + std::to_string(t), calling([=](AnyCache& one) { one.commit(layer); }));
          expect_all_or_nothing(cache, "begin_prompt", calling([=](AnyCache& one) { one.begin_prompt(layer); }));
        }
        if (k % 13 == 12) { cache.commit(layer); }
      }
      t += count;
      if (k % 9 == 8) { expect_all_or_nothing(cache, "append of many", appending(shape.layers - 1, t, 90)); }
    }
    return t;
  }
  void everything_else(AnyCache& cache, std::size_t t) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.commit(layer); }
    const auto last = static_cast<Position>(t);
    expect_all_or_nothing(cache, "remove", calling([](AnyCache& one) { one.remove(5, 60); }));
    expect_all_or_nothing(cache, "remove of most", calling([=](AnyCache& one) { one.remove(1, last - 3); }));
    expect_all_or_nothing(cache, "reserve", calling([](AnyCache& one) { one.reserve(600); }));
    expect_all_or_nothing(cache, "clear", calling([](AnyCache& one) { one.clear(); }));
    expect_all_or_nothing(cache, "read", [this](AnyCache& one, Workspace&) {
      Outputs row(shape.key_width() + shape.value_width());
      one.read(0, 0, 0, row.data(), row.data() + shape.key_width());
      return row;
    });
    cache.remove(3, 20);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      cache.begin_prompt(layer);
      append(cache, layer, t, 20);
      static_cast<void>(look(cache, workspace, layer, t + 20, 20));
      expect_all_or_nothing(cache, "append to a second prompt", appending(layer, t + 20, 30));
      append(cache, layer, t + 20, 30);
      static_cast<void>(look(cache, workspace, layer, t + 50, 30));
    }
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      expect_all_or_nothing(cache, "end_prompt of a second prompt", calling([=](AnyCache& one) { one.end_prompt(layer); }));
      cache.end_prompt(layer);
    }
  }

  static constexpr std::size_t first_prompt = 70;
  const Shape shape{
      .layers = GetParam().layers, .query_heads = 2, .kv_heads = 2 / GetParam().layers, .head_dim = 16, .window = GetParam().window};
  const Text text{shape, 400, 3};
  CountingMemory memory;
  Workspace workspace{shape};
};

TEST_P(AllOrNothing, AVerbThatIsRefusedMemoryChangesNothing) {
  {
    auto cache = registry().make(GetParam().policy, shape, memory.handle());
    prompt(cache);
    const std::size_t tokens = decode(cache);
    everything_else(cache, tokens);
  }
  EXPECT_EQ(memory.live, 0U);
}

/// Verbs of drafts, of what is known of tokens, and of rows that are written in place.
class AllOrNothingOfDrafts : public AllOrNothing {};
TEST_P(AllOrNothingOfDrafts, AVerbThatIsRefusedMemoryChangesNothing) {
  const std::vector<std::uint8_t> kinds(80, 1);
  const std::vector<Position> ends{10, 50, 72};
  const std::vector<Position> tree{71, 72, 72, 73};
  const std::vector<std::size_t> path{0, 2};
  const auto grow = [&](AnyCache& one, std::size_t layer) { one.append(layer, text.key_rows(71, 4), text.value_rows(71, 4), tree); };
  {
    AnyCache cache = registry().make(GetParam().policy, shape, memory.handle());
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      append(cache, layer, 0, first_prompt);
      static_cast<void>(look(cache, workspace, layer, first_prompt, first_prompt));
      cache.end_prompt(layer);
      append(cache, layer, first_prompt, 1);
      static_cast<void>(look(cache, workspace, layer, first_prompt + 1, 1));
      cache.commit(layer);
    }
    expect_all_or_nothing(cache, "describe", calling([&](AnyCache& one) { one.describe(0, std::span(kinds).first(30), {}); }));
    cache.describe(0, std::span(kinds).first(30), std::span(ends).first(1));
    expect_all_or_nothing(cache, "describe of more",
                          calling([&](AnyCache& one) { one.describe(20, std::span(kinds).first(60), std::span(ends).last(2)); }));
    cache.describe(0, kinds, ends);
    expect_all_or_nothing(cache, "append of a tree", calling([&](AnyCache& one) { grow(one, 0); }));
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { grow(cache, layer); }
    expect_all_or_nothing(cache, "truncate of a tree", calling([](AnyCache& one) { one.truncate(72); }));
    expect_all_or_nothing(cache, "keep_open", calling([&](AnyCache& one) { one.keep_open(0, path); }));
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.keep_open(layer, path); }
    if (GetParam().writes) {
      const std::vector<Position> at{72};
      expect_all_or_nothing(cache, "write", calling([&](AnyCache& one) { one.write(0, at, text.key_rows(9, 1), text.value_rows(9, 1)); }));
    }
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.commit(layer); }
    expect_all_or_nothing(cache, "shift", calling([](AnyCache& one) { one.shift(40, 100, 30); }));
  }
  EXPECT_EQ(memory.live, 0U);
}

/// The slow tier's directory goes away before the prompt ends. Later rows go into the file that is open then, so they need no directory.
TEST(SlowTier, ADirectoryThatIsGoneChangesNothing) {
  const Shape shape{.query_heads = 2, .kv_heads = 2, .head_dim = 16};
  const Text text(shape, 200, 4);
  char directory[] = "/tmp/kvcompress-test-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  auto cache =
      registry().make(std::string("shadowkv:budget=16,outlier_chunks=2,local_chunks=2,fold_in=8,rank=8,directory=") + directory, shape);
  static_cast<void>(step(cache, text, 0, 70));
  ASSERT_EQ(::rmdir(directory), 0);
  const Held before = content_of(cache);
  try {
    cache.end_prompt(0);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) { EXPECT_EQ(error.code(), ErrorCode::io) << error.what(); }
  EXPECT_TRUE(content_of(cache) == before);
  ASSERT_EQ(::mkdir(directory, 0700), 0);
  cache.end_prompt(0);
  ASSERT_EQ(::rmdir(directory), 0);
  for (std::size_t t = 70; t < 120; ++t) { cache.append(0, text.key_rows(t, 1), text.value_rows(t, 1)); }
  EXPECT_EQ(cache.tokens(0), 120U);
}

std::string name_of(const ::testing::TestParamInfo<Case>& of) {
  std::string name = of.param.policy;
  std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return of.param.window == 0 ? name : name + "_in_a_window";
}

INSTANTIATE_TEST_SUITE_P(Policies, AllOrNothingOfDrafts,
                         ::testing::Values(Case{"f16", 2, 0}, Case{"kivi4:residual=32", 1, 0}, Case{"rot4", 1, 0},
                                           Case{"h2o:budget=100", 1, 0, false, false},
                                           Case{"snapkv:budget=40,window=8+f16", 1, 0, false, false},
                                           Case{"quest:budget=32,page=8,dense_layers=0", 1, 0, true}),
                         name_of);
INSTANTIATE_TEST_SUITE_P(
    Policies, AllOrNothing,
    ::testing::Values(Case{"f16", 2, 10}, Case{"f16", 2, 14, false, true, 36},
                      Case{"h2o:budget=30+kivi4:residual=32", 1, 50, false, true, 60}, Case{"kivi4:residual=32", 1, 50},
                      Case{"h2o:budget=40", 1, 20}, Case{"h2o:budget=40+kivi4:residual=32", 1, 90}, Case{"d2o:budget=40,recent=10", 1, 16},
                      Case{"razorattention:window=36", 1, 16}, Case{"streaming:window=36", 2, 14},
                      Case{"streaming:window=36+kivi2:residual=32", 1, 60}, Case{"snapkv:budget=40,window=8,decode_budget=10", 1, 20},
                      Case{"snapkv:budget=40,window=8+kivi4:residual=32", 1, 12}, Case{"gear4:buffer=8,merge=2", 1, 24},
                      Case{"streaming:window=36+gear4:buffer=8", 1, 40}, Case{"xkv:layers_per_group=2,fold_in=8", 2, 12},
                      Case{"snapkv:budget=40,window=8+xkv:layers_per_group=2,fold_in=8", 2, 12},
                      Case{"quest:budget=32,page=8,dense_layers=0", 1, 16, true},
                      Case{"streaming:window=36+quest:budget=32,page=8,dense_layers=0", 1, 16, true},
                      Case{"xkv:layers_per_group=2,fold_in=8+quest:budget=32,page=8,dense_layers=0", 2, 6, true},
                      Case{"kivi4:residual=32+landmarks:budget=16,outlier_chunks=2,fold_in=8", 1, 20, true},
                      Case{"streaming:window=36,in_cache_positions=false+shadowkv:budget=16,outlier_chunks=2,fold_in=8,rank=8", 1, 12,
                           true},
                      Case{"shadowkv:budget=16,outlier_chunks=2,local_chunks=2,fold_in=8,rank=8", 1, 12, true},
                      Case{"shadowkv:budget=16,outlier_chunks=2,local_chunks=2,rank=8,directory=/tmp", 2, 5, true}),
    name_of);

}  // namespace all_or_nothing_test
