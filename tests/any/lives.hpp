// tests/any/lives.hpp - all verbs of a cache, one after the other, to compare one that is chosen at run time with the type.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace kvcompress::test {

/// Prompts of all layers and queries that look ahead of them, decoding with the own loop and with an executor, drafts by a plan of which the policy
/// sees nothing, a truncated one, a removed range: all outputs.
template <class Cache>
Outputs live(Cache& cache, const Text& text, const Shape& shape) {
  Outputs all;
  const auto keep = [&](const Outputs& out) { all.insert(all.end(), out.begin(), out.end()); };
  std::vector<Outputs> prompts;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    prompts.push_back(step(cache, text, 0, 150, layer, {.start = 3}));
    static_cast<void>(step(cache, text, 203, 4, layer, {.start = 3, .record = Record::kept}));
  }
  cache.truncate(150);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.end_prompt(layer); }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    keep(prompts[layer]);
    for (std::size_t t = 150; t < 200; ++t) { keep(step(cache, text, t, 1, layer, {.window = t % 2 == 0 ? 40U : 0U})); }
    cache.commit(layer);
  }
  Outputs drafts;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    cache.append(layer, text.key_rows(200, 3), text.value_rows(200, 3));
    Plan plan;
    cache.select(layer, text.query_rows(200, 1), plan, {.record = Record::none});
    const Outputs out = attend(cache, text, 203, 2, layer, {.record = Record::none, .plan = &plan});
    drafts.insert(drafts.end(), out.begin(), out.end());
  }
  cache.truncate(201);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { keep(attend(cache, text, 201, 1, layer)); }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.commit(layer); }
  cache.remove(20, 30);
  std::vector<Workspace> workspaces(2, Workspace(shape));
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    cache.append(layer, text.key_rows(201, 1), text.value_rows(201, 1));
    Outputs out(text.output_width());
    cache.attend(layer, text.query_rows(201, 1), Output::tokens_first(out.data(), 1, shape.query_heads, shape.value_width()), workspaces,
                 SerialExecutor{});
    keep(out);
  }
  keep(drafts);
  return all;
}

/// The bytes of the erased objects aside, which lie under indices.
inline void expect_same_memory(const MemoryReport& named, MemoryReport typed, const Shape& shape) {
  EXPECT_GE(named.indices, typed.indices);
  EXPECT_LE(named.indices - typed.indices, shape.layers * shape.kv_heads * 256);
  typed.indices = named.indices;
  typed.shared = named.shared;
  typed.scratch = named.scratch;
  EXPECT_EQ(std::memcmp(&named, &typed, sizeof named), 0);
}

/// Whether `named`, a cache of the same composition as `typed`, gives the same numbers, and either loads what the other saved.
template <class Named, class Typed>
void expect_same(Named& named, Typed& typed, const Shape& shape) {
  const Text text(shape, 210, 7);
  EXPECT_EQ(live(named, text, shape), live(typed, text, shape));
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; head < shape.kv_heads; ++head) { EXPECT_EQ(named.kept(layer, head), typed.kept(layer, head)); }
  }
  EXPECT_EQ(saved(named), saved(typed));
  expect_same_memory(named.memory(), typed.memory(), shape);
  EXPECT_EQ(Named::bytes_for(shape, 1000, named.options()), Typed::bytes_for(shape, 1000, typed.options()));

  Named from_typed(shape, named.options());
  Typed from_named(shape, typed.options());
  load_from(from_typed, saved(typed));
  load_from(from_named, saved(named));
  Named copy(from_typed);
  Named fork = copy.fork();
  EXPECT_EQ(step(copy, text, 202, 2, 1), step(typed, text, 202, 2, 1));
  EXPECT_EQ(step(fork, text, 202, 2, 1), step(from_named, text, 202, 2, 1));
  EXPECT_EQ(saved(copy), saved(typed));
}

}  // namespace kvcompress::test
