// tests/lifecycle/bad_input_test.cpp - whatever a caller gets wrong is a named error, and the cache is as it was.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "support/errors.hpp"
#include "support/policies.hpp"

namespace bad_input_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};

template <class P>
class BadInput : public ::testing::Test {
 protected:
  BadInput() : cache(small, options_with<P>(48)), untouched(small, options_with<P>(48)) {
    static_cast<void>(run(cache, text, 60, 90));
    static_cast<void>(run(untouched, text, 60, 90));
  }
  /// Raises the error; then the cache holds, reports and answers what one does that never met it.
  template <class Verb>
  void refused(ErrorCode code, const std::string& sentence, Verb&& verb) {
    const auto kept = cache.kept(0, 1);
    const std::size_t bytes = cache.memory().total() - cache.memory().scratch;  // scratch holds nothing between calls
    const std::size_t tokens = cache.tokens(0);
    expect_error(code, sentence, verb);
    EXPECT_EQ(cache.kept(0, 1), kept) << sentence;
    EXPECT_EQ(cache.memory().total() - cache.memory().scratch, bytes) << sentence;
    EXPECT_EQ(cache.tokens(0), tokens) << sentence;
    EXPECT_TRUE(step(cache, text, next, 1) == step(untouched, text, next, 1)) << sentence;
    ++next;
  }
  static Output to(Outputs& target, std::size_t tokens = 1) { return Output::tokens_first(target.data(), tokens, 4, 32); }
  Rows keys(std::size_t count = 1) const { return text.key_rows(next, count); }
  Rows values(std::size_t count = 1) const { return text.value_rows(next, count); }
  Rows queries(std::size_t count = 1) const { return text.query_rows(next - 1, count); }

  const Text text{small, 140, 61};
  KVCache<P> cache;
  KVCache<P> untouched;
  std::size_t next = 90;
  Outputs outputs = Outputs(std::size_t{40} * 128);
};

using SomePolicies = ::testing::Types<Full<half>, Combine<H2O, Kivi<2, 32, 32>>, SnapKV, StreamingLLM>;
TYPED_TEST_SUITE(BadInput, SomePolicies);

TYPED_TEST(BadInput, WrongSizesOfAppend) {
  auto& c = this->cache;
  const float* data = this->text.keys.data();
  const Rows none = Rows::tokens_first(data, 0, 2, 32);
  const Rows narrow = Rows::tokens_first(data, 1, 2, 31);
  const Rows one_head = Rows::tokens_first(data, 1, 1, 32);
  const Rows null = Rows::tokens_first(static_cast<const float*>(nullptr), 1, 2, 32);
  this->refused(ErrorCode::shape, "append: layer is 2, must be less than 2", [&] { c.append(2, this->keys(), this->values()); });
  this->refused(ErrorCode::shape, "append: keys.tokens() is 0, must be at least 1", [&] { c.append(0, none, none); });
  this->refused(ErrorCode::shape, "append: values.tokens() is 2, must be keys.tokens() = 1",
                [&] { c.append(0, this->keys(1), this->values(2)); });
  this->refused(ErrorCode::shape, "append: keys.heads() is 1, must be shape.kv_heads = 2", [&] { c.append(0, one_head, this->values()); });
  this->refused(ErrorCode::shape, "append: values.heads() is 1, must be shape.kv_heads = 2", [&] { c.append(0, this->keys(), one_head); });
  this->refused(ErrorCode::shape, "append: keys.dim() is 31, must be the key width = 32", [&] { c.append(0, narrow, this->values()); });
  this->refused(ErrorCode::shape, "append: values.dim() is 31, must be the value width = 32", [&] { c.append(0, this->keys(), narrow); });
  this->refused(ErrorCode::input, "append: keys or values is null", [&] { c.append(0, this->keys(), null); });
}

TYPED_TEST(BadInput, PositionsThatAreNotNewer) {
  auto& c = this->cache;
  this->refused(ErrorCode::position, "append: first_position is 89, must be at least 90, the position after the newest row",
                [&] { c.append(0, this->keys(), this->values(), 89); });
  this->refused(ErrorCode::position, "append: the last position is 4294967295, must be less than 4294967295",
                [&] { c.append(0, this->keys(2), this->values(2), no_position - 1); });
  c.commit(0);
  this->untouched.commit(0);
  this->refused(ErrorCode::position, "remove: first is 8, must be at most last = 7", [&] { c.remove(8, 7); });
}

