// tests/matrix/matrix_test.cpp - what every composition promises: eviction x storage x retrieval, over several layers.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <optional>

#include "matrix/cells.hpp"
#include "support/counting_memory.hpp"

namespace matrix_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr std::size_t prompt = 150;

/// One text per layer.
struct Texts {
  explicit Texts(std::size_t tokens, unsigned seed) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      of_layer.emplace_back(shape, tokens, seed + static_cast<unsigned>(layer));
    }
  }
  std::vector<Text> of_layer;
};

/// Appends and attends tokens [first, first + count) of every layer: the outputs of all layers.
Outputs forward(AnyCache& cache, const Texts& texts, std::size_t first, std::size_t count, const AttendOptions& options = {}) {
  Outputs all;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    const Outputs out = step(cache, texts.of_layer[layer], first, count, layer, options);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}
void commit(AnyCache& cache) {
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.commit(layer); }
}
void end_prompt(AnyCache& cache) {
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.end_prompt(layer); }
}
/// Tokens [first, last), in steps of 1, 2, 3, 1, ... tokens.
Outputs go_on(AnyCache& cache, const Texts& texts, std::size_t first, std::size_t last) {
  Outputs all;
  for (std::size_t t = first, count = 0; t < last; t += count) {
    count = std::min(t % 3 + 1, last - t);
    const Outputs out = forward(cache, texts, t, count);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

class Matrix : public ::testing::TestWithParam<Cell> {
 protected:
  static AnyCache make(const Settings& settings, const Memory& memory = {}) { return GetParam().make(shape, settings, memory); }
  /// A cache that has seen tokens [0, end), everything committed.
  static AnyCache at(const Texts& texts, std::size_t end, const Settings& settings, const Memory& memory = {}) {
    auto cache = make(settings, memory);
    static_cast<void>(forward(cache, texts, 0, prompt));
    end_prompt(cache);
    static_cast<void>(go_on(cache, texts, prompt, end));
    commit(cache);
    return cache;
  }
};

TEST_P(Matrix, OutputsAreAttentionOverTheHeldRows) {
  const Texts texts(300, 1);
  for (const Accumulation mode : tested_modes) {
    auto cache = make({.budget = 48, .accumulation = mode});
    for (std::size_t first = 0, count = 0; first < 300; first += count) {
      count = first == 0 ? prompt : std::min<std::size_t>(first % 7 == 0 ? 5 : 1, 300 - first);
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        const Outputs out = step(cache, texts.of_layer[layer], first, count, layer);
        if (first % 11 != 0) { continue; }
        const Outputs expected = attention_over_held_rows(cache, texts.of_layer[layer], first + count, count, layer);
        ASSERT_LT(deviation(out, expected), 4e-5 + accumulation_slack(mode))
            << "tokens " << first << " to " << first + count << ", layer " << layer;
      }
      first == 0 ? end_prompt(cache) : commit(cache);
    }
    if (!GetParam().encodes()) { break; }
  }
}

TEST_P(Matrix, AQueryHasTheSameBitsInAnyCompany) {
  const Texts texts(250, 9);
  auto cache = at(texts, 200, {.budget = 48, .reads = 32});
  auto together = cache.fork();
  std::vector<Outputs> all;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { all.push_back(step(together, texts.of_layer[layer], 200, 50, layer)); }
  for (const std::size_t end : {201U, 202U, 207U, 233U, 250U}) {
    auto fewer = cache.fork();
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Text& text = texts.of_layer[layer];
      fewer.append(layer, text.key_rows(200, end - 200), text.value_rows(200, end - 200));
      for (const std::size_t count : {std::size_t{1}, std::min<std::size_t>(7, end - 200)}) {
        const auto at = [&](std::size_t token) {
          return all[layer].begin() + static_cast<std::ptrdiff_t>((token - 200) * text.output_width());
        };
        ASSERT_TRUE(attend(fewer, text, end, count, layer) == Outputs(at(end - count), at(end)))
            << count << " queries up to token " << end << ", layer " << layer;
      }
    }
  }
}

