// tests/registry/read_back_test.cpp - many rows read at once are those that are read one by one, over every storage.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvcompress/attention/rope.hpp"
#include "registry/registry.hpp"
#include "support/errors.hpp"
#include "support/random_rows.hpp"

namespace read_back_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 64};

AnyCache settled(const std::string& policy, const Text& text) {
  AnyCache cache = examples::registry().make(policy, shape);
  for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, 0, 300, layer)); }
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
  for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, 300, 3, layer)); }
  return cache;
}

struct Numbers {
  std::vector<float> keys, values;
  std::vector<half> half_keys, half_values;
  std::vector<Position> positions;
};
Numbers all_of(AnyCache& cache, std::size_t layer, std::size_t head, RowRange rows, Angle angle) {
  Numbers all{std::vector<float>(rows.size() * 64), std::vector<float>(rows.size() * 64), std::vector<half>(rows.size() * 64),
              std::vector<half>(rows.size() * 64), std::vector<Position>(rows.size())};
  cache.read_rows(layer, head, rows, {all.keys, all.values, all.half_keys, all.half_values, all.positions, angle});
  return all;
}

TEST(ReadRows, AreTheRowsReadOneByOne) {
  const Text text(shape, 310, 1);
  std::vector<std::string> policies{"h2o:budget=100+kivi4:residual=32", "streaming:sinks=4,window=60+kivi2:residual=32",
                                    "snapkv:budget=64"};
  for (const PartInfo& part : examples::registry().parts()) {
    if (part.kind.find("storage") == std::string::npos) { continue; }
    const bool tiers = part.name.starts_with("tiers");
    policies.push_back(part.name == "shadowkv" ? "shadowkv:rank=32" : tiers ? "h2o:budget=200+demote+" + part.name : part.name);
  }
  EXPECT_GT(policies.size(), 12U);
  Rotation rotation(shape, Memory{});
  for (const std::string& policy : policies) {
    AnyCache cache = settled(policy, text);
    const std::size_t rows = cache.table(1, 1).rows();
    const RowRange range{rows / 3, rows};
    const Numbers at_place = all_of(cache, 1, 1, range, Angle::position);
    const Numbers unrotated = all_of(cache, 1, 1, range, Angle::unrotated);
    std::vector<float> key(64), value(64);
    for (std::size_t i = 0; i < range.size(); ++i) {
      const Position position = cache.table(1, 1).position(range.first + i);
      ASSERT_EQ(at_place.positions[i], position) << policy;
      const auto of = [i](const std::vector<float>& all) {
        return std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(i * 64),
                                  all.begin() + static_cast<std::ptrdiff_t>(i * 64 + 64));
      };
      if (position == no_position) {
        ASSERT_EQ(of(at_place.keys), std::vector<float>(64)) << policy;
        continue;
      }
      cache.read(1, 1, range.first + i, key.data(), value.data());
      ASSERT_EQ(of(at_place.keys), key) << policy << " row " << i;
      ASSERT_EQ(of(at_place.values), value) << policy << " row " << i;
      for (std::size_t c = 0; c < 64; ++c) {
        ASSERT_EQ(at_place.half_keys[i * 64 + c], half(key[c])) << policy;
        ASSERT_EQ(at_place.half_values[i * 64 + c], half(value[c])) << policy;
      }
      std::vector<float> turned = of(unrotated.keys);
      rotation.turn_by(position);
      rotation.apply(turned.data());
      ASSERT_LT(deviation(turned, key), 1e-5) << policy;
    }
  }
}

TEST(ReadRows, AfterAShiftTheyStandAtTheirNewPlaceOrAsTheyAreHeld) {
  const Text text(shape, 310, 2);
  AnyCache cache = settled("kivi4:residual=32", text);
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.commit(layer); }
  const Numbers before = all_of(cache, 0, 1, {0, 303}, Angle::position);
  cache.remove(4, 100);
  cache.shift(100, 303, -96);
  const std::size_t rows = cache.table(0, 1).rows();
  const Numbers held = all_of(cache, 0, 1, {0, rows}, Angle::held);
  const Numbers now = all_of(cache, 0, 1, {0, rows}, Angle::position);
  Rotation rotation(shape, Memory{});
  std::size_t moved = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    if (now.positions[row] == no_position) { continue; }
    const std::size_t was = now.positions[row] + (now.positions[row] < 4 ? 0U : 96U);
    const auto of = [](const std::vector<float>& all, std::size_t i) { return std::span(all).subspan(i * 64, 64); };
    ASSERT_TRUE(std::equal(of(held.keys, row).begin(), of(held.keys, row).end(), of(before.keys, was).begin())) << row;
    std::vector<float> turned(of(held.keys, row).begin(), of(held.keys, row).end());
    rotation.turn_by(static_cast<std::int64_t>(now.positions[row]) - static_cast<std::int64_t>(was));
    rotation.apply(turned.data());
    ASSERT_LT(deviation(of(now.keys, row), turned), 1e-6);
    moved += was != now.positions[row] ? 1U : 0U;
  }
  EXPECT_EQ(moved, 203U);
}