TYPED_TEST(BadInput, NumbersThatAreNotFiniteOrTooLarge) {
  auto& c = this->cache;
  const float infinity = std::numeric_limits<float>::infinity();
  const auto sentence = [](const char* what, const char* number, const char* token) {
    return std::string("append: ") + what + " is " + number + " at token " + token +
           ", head 1, channel 5, must be finite and at most 65504 in magnitude";  // the stores of these policies hold half
  };
  std::vector<float> rows(this->text.keys.begin(), this->text.keys.begin() + 3 * 64);
  const Rows bad = Rows::tokens_first(rows.data(), 3, 2, 32);
  float& number = rows[2 * 64 + 32 + 5];
  number = std::numeric_limits<float>::quiet_NaN();
  this->refused(ErrorCode::input, sentence("keys", "nan", "2"), [&] { c.append(0, bad, this->values(3)); });
  this->refused(ErrorCode::input, sentence("values", "nan", "2"), [&] { c.append(0, this->keys(3), bad); });
  number = -infinity;
  this->refused(ErrorCode::input, sentence("keys", "-inf", "2"), [&] { c.append(0, bad, this->values(3)); });
  number = 65536.0F;
  this->refused(ErrorCode::input, sentence("keys", "65536", "2"), [&] { c.append(0, bad, this->values(3)); });
}

TYPED_TEST(BadInput, WrongQueries) {
  auto& c = this->cache;
  const auto append_both = [&] {
    c.append(0, this->keys(), this->values());
    this->untouched.append(0, this->keys(), this->values());
    ++this->next;
  };
  std::vector<float> rows(this->text.queries.begin(), this->text.queries.begin() + 128);
  append_both();
  this->refused(ErrorCode::phase, "attend: queries.tokens() is 2, must be at most the 1 rows since the last commit",
                [&] { c.attend(0, this->queries(2), this->to(this->outputs)); });
  append_both();
  this->refused(ErrorCode::shape, "queries.heads() is 2, must be shape.query_heads = 4",
                [&] { c.attend(0, Rows::tokens_first(rows.data(), 1, 2, 32), this->to(this->outputs)); });
  append_both();
  this->refused(ErrorCode::shape, "queries.dim() is 16, must be the key width = 32",
                [&] { c.attend(0, Rows::tokens_first(rows.data(), 1, 4, 16), this->to(this->outputs)); });
  append_both();
  this->refused(ErrorCode::shape, "queries.tokens() is 0, must be at least 1",
                [&] { c.attend(0, Rows::tokens_first(rows.data(), 0, 4, 32), this->to(this->outputs)); });
  append_both();
  this->refused(ErrorCode::shape, "heads.first is 1, must be less than heads.last = 1", [&] {
    c.attend(0, this->queries(), this->to(this->outputs), {}, HeadRange{1, 1});
  });
  append_both();
  this->refused(ErrorCode::input, "attend: out is null", [&] { c.attend(0, this->queries(), Output{}); });
  append_both();
  rows[3 * 32 + 7] = std::numeric_limits<float>::quiet_NaN();
  this->refused(ErrorCode::input, "queries is nan at token 0, head 3, channel 7, must be finite and at most 1.12589991e+15 in magnitude",
                [&] { c.attend(0, Rows::tokens_first(rows.data(), 1, 4, 32), this->to(this->outputs)); });
  const std::vector<Position> positions{1, 2};
  append_both();
  this->refused(ErrorCode::shape, "observe: positions.size() is 2, must be queries.tokens() = 1",
                [&] { c.observe(0, this->queries(), positions); });
}

TYPED_TEST(BadInput, VerbsOutOfPhase) {
  KVCache<TypeParam> fresh(small, options_with<TypeParam>(48));
  const Rows query = this->text.query_rows(0, 1);
  const std::vector<Position> position{0};
  expect_error(ErrorCode::phase, "attend(layer = 1) before append: no rows since the last commit",
               [&] { fresh.attend(1, query, this->to(this->outputs)); });
  expect_error(ErrorCode::phase, "observe(layer = 0) before append: no rows since the last commit",
               [&] { fresh.observe(0, query, position); });
  expect_error(ErrorCode::phase, "commit(layer = 0) before end_prompt(layer)", [&] { fresh.commit(0); });
  expect_error(ErrorCode::phase, "end_prompt(layer = 0) without rows since the last commit", [&] { fresh.end_prompt(0); });
  static_cast<void>(step(fresh, this->text, 0, 20));
  expect_error(ErrorCode::phase, "commit(layer = 0) before end_prompt(layer)", [&] { fresh.commit(0); });
  expect_error(ErrorCode::phase, "remove with 20 uncommitted rows in layer 0: commit first", [&] { fresh.remove(0, 5); });
  EXPECT_EQ(fresh.kept(0, 0).size(), 20U);
  fresh.end_prompt(0);
  expect_error(ErrorCode::phase, "attend(layer = 0) before append: no rows since the last commit",
               [&] { fresh.attend(0, query, this->to(this->outputs)); });
  expect_error(ErrorCode::phase, "end_prompt(layer = 0) without rows since the last commit", [&] { fresh.end_prompt(0); });
}

TEST(BadPhase, SnapKVNeedsTheLastQueriesOfAPrompt) {
  const Text text(small, 20, 62);
  KVCache<SnapKV> cache(small, options_with<SnapKV>(48));
  cache.append(0, text.key_rows(0, 20), text.value_rows(0, 20));
  expect_error(ErrorCode::phase, "end_prompt(layer = 0) before attend or observe: observation_window needs the last queries of the prompt",
               [&] { cache.end_prompt(0); });
  static_cast<void>(attend(cache, text, 20, 20));
  cache.end_prompt(0);
  EXPECT_EQ(cache.kept(0, 0).size(), 20U);
}