TEST_P(Matrix, ABudgetOfTheVisibleRowsReadsThemAll) {
  Texts texts(210, 9);
  for (Text& text : texts.of_layer) {  // what is hidden would be chosen first
    for (std::size_t i = 0; i < 100 * shape.kv_heads * shape.head_dim; ++i) { text.keys[i] *= 4.0F; }
  }
  const AttendOptions hiding[]{{.window = 30}, {.start = 170}, {.window = 30, .start = 185}, {.soft_cap = 3.0F, .window = 30}};
  auto cache = at(texts, 180, {.budget = 48, .reads = 32, .accumulation = Accumulation::exact});
  for (std::size_t t = 180; t < 201; t += 3) {
    const AttendOptions& options = hiding[t / 3 % 4];
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Outputs out = step(cache, texts.of_layer[layer], t, 3, layer, options);
      const Outputs expected = attention_over_held_rows(cache, texts.of_layer[layer], t + 3, 3, layer, options);
      ASSERT_LT(deviation(out, expected), 4e-5) << "token " << t << ", layer " << layer;
    }
    commit(cache);
  }
}

TEST_P(Matrix, PaddingIsGoneWithThePromptIfAnythingIs) {
  if (!GetParam().evicts()) { return; }
  const Texts texts(180, 10);
  for (const std::size_t padding : {1U, 60U, 147U, 150U}) {  // the last leaves nothing of the prompt
    const AttendOptions options{.start = static_cast<Position>(padding)};
    auto padded = make({.budget = 48, .reads = 32});
    auto plain = make({.budget = 48, .reads = 32});
    static_cast<void>(forward(padded, texts, 0, prompt, options));
    end_prompt(padded);
    for (std::size_t layer = 0; layer < shape.layers && padding < prompt; ++layer) {
      const Text& text = texts.of_layer[layer];
      plain.append(layer, text.key_rows(padding, prompt - padding), text.value_rows(padding, prompt - padding),
                   static_cast<Position>(padding));
      static_cast<void>(attend(plain, text, prompt, prompt - padding, layer));
    }
    if (padding < prompt) { end_prompt(plain); }
    for (std::size_t t = prompt; t < 180 && padding < prompt; ++t) {
      ASSERT_LT(deviation(forward(padded, texts, t, 1, options), forward(plain, texts, t, 1)), 4e-5)
          << padding << " of padding, token " << t;
      commit(padded);
      commit(plain);
      for (std::size_t layer = 0; layer < shape.layers; ++layer) { ASSERT_EQ(padded.kept(layer, 1), plain.kept(layer, 1)); }
    }
    if (padding == prompt) {
      EXPECT_TRUE(padded.kept(0, 0).empty());
      const Outputs out = step(padded, texts.of_layer[0], prompt, 9, 0, options);
      EXPECT_LT(deviation(out, attention_over_held_rows(padded, texts.of_layer[0], prompt + 9, 9, 0, options)), 4e-5);
    }
  }
}

TEST_P(Matrix, EveryLaneHoldsItsBudgetAndTheNewestRows) {
  const Texts texts(400, 2);
  auto cache = make({.budget = 48, .reads = 32});
  static_cast<void>(forward(cache, texts, 0, prompt));
  end_prompt(cache);
  for (std::size_t t = prompt; t < 400; ++t) {
    static_cast<void>(forward(cache, texts, t, 1));
    commit(cache);
    if (t % 16 != 0) { continue; }
    std::size_t held = 0;
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      for (std::size_t lane = 0; lane < shape.kv_heads; ++lane) {
        const auto kept = cache.kept(layer, lane);
        held += kept.size();
        if (!GetParam().uneven()) {
          ASSERT_LE(kept.size(), GetParam().evicts() ? 48 : t + 1);
          ASSERT_GE(kept.size(), GetParam().evicts() ? 32 : t + 1);
        }
        for (std::size_t i = 0; i < 8; ++i) { ASSERT_EQ(kept[kept.size() - 1 - i], t - i); }
      }
    }
    if (GetParam().uneven()) { ASSERT_LE(held, 48 * shape.layers * shape.kv_heads + shape.layers); }  // official budgets are rounded
  }
}

TEST_P(Matrix, ChunksOfAPromptAndTheOrderOfLayersChangeNothing) {
  const Texts texts(200, 3);
  auto expected = at(texts, prompt, {.budget = 48, .reads = 32});
  auto cache = make({.budget = 48, .reads = 32});
  for (std::size_t first = 0; first < prompt; first += 40) {
    static_cast<void>(forward(cache, texts, first, std::min<std::size_t>(40, prompt - first)));
  }
  for (std::size_t layer = shape.layers; layer > 0; --layer) { cache.end_prompt(layer - 1); }
  EXPECT_TRUE(go_on(cache, texts, prompt, 200) == go_on(expected, texts, prompt, 200));
}

