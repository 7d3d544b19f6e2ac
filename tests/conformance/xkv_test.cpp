// tests/conformance/xkv_test.cpp - KVCache<XKV> against the official implementation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/cache.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "support/sequence.hpp"
#include "support/xkv_cases.hpp"

namespace xkv_test {

using kvcompress::test::HeadArray;
namespace conformance = kvcompress::conformance;
namespace npy = kvcompress::npy;
namespace reference = kvcompress::reference;
using Cache = kvcompress::KVCache<kvcompress::XKV<float>>;
using reference::Index;
using reference::Matrix;

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

/// No rotary embedding where there is none.
kvcompress::Rope rope_of(const std::optional<reference::Rope>& given) {
  if (!given) { return {.theta = 0.0}; }
  return {
      .theta = given->theta,
      .pairing = given->pairing == reference::Pairing::half ? kvcompress::RopePairing::half_split : kvcompress::RopePairing::interleaved};
}

/// The first `rows` rows of a lane as the cache decodes them, keys turned back by their positions if `unrotated`.
struct Decoded {
  Decoded(Cache& cache, std::size_t layer, std::size_t head, std::size_t rows, bool unrotated = false)
      : keys(static_cast<Index>(rows), static_cast<Index>(cache.shape().key_width())),
        values(keys.rows(), static_cast<Index>(cache.shape().value_width())) {
    std::vector<float> key(cache.shape().key_width());
    std::vector<float> value(cache.shape().value_width());
    kvcompress::Rotation rotation(cache.shape(), {});
    for (std::size_t row = 0; row < rows; ++row) {
      cache.read(layer, head, row, key.data(), value.data());
      if (unrotated) {
        rotation.turn_by(-static_cast<std::int64_t>(row));
        rotation.apply(key.data());
      }
      for (Index c = 0; c < keys.cols(); ++c) { keys(static_cast<Index>(row), c) = static_cast<double>(key[size(c)]); }
      for (Index c = 0; c < values.cols(); ++c) { values(static_cast<Index>(row), c) = static_cast<double>(value[size(c)]); }
    }
  }
  Matrix keys;
  Matrix values;
};

/// All layers through a prompt; empty values: zeros.
Cache prompted(const std::vector<npy::Array>& keys, const std::vector<npy::Array>& values, const std::optional<reference::Rope>& rope,
               const Cache::Options& options) {
  const HeadArray k(keys.front());
  const std::size_t value_dim = values.empty() ? 4 : values.front().shape.at(2);
  Cache cache({.layers = keys.size(),
               .query_heads = k.heads,
               .kv_heads = k.heads,
               .head_dim = k.dim,
               .value_dim = value_dim,
               .keys = kvcompress::KeyForm::unrotated,
               .rope = rope_of(rope)},
              options);
  for (std::size_t layer = 0; layer < keys.size(); ++layer) {
    const HeadArray v = values.empty() ? HeadArray(k.heads, k.tokens, value_dim) : HeadArray(values[layer]);
    cache.append(layer, HeadArray(keys[layer]).rows(0, k.tokens), v.rows(0, k.tokens));
  }
  for (std::size_t layer = 0; layer < keys.size(); ++layer) { cache.end_prompt(layer); }
  return cache;
}

/// One layer at every rank that the case has.
void svd(const conformance::Case& one) {
  const npy::Array keys = conformance::layers_of(one.any({"K_prerope_LHTd"})).front();
  const auto exact = conformance::heads(keys);
  const std::vector<double> singular = one.has("singvals_K0") ? one.array("singvals_K0").values : std::vector<double>{};
  int ranks = 0;
  for (std::size_t rank = 1; rank <= std::min(keys.shape[1], keys.shape[0] * keys.shape[2]); ++rank) {
    const std::string name = "K0_r" + std::to_string(rank);
    if (!one.has(name)) { continue; }
    ++ranks;
    Cache cache = prompted({keys}, {}, one.rope(),
                           {.storage = {.layers_per_group = 1,
                                        .rank_keys = rank,
                                        .merge_values = false,
                                        .factorisation = kvcompress::low_rank::Factorisation::exact}});
    const auto expected = conformance::heads(one.array(name));
    conformance::Distance distance;
    double lost = 0.0;
    for (std::size_t head = 0; head < exact.size(); ++head) {
      const Decoded decoded(cache, 0, head, keys.shape[1], true);
      distance.add(decoded.keys, expected[head]);
      lost += (decoded.keys - exact[head]).squaredNorm();
    }
    conformance::expect_reconstruction(one, name, distance);
    if (singular.empty()) { continue; }
    double tail = 0.0;
    for (std::size_t i = rank; i < singular.size(); ++i) { tail += singular[i] * singular[i]; }
    conformance::expect_within(one, name + " error against the tail of the spectrum",
                               std::abs(std::sqrt(lost) - std::sqrt(tail)) / singular.front(), 1e-5);
  }
  if (ranks == 0) { throw conformance::NotCovered(one.path() + " has no array K0_r<rank>.npy"); }
}

void compare(const conformance::Case& one, const conformance::XkvCase& given) {
  Cache cache = prompted(given.keys, given.values, given.rope,
                         {.storage = {.layers_per_group = given.layers_per_group,
                                      .rank_keys = given.rank_keys,
                                      .rank_values = given.rank_values,
                                      .first_layer = given.first_layer,
                                      .last_layer = given.end_layer - 1,
                                      .merge_keys = given.rank_keys > 0,
                                      .merge_values = given.rank_values > 0,
                                      .factorisation = kvcompress::low_rank::Factorisation::exact}});
  const std::size_t heads = given.keys.front().shape[0];
  const auto each = [&](const std::string& what, const std::vector<npy::Array>& expected, auto&& actual) {
    if (expected.empty()) { return; }
    conformance::Distance distance;
    for (std::size_t layer = 0; layer < given.keys.size(); ++layer) {
      const auto official = conformance::heads(expected.at(layer));
      for (std::size_t head = 0; head < heads; ++head) { distance.add(actual(layer, head, size(official[head].rows())), official[head]); }
    }
    conformance::expect_reconstruction(one, what, distance);
  };
  const auto keys = [&](std::size_t layer, std::size_t head, std::size_t rows) { return Decoded(cache, layer, head, rows).keys; };
  const auto values = [&](std::size_t layer, std::size_t head, std::size_t rows) { return Decoded(cache, layer, head, rows).values; };
  each("keys", given.keys_before_rope,
       [&](std::size_t layer, std::size_t head, std::size_t rows) { return Decoded(cache, layer, head, rows, true).keys; });
  each("rotated keys", given.keys_after_rope, keys);
  each("values", given.values_after, values);
  for (std::size_t layer = 0; layer < given.keys.size(); ++layer) {
    const bool inside = layer >= given.first_layer && layer < given.end_layer;
    EXPECT_EQ(cache.keys(layer, 0).settled(), inside && given.rank_keys > 0 ? given.tokens() : 0) << "layer " << layer;
    EXPECT_EQ(cache.values(layer, 0).settled(), inside && given.rank_values > 0 ? given.tokens() : 0) << "layer " << layer;
  }
  if (given.decoded() == 0 || given.decode_keys.empty()) { return; }
  for (std::size_t layer = 0; layer < given.keys.size(); ++layer) {
    const HeadArray next(given.decode_keys[layer]);
    const HeadArray v(given.decode_values.empty() ? given.decode_keys[layer] : given.decode_values[layer]);
    for (std::size_t t = 0; t < given.decoded(); ++t) { cache.append(layer, next.rows(t, 1), v.rows(t, 1)); }
  }
  each("keys after decode", given.keys_after_decode, keys);
  each("values after decode", given.values_after, values);
}

const conformance::Method method("xkv", {{"svd", svd},
                                         {"compress", [](const auto& one) { compare(one, conformance::xkv_compress_case(one)); }},
                                         {"mla", [](const auto& one) { compare(one, conformance::xkv_latents_case(one)); }}});
TEST(Xkv, ReproducesTheOfficialVectors) { method.run(); }

}  // namespace xkv_test