TEST(BadTruncate, ObservedQueriesThatAreCountedAlready) {
  const Text text(small, 60, 63);
  PolicyOptions<H2O> options = options_with<H2O>(24);
  options.speculation = 2;
  KVCache<H2O> cache(small, options);
  static_cast<void>(run(cache, text, 30, 40));
  static_cast<void>(step(cache, text, 40, 3));
  expect_error(ErrorCode::phase,
               "truncate: position is 41, must be at least 43: observed queries before it are counted already (Options::speculation is 2)",
               [&] { cache.truncate(41); });
  KVCache<SnapKV> window(small, options_with<SnapKV>(24));
  static_cast<void>(step(window, text, 0, 30));
  expect_error(ErrorCode::phase, "truncate: position is 29, must be above 29: the queries before the observation window are gone",
               [&] { window.truncate(29); });
}

TEST(BadOptions, AreNamedWhenACacheIsMade) {
  const auto made = [](auto policy, auto change_shape, auto change_options) {
    using P = typename decltype(policy)::type;
    Shape shape = small;
    PolicyOptions<P> options = options_with<P>(48);
    change_shape(shape);
    change_options(options);
    KVCache<P> cache(shape, options);
  };
  const auto same = [](auto&) {};
  constexpr std::type_identity<Full<half>> full;
  constexpr std::type_identity<StreamingLLM> streaming;
  constexpr std::type_identity<H2O> h2o;
  constexpr std::type_identity<SnapKV> snapkv;
  constexpr std::type_identity<Kivi<2, 32, 32>> kivi;
  expect_error(ErrorCode::shape, "shape.layers is 0, must be at least 1", [&] {
    made(
        full, [](Shape& s) { s.layers = 0; }, same);
  });
  expect_error(ErrorCode::shape, "shape.query_heads is 0, must be at least 1", [&] {
    made(
        full, [](Shape& s) { s.query_heads = 0; }, same);
  });
  expect_error(ErrorCode::shape, "shape.kv_heads is 0, must be at least 1", [&] {
    made(
        full, [](Shape& s) { s.kv_heads = 0; }, same);
  });
  expect_error(ErrorCode::shape, "shape.head_dim is 0, must be at least 1", [&] {
    made(
        full, [](Shape& s) { s.head_dim = 0; }, same);
  });
  expect_error(ErrorCode::shape, "shape.query_heads is 3, must be a multiple of shape.kv_heads = 2", [&] {
    made(
        full, [](Shape& s) { s.query_heads = 3; }, same);
  });
  expect_error(ErrorCode::shape, "shape.rope.rotary_dim is 34, must be even and at most the key width 32", [&] {
    made(
        full, [](Shape& s) { s.rope.rotary_dim = 34; }, same);
  });
  expect_error(ErrorCode::option, "streaming: window is 0, must be 1 to 4294967294",
               [&] { made(streaming, same, [](auto& o) { o.eviction.window = 0; }); });
  expect_error(ErrorCode::option, "streaming: window is 18446744073709551615, must be 1 to 4294967294",
               [&] { made(streaming, same, [](auto& o) { o.eviction.window = static_cast<std::size_t>(-1); }); });
  expect_error(ErrorCode::option, "h2o: recent is 49, must be at most budget = 48",
               [&] { made(h2o, same, [](auto& o) { o.eviction.recent = 49; }); });
  expect_error(ErrorCode::option, "h2o: budget is 0, must be at least 1 row or byte, or a fraction in (0, 1]",
               [&] { made(h2o, same, [](auto& o) { o.eviction.budget = 0; }); });
  expect_error(ErrorCode::option, "h2o: budget is a fraction of 1.5, must be in (0, 1]",
               [&] { made(h2o, same, [](auto& o) { o.eviction.budget = Budget::fraction(1.5); }); });
  expect_error(ErrorCode::option, "snapkv: window is 0, must be at least 1",
               [&] { made(snapkv, same, [](auto& o) { o.eviction.window = 0; }); });
  expect_error(ErrorCode::option, "snapkv: window is 32, must be less than budget = 32",
               [&] { made(snapkv, same, [](auto& o) { o.eviction.window = 32; }); });
  expect_error(ErrorCode::option, "snapkv: kernel is 4, must be odd", [&] { made(snapkv, same, [](auto& o) { o.eviction.kernel = 4; }); });
  expect_error(ErrorCode::option, "kivi: residual is 48, must be a positive multiple of the group size 32",
               [&] { made(kivi, same, [](auto& o) { o.storage.residual = 48; }); });
  expect_error(ErrorCode::option, "kivi: residual is 0, must be a positive multiple of the group size 32",
               [&] { made(kivi, same, [](auto& o) { o.storage.residual = 0; }); });
}

}  // namespace bad_input_test