TEST_P(Matrix, ForksAndCopiesAreIndependent) {
  const Texts texts(230, 4);
  const Texts others(230, 14);
  const Settings settings{.budget = 48, .reads = 32};
  CountingMemory memory;
  {
    auto origin = at(texts, 170, settings, memory.handle());
    auto fork = origin.fork();
    EXPECT_EQ(origin.memory().total() + fork.memory().total() - origin.memory().shared, memory.bytes);
    EXPECT_GT(fork.memory().shared, fork.memory().total() / 3);
    auto copy = AnyCache(origin);
    EXPECT_EQ(copy.memory().shared, 0U);
    const Outputs other = go_on(fork, others, 170, 230);
    AnyCache same = at(texts, 170, settings);
    const Outputs expected = go_on(same, texts, 170, 230);
    EXPECT_TRUE(go_on(copy, texts, 170, 230) == expected) << "the copy";
    EXPECT_TRUE(go_on(origin, texts, 170, 230) == expected) << "the origin";
    EXPECT_FALSE(other == expected);
    auto again = at(texts, 170, settings);
    EXPECT_TRUE(go_on(again, others, 170, 230) == other) << "the fork";
    EXPECT_EQ(origin.memory().total() + fork.memory().total() + copy.memory().total() - origin.memory().shared, memory.bytes);
  }
  EXPECT_EQ(memory.bytes, 0U);
}

TEST_P(Matrix, TruncatedTokensWereNeverThere) {
  const Texts texts(230, 5);
  const Texts others(230, 15);
  const Settings settings{.budget = 48, .reads = 32, .speculation = 8};
  auto expected = at(texts, 170, settings);
  auto cache = at(texts, 170, settings);
  for (std::size_t t = 170; t < 224; t += 6) {
    static_cast<void>(forward(cache, others, t, 8));  // a guess, none of which holds
    cache.truncate(static_cast<Position>(t));
    EXPECT_TRUE(go_on(cache, texts, t, t + 6) == go_on(expected, texts, t, t + 6)) << "after truncating to " << t;
    commit(cache);
    commit(expected);
  }
}

TEST_P(Matrix, RemovedPositionsAreGone) {
  const Texts texts(230, 6);
  auto cache = at(texts, 170, {.budget = 48});
  cache.remove(2, 5);
  cache.remove(152, 160);
  const double bound = 4e-5 + (GetParam().encodes() ? accumulation_slack(Accumulation::near_exact) : 0.0);
  for (std::size_t t = 170; t < 230; t += 3) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Outputs out = step(cache, texts.of_layer[layer], t, 3, layer);
      const Outputs expected = attention_over_held_rows(cache, texts.of_layer[layer], t + 3, 3, layer);
      ASSERT_LT(deviation(out, expected), bound) << "token " << t << ", layer " << layer;
      const auto kept = cache.kept(layer, 1);
      ASSERT_TRUE(std::none_of(kept.begin(), kept.end(), [](Position p) { return (p >= 2 && p < 5) || (p >= 152 && p < 160); }));
    }
    commit(cache);
  }
  cache.clear();
  EXPECT_EQ(cache.tokens(0), 0U);
}

TEST_P(Matrix, ReportedBytesAreAllocatedBytes) {
  const Texts texts(420, 7);
  CountingMemory memory;
  {
    auto cache = make({.budget = 48, .reads = 32}, memory.handle());
    static_cast<void>(forward(cache, texts, 0, prompt));
    ASSERT_EQ(cache.memory().total(), memory.bytes) << "prompt";
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      cache.end_prompt(layer);
      ASSERT_EQ(cache.memory().total(), memory.bytes) << "end of the prompt of layer " << layer;
    }
    for (std::size_t t = prompt; t < 420; ++t) {
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        static_cast<void>(step(cache, texts.of_layer[layer], t, 1, layer));
        ASSERT_EQ(cache.memory().total(), memory.bytes) << "token " << t << ", layer " << layer;
      }
      if (t % 50 == 0) {
        commit(cache);
        cache.remove(static_cast<Position>(t - 30), static_cast<Position>(t - 20));
        ASSERT_EQ(cache.memory().total(), memory.bytes) << "remove at token " << t;
      }
      if (t == 303) {
        for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.end_prompt(layer); }
        ASSERT_EQ(cache.memory().total(), memory.bytes) << "a second prompt";
      }
    }
    cache.reserve(600);
    ASSERT_EQ(cache.memory().total(), memory.bytes) << "reserve";
  }
  EXPECT_EQ(memory.bytes, 0U);
  EXPECT_EQ(memory.live, 0U);
}

