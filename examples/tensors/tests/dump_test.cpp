// examples/tensors/tests/dump_test.cpp - names, layouts and config.json: which arrays of a folder are taken for what.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>

#include "files.hpp"

namespace tensors {
namespace {

using namespace testing;

using Words = std::vector<std::string>;

TEST(Names, SayTheRoleAndTheLayer) {
  EXPECT_EQ(words_of("Keys_f16.layer03"), (Words{"keys", "layer", "03"}));
  const auto expect = [](const char* name, std::optional<Role> role, std::optional<std::size_t> layer) {
    const Place place = place_of("file", name);
    EXPECT_EQ(place.role, role) << name;
    EXPECT_EQ(place.layer, layer) << name;
  };
  expect("keys", Role::keys, std::nullopt);
  expect("past_key_values.12.value", Role::values, 12);
  expect("past_key_values.0.key", Role::keys, 0);
  expect("model.layers.3.query_2", Role::queries, 3);
  expect("k_cache_bf16", Role::keys, std::nullopt);
  expect("V7", Role::values, 7);
  expect("input_ids", std::nullopt, std::nullopt);
  expect("monkey", std::nullopt, std::nullopt);
  EXPECT_EQ(place_of("file", "layer_3", "k").layer, 3U);
  EXPECT_EQ(place_of("file", "007", "k").layer, 7U);
  EXPECT_EQ(place_of("file", "llama_2_7b", "k").layer, std::nullopt) << "no layer's number";
  EXPECT_EQ(place_of("file", "keys", "arr_4").role, Role::keys);
  EXPECT_EQ(place_of("file", "keys", "arr_4").layer, 4U);
  EXPECT_THROW(place_of("file", "run_2_k_3"), llama::Error);
}

/// How a dump of these shapes is read.
std::string reading(const Sizes& keys, const Sizes& queries, bool per_layer = false, std::optional<std::size_t> kv_heads = {},
                    std::optional<std::size_t> query_heads = {}) {
  try {
    const Layouts layouts = find_layouts("--layout", {keys, queries, "k", "q", per_layer, kv_heads, query_heads});
    return text(layouts.keys) + (layouts.keys == layouts.queries ? "" : " " + text(layouts.queries));
  } catch (const llama::Error& error) { return error.what(); }
}

TEST(Layouts, AreToldApartBySizes) {
  EXPECT_EQ(reading({6, 2, 512, 64}, {6, 8, 512, 64}), "[layer, head, token, dim]");
  EXPECT_EQ(reading({6, 512, 2, 64}, {6, 512, 8, 64}), "[layer, token, head, dim]");
  EXPECT_EQ(reading({1, 2, 512, 64}, {1, 8, 512, 64}, true), "[batch, head, token, dim]");
  EXPECT_EQ(reading({3, 512, 2, 64}, {3, 512, 8, 64}, true), "[batch, token, head, dim]");
  EXPECT_EQ(reading({512, 2, 64}, {512, 8, 64}), "[token, head, dim]");
  EXPECT_EQ(reading({6, 1, 2, 512, 64}, {6, 1, 8, 512, 64}), "[layer, batch, head, token, dim]");
  EXPECT_EQ(reading({8, 512, 64}, {8, 512, 64}), "[head, token, dim]") << "as many heads: tokens are more";
  EXPECT_EQ(reading({512, 8, 64}, {512, 8, 64}), "[token, head, dim]");
  EXPECT_EQ(reading({8, 8, 64}, {32, 8, 64}), "[head, token, dim]") << "only heads may be more";
  EXPECT_EQ(reading({2, 512, 64}, {512, 8, 64}), "[head, token, dim] [token, head, dim]") << "keys of the cache, queries of the projection";
  EXPECT_EQ(reading({2, 512, 64}, {8, 32, 64}), "[head, token, dim]") << "queries of the last tokens only";
  EXPECT_EQ(reading({512, 2, 64}, {32, 8, 64}), "[token, head, dim]");
}

TEST(Layouts, ThatMayBeTwoAreAskedFor) {
  EXPECT_EQ(reading({32, 40, 128}, {32, 40, 128}),
            "k: has shape (32, 40, 128), which may be [head, token, dim] or [token, head, dim], with queries of shape "
            "(32, 40, 128): say which with --layout.");
  EXPECT_EQ(reading({32, 40, 128}, {32, 40, 128}, false, 32, 32), "[head, token, dim]") << "config.json knows";
  EXPECT_EQ(reading({32, 40, 128}, {32, 40, 128}, false, 40, 40), "[token, head, dim]");
  EXPECT_EQ(reading({2, 64, 16}, {3, 64, 16}),
            "q: has shape (3, 64, 16), must have a multiple of the heads and at most the tokens of k, which has shape (2, 64, 16).");
  EXPECT_EQ(reading({2, 64, 16}, {4, 64, 16}, false, 2, 8),
            "q: has shape (4, 64, 16), must have a multiple of the heads of config.json (8 query and 2 KV heads) and at most the tokens of "
            "k, which has "
            "shape (2, 64, 16).");
  EXPECT_EQ(reading({512, 64}, {512, 64}),
            "k: has shape (512, 64), must have 3 axes, 4 with a batch or layers, 5 with both: say what they are with --layout.");
  EXPECT_EQ(text(parse_layout("--layout", "token,batch,dim")), "[token, batch, dim]");
  for (const char* bad : {"", "token", "token,dim,", "token,dim,token", "tokens,dim", "token, dim"}) {
    EXPECT_THROW(parse_layout("--layout", bad), llama::Error) << bad;
  }
}

/// Number i of a file is i: a place in floats of (tokens, heads, dim) tells which number of the file it is.
float at(const std::vector<float>& rows, std::size_t heads, std::size_t dim, std::size_t token, std::size_t head, std::size_t channel) {
  return rows[(token * heads + head) * dim + channel];
}

TEST(Dumps, AreReadAxisByAxis) {
  const Folder folder;
  folder.put("keys.npy", npy_f32({3, 2, 16, 4}));
  folder.put("values.npy", npy_f32({3, 2, 16, 5}));
  folder.put("queries.npy", npy_f32({3, 4, 16, 4}));
  folder.put("notes.npy", "no array");
  const Dump dump = read_dump(folder.path, "--layout", {});
  EXPECT_EQ(dump.layers, (std::vector<std::size_t>{0, 1, 2}));
  EXPECT_EQ(dump.tokens, 16U);
  EXPECT_EQ(dump.value_dim, 5U);
  ASSERT_EQ(dump.sequences.size(), 1U);
  EXPECT_EQ(at(dump.sequences[0][2].keys, 2, 4, 15, 1, 3), 3.0F * 2 * 16 * 4 - 1.0F);
  EXPECT_EQ(at(dump.sequences[0][1].values, 2, 5, 7, 0, 2), static_cast<float>(((1 * 2 + 0) * 16 + 7) * 5 + 2));
  EXPECT_EQ(at(dump.sequences[0][1].queries, 4, 4, 7, 3, 1), static_cast<float>(((1 * 4 + 3) * 16 + 7) * 4 + 1));

  const Dump other = read_dump(folder.path, "--layout", parse_layout("--layout", "batch,head,token,dim"));
  EXPECT_EQ(other.sequences.size(), 3U);
  EXPECT_EQ(other.sequences[2][0].keys, dump.sequences[0][2].keys);
}

TEST(Dumps, OfOneArrayPerLayerMayBeTokenFirst) {
  const Folder folder;
  for (const char* layer : {"4", "11"}) {
    for (const auto& [name, heads] : {std::pair{"k", 2U}, std::pair{"v", 2U}, std::pair{"q", 4U}}) {
      folder.put(std::string(name) + layer + ".npy", npy_f32({1, 32, heads, 4}));
    }
  }
  const Dump dump = read_dump(folder.path, "--layout", {});
  EXPECT_EQ(dump.layers, (std::vector<std::size_t>{4, 11}));
  EXPECT_EQ(at(dump.sequences[0][1].queries, 4, 4, 30, 3, 1), static_cast<float>((30 * 4 + 3) * 4 + 1));
  EXPECT_EQ(dump.read.front(), "keys: f32 of (1, 32, 2, 4) as [batch, token, head, dim], one array per layer");
}

TEST(Dumps, SayWhatIsWrong) {
  const std::string kv = npy_f32({3, 2, 16, 4});
  const auto of = [&](const std::vector<std::pair<std::string, std::string>>& files) {
    const Folder folder;
    for (const auto& [name, bytes] : files) { folder.put(name, bytes); }
    return refusal(folder);
  };
  const std::string q = npy_f32({3, 4, 16, 4});
  EXPECT_EQ(of({{"k.npy", kv}, {"v.npy", kv}, {"q.npy", q}}), "");
  EXPECT_NE(of({{"x.npy", kv}}).find("has no array of keys, values or queries among its"), std::string::npos);
  EXPECT_NE(of({{"k.npy", kv}, {"v.npy", kv}})
                .find("has no array of queries, must have keys, values and queries; it has k.npy (keys), v.npy (values)."),
            std::string::npos);
  EXPECT_EQ(of({{"k.npy", kv}, {"v.npy", kv}, {"q.npy", q}, {"key.npy", kv}}), "k.npy and key.npy are both keys.");
  EXPECT_EQ(of({{"k.npy", kv}, {"v.npy", npy_f32({3, 2, 15, 4})}, {"q.npy", q}}),
            "v.npy: has shape (3, 2, 15, 4), must have the keys' (3, 2, 16, 4) but for the last axis (k.npy).");
  EXPECT_EQ(of({{"k.npy", kv}, {"v.npy", kv}, {"q.npy", npy_f32({3, 4, 16, 8})}}),
            "q.npy: has shape (3, 4, 16, 8), as [layer, head, token, dim] 8 dim, must have the keys' 4 (k.npy: (3, 2, 16, 4)).");
  EXPECT_EQ(of({{"k.npy", kv}, {"v.npy", kv}, {"q.npy", npy_f32({2, 4, 16, 4})}}),
            "q.npy: has shape (2, 4, 16, 4), as [layer, head, token, dim] 2 layer, must have the keys' 3 (k.npy: (3, 2, 16, 4)).");
  EXPECT_EQ(of({{"k.npy", kv}, {"v.npy", kv}, {"q_0.npy", q}}), "q_0.npy: its name has a layer's number, unlike that of k.npy.");
  const std::string one = npy_f32({2, 16, 4});
  EXPECT_NE(of({{"k0.npy", one}, {"k1.npy", one}, {"v0.npy", one}, {"q0.npy", one}, {"q1.npy", one}})
                .find("layer 1 has keys (k1.npy) but no values."),
            std::string::npos);
  EXPECT_EQ(of({{"k0.npy", one}, {"k1.npy", npy_f32({2, 15, 4})}, {"v0.npy", one}, {"v1.npy", one}, {"q0.npy", one}, {"q1.npy", one}}),
            "k1.npy: has shape (2, 15, 4), must have (2, 16, 4), as k0.npy.");
}

TEST(Dumps, RefuseNumbersThatAreNone) {
  std::vector<float> numbers(2 * 16 * 4, 1.0F);
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    numbers[(1 * 16 + 5) * 4 + 3] = bad;
    const Folder folder;
    folder.put("k.npy", npy_f32({2, 16, 4}));
    folder.put("v.npy", npy_of("<f4", "(2, 16, 4)", floats(numbers)));
    folder.put("q.npy", npy_f32({2, 16, 4}));
    EXPECT_EQ(refusal(folder), fmt::format("v.npy: has {} at (1, 5, 3) of (2, 16, 4), must be finite.", bad));
  }
}

ModelConfig config_of(const std::string& json) { return parse_model_config("config.json", nlohmann::json::parse(json), 64); }

TEST(ModelConfigs, TellHeadsAndRotation) {
  const ModelConfig plain = config_of(R"({"num_attention_heads": 8, "rope_theta": 500000.0, "rope_scaling": null})");
  EXPECT_EQ(plain.kv_heads, 8U);
  EXPECT_EQ(plain.rotary.base, 500000.0);
  const ModelConfig linear =
      config_of(R"({"num_attention_heads": 8, "num_key_value_heads": 2, "rope_theta": 1e4, "partial_rotary_factor": 0.5,
                                           "rope_scaling": {"type": "linear", "factor": 4.0}})");
  EXPECT_EQ(linear.kv_heads, 2U);
  EXPECT_EQ(linear.rotary.scale, 0.25);
  EXPECT_EQ(linear.rotary.dims_fraction, 0.5);
  EXPECT_EQ(config_of(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})").rotary.base, 7.0) << "newer files";
  EXPECT_EQ(config_of(R"({"text_config": {"rope_theta": 8.0}})").rotary.base, 8.0) << "of a model that sees, too";
  EXPECT_EQ(config_of(R"({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn"}})").unknown_rotary, "yarn");
  EXPECT_EQ(config_of(R"({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn"}})").rotary.base, 0.0);
  EXPECT_THROW(config_of(R"({"num_attention_heads": "8"})"), llama::Error);
  EXPECT_THROW(config_of(R"({"num_attention_heads": 0})"), llama::Error);
}

TEST(ModelConfigs, TurnSlowPairsSlowerForLlama3) {
  const std::vector<double> divisors = config_of(R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})")
                                           .rotary.frequency_divisors;
  ASSERT_EQ(divisors.size(), 32U);
  EXPECT_EQ(divisors.front(), 1.0) << "wavelength 6";
  EXPECT_EQ(divisors.back(), 8.0) << "wavelength 2 million";
  // Pair 16: wavelength 2 pi 500000^(1/2) = 4442.9, between 8192/4 and 8192.
  const double smooth = (8192.0 / 4442.882938 - 1.0) / 3.0;
  EXPECT_NEAR(divisors[16], 1.0 / ((1.0 - smooth) / 8.0 + smooth), 1e-6);
}

}  // namespace
}  // namespace tensors