/// Three of the newest rows are overwritten: before they are committed, and after, while they are exact.
TEST(Write, RowsAreThoseThatComeInstead) {
  const Text text(shape, 320, 4);
  Text edited = text;
  for (std::size_t t = 303; t < 306; ++t) {
    for (auto* rows : {&edited.keys, &edited.values}) {
      std::copy_n(text.keys.begin() + static_cast<std::ptrdiff_t>((t + 10) * 128), 128,
                  rows->begin() + static_cast<std::ptrdiff_t>(t * 128));
    }
  }
  const std::vector<Position> positions{303, 304, 305};
  for (const std::string policy : {"f32", "f16", "kivi4:residual=32", "rot4", "f32+quest:budget=64,page=32"}) {
    for (const bool committed : {false, true}) {
      AnyCache cache = settled(policy, text);
      AnyCache expected = settled(policy, edited);
      const AnyCache fork = cache.fork();
      for (AnyCache* one : {&cache, &expected}) {
        static_cast<void>(step(*one, one == &cache ? text : edited, 303, 3));
        if (committed) { one->commit(0); }
      }
      AnyCache before = cache.fork();
      cache.write(0, positions, edited.key_rows(303, 3), edited.value_rows(303, 3));
      const Outputs wanted = step(expected, text, 306, 1);
      EXPECT_EQ(step(cache, text, 306, 1), wanted) << policy;
      EXPECT_NE(step(before, text, 306, 1), wanted) << policy << ": a fork keeps its rows";
    }
  }
}

TEST(Write, IsRefusedWhereRowsAreNotExactOrWereJudged) {
  const Text text(shape, 320, 5);
  const auto written = [&](const std::string& policy, Position position) {
    AnyCache cache = settled(policy, text);
    return refusal([&] { cache.write(0, std::span(&position, 1), text.key_rows(310, 1), text.value_rows(310, 1)); });
  };
  EXPECT_EQ(written("kivi4:residual=32", 200),
            "kvcompress: write: positions[0] is 200, must be that of an exact row: in layer 0, KV head 0, the first 288 rows are encoded "
            "or indexed");
  EXPECT_EQ(written("f16", 303), "kvcompress: write: positions[0] is 303, must be that of a row of layer 0, KV head 0");
  EXPECT_NE(written("h2o:budget=100", 302).find("which judges rows by what they were"), std::string::npos);
  EXPECT_NE(written("f32+quest:page=16", 100).find("encoded or indexed"), std::string::npos);
}

/// What a rotation and Rope::magnitude make of a key must be held, too.
TEST(Write, KeysHaveTheBoundOfAppend) {
  const Shape grown{.query_heads = 2, .kv_heads = 1, .head_dim = 16, .keys = KeyForm::unrotated, .rope = {.theta = 1e4, .magnitude = 4.0}};
  AnyCache cache = examples::registry().make("f16", grown);
  std::vector<float> row(16, 1.0F);
  const Rows rows = Rows::tokens_first(row.data(), 1, 1, 16);
  const std::vector<Position> positions{0};
  cache.append(0, rows, rows);
  row[3] = 11000.0F;  // 65504 / (1.5 * 4) is 10917
  const std::string appended = refusal([&] { cache.append(0, rows, rows); });
  const std::string written = refusal([&] { cache.write(0, positions, rows, rows); });
  EXPECT_NE(appended.find("keys is 11000 at token 0, head 0, channel 3, must be finite and at most 10917.3"), std::string::npos)
      << appended;
  EXPECT_EQ(written.substr(written.find("keys")), appended.substr(appended.find("keys")));
}

TEST(ReadRows, SayWhatTheyNeed) {
  const Text text(shape, 310, 3);
  AnyCache cache = settled("f16", text);
  std::vector<float> keys(640);
  std::vector<half> values(100);
  std::vector<Position> positions(9);
  const auto refused = [&](RowRange rows, const ReadInto& into, const std::string& sentence) {
    try {
      cache.read_rows(0, 0, rows, into);
      ADD_FAILURE() << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: read_rows: " + sentence); }
  };
  refused({0, 11}, {.keys = keys}, "keys has room for 640 numbers, must have for 704: 11 rows of 64");
  refused({0, 10}, {.keys = keys, .half_values = values}, "half_values has room for 100 numbers, must have for 640: 10 rows of 64");
  refused({0, 10}, {.positions = positions}, "positions has room for 9 numbers, must have for 10: 10 rows of 1");
  refused({300, 304}, {.keys = keys}, "rows are [300, 304), must be ascending and within the 303 rows of the lane");
  refused({5, 4}, {.keys = keys}, "rows are [5, 4), must be ascending and within the 303 rows of the lane");
  cache.read_rows(0, 0, {303, 303}, {});
}

}  // namespace read_back_test