/// A prompt, its end and some tokens, with a verb that meets a refusal called again.
Outputs insist(const Cell& cell, CountingMemory& memory, std::size_t refuse_after, const Texts& texts) {
  const auto again = [&](auto&& verb) {
    try {
      return verb();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::memory) << error.what();
      memory.allow();
    }
    verb();
  };
  memory.refuse_after(refuse_after);
  std::optional<AnyCache> made;
  again([&] { made = cell.make(shape, {.budget = 32, .reads = 16}, memory.handle()); });
  AnyCache& cache = *made;
  Outputs all;
  std::vector<Workspace> workspaces(1, Workspace(shape));  // of the default handle
  for (std::size_t t = 0, count = 0; t < 96; t += count) {
    count = t == 0 ? 64 : 1;
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Text& text = texts.of_layer[layer];
      again([&] { cache.append(layer, text.key_rows(t, count), text.value_rows(t, count)); });
      Outputs out(count * text.output_width());
      again([&] {
        cache.attend(layer, text.query_rows(t, count), Output::tokens_first(out.data(), count, shape.query_heads, shape.head_dim),
                     workspaces.front(), {}, HeadRange{});
      });
      all.insert(all.end(), out.begin(), out.end());
    }
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      again([&] { t == 0 ? cache.end_prompt(layer) : cache.commit(layer); });
    }
  }
  memory.allow();
  return all;
}

TEST_P(Matrix, ARefusedAllocationLosesNothing) {
  const Texts texts(96, 8);
  CountingMemory plenty;
  const Outputs expected = insist(GetParam(), plenty, static_cast<std::size_t>(-1), texts);
  ASSERT_EQ(plenty.live, 0U);
  for (std::size_t n = 0; n < plenty.calls; n += 1 + n / 40) {
    CountingMemory memory;
    Outputs out;
    ASSERT_NO_THROW(out = insist(GetParam(), memory, n, texts)) << "refused at allocation " << n;
    EXPECT_EQ(memory.live, 0U) << "leak after a refusal at allocation " << n;
    ASSERT_LT(deviation(out, expected), 1e-5) << "refused at allocation " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Cells, Matrix, ::testing::ValuesIn(all_cells()), [](const auto& cell_info) {
  std::string name = cell_info.param.name;
  std::replace(name.begin(), name.end(), '+', '_');
  return name;
});

/// What stands in the README, and the sentences below it.
TEST(MatrixOfNames, StandsInTheReadme) {
  const Registry& registry = examples::registry();
  const std::vector<std::string> works = registry.policies();
  const auto refused = registry.refused();
  const std::vector<std::string> storages{"f16", "kivi4", "rot4", "gear4", "xkv", "shadowkv"};
  std::vector<std::string> evictions{""};
  for (const PartInfo& part : registry.parts()) {
    if (part.kind == "eviction") { evictions.push_back(part.name); }
  }
  std::vector<std::string_view> sentences;
  const auto state = [&](std::string policy) -> std::string {
    if (policy.starts_with("+")) { policy = policy.substr(1); }
    if (std::find(works.begin(), works.end(), policy) != works.end()) { return "yes"; }
    for (const auto& [name, sentence] : refused) {
      if (name != policy) { continue; }
      if (std::find(sentences.begin(), sentences.end(), sentence) == sentences.end()) { sentences.push_back(sentence); }
      return "no (" + std::to_string(std::find(sentences.begin(), sentences.end(), sentence) - sentences.begin() + 1) + ")";
    }
    return "-";
  };
  std::string table = "| read in full / by Quest |";
  for (const std::string& storage : storages) { table += " " + storage + " |"; }
  table += "\n|---|---|---|---|---|---|---|\n";
  for (const std::string& eviction : evictions) {
    table += "| " + (eviction.empty() ? "(all rows stay)" : eviction) + " |";
    for (const std::string& storage : storages) {
      const bool exact = storage == "f16";
      const std::string alone = exact ? (eviction.empty() ? "f16" : eviction) : eviction + "+" + storage;
      const std::string paged = exact ? eviction + "+quest" : eviction + "+" + storage + "+quest";
      table += " " + state(alone) + " / " + state(paged) + " |";
    }
    table += "\n";
  }
  for (std::size_t i = 0; i < sentences.size(); ++i) { table += "\n(" + std::to_string(i + 1) + ") " + std::string(sentences[i]) + ".\n"; }
  std::ifstream file(KVCOMPRESS_README);
  const std::string readme{std::istreambuf_iterator<char>(file), {}};
  EXPECT_NE(readme.find(table), std::string::npos) << "README.md must contain the matrix as the names have it:\n" << table;
}

}  // namespace matrix_test
