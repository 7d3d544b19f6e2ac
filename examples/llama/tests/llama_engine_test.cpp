// examples/llama/tests/llama_engine_test.cpp - the forward pass against its definition in double.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/engine.hpp"
#include "llama/perplexity.hpp"
#include "llama/sampler.hpp"
#include "tiny_gguf.hpp"

namespace {

using llama::Token;
using Vector = std::vector<double>;

const std::vector<Token> text = {72, 101, 17, 256, 3, 200, 72, 101, 258, 9, 255, 31};

/// The model as its formulas state it: loops and doubles, all positions at once. Returns the logits of every
/// token.
class Definition {
 public:
  explicit Definition(const llama::Model& model) : m(model), c(model.config) {}

  std::vector<Vector> logits(std::span<const Token> tokens) const {
    std::vector<Vector> stream;
    for (const Token token : tokens) { stream.push_back(row(m.embedding, token)); }
    for (const llama::Layer& layer : m.layers) {
      std::vector<Vector> queries, keys, values;
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        const Vector h = norm(stream[t], layer.attention_norm);
        queries.push_back(rotated(plus(times(layer.query, h), layer.query_bias), t));
        keys.push_back(rotated(plus(times(layer.key, h), layer.key_bias), t));
        values.push_back(plus(times(layer.value, h), layer.value_bias));
      }
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        add(stream[t], plus(times(layer.attention_output, mixed(queries[t], keys, values, t)), layer.attention_output_bias));
      }
      for (Vector& x : stream) {
        const Vector h = norm(x, layer.ffn_norm);
        Vector gate = times(layer.gate, h);
        const Vector up = times(layer.up, h);
        for (std::size_t i = 0; i < gate.size(); ++i) { gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i]; }
        add(x, times(layer.down, gate));
      }
    }
    std::vector<Vector> result;
    for (const Vector& x : stream) { result.push_back(times(m.output, norm(x, m.output_norm))); }
    return result;
  }

 private:
  static Vector row(const llama::Tensor& tensor, std::size_t index) {
    std::vector<float> values(tensor.columns);
    llama::decode_row(tensor, index, values.data());
    return {values.begin(), values.end()};
  }
  static Vector times(const llama::Tensor& tensor, const Vector& x) {
    Vector result;
    for (std::size_t r = 0; r < tensor.rows; ++r) {
      const Vector w = row(tensor, r);
      result.push_back(std::inner_product(w.begin(), w.end(), x.begin(), 0.0));
    }
    return result;
  }
  static void add(Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) { x[i] += y[i]; }
  }
  static Vector plus(Vector x, const std::vector<float>& bias) {
    for (std::size_t i = 0; i < bias.size(); ++i) { x[i] += static_cast<double>(bias[i]); }
    return x;
  }
  Vector norm(const Vector& x, const std::vector<float>& weight) const {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    Vector result = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      result[i] *= static_cast<double>(weight[i]) / std::sqrt(mean + static_cast<double>(c.norm_epsilon));
    }
    return result;
  }
  Vector rotated(Vector heads, std::size_t position) const {
    for (std::size_t head = 0; head < heads.size(); head += c.head_dim) {
      for (std::size_t p = 0; p < c.rope_dims / 2; ++p) {
        const double angle = static_cast<double>(position) * m.rope_frequency[p];
        double& first = heads[head + (c.rope_halves ? p : 2 * p)];
        double& second = heads[head + (c.rope_halves ? p + c.rope_dims / 2 : 2 * p + 1)];
        const double x = c.rope_magnitude * first;
        const double y = c.rope_magnitude * second;
        first = x * std::cos(angle) - y * std::sin(angle);
        second = x * std::sin(angle) + y * std::cos(angle);
      }
    }
    return heads;
  }
  Vector mixed(const Vector& query, const std::vector<Vector>& keys, const std::vector<Vector>& values, std::size_t last) const {
    Vector result(c.query_heads * c.head_dim);
    for (std::size_t head = 0; head < c.query_heads; ++head) {
      const std::size_t q = head * c.head_dim;
      const std::size_t kv = head / (c.query_heads / c.kv_heads) * c.head_dim;
      Vector weights;
      for (std::size_t j = 0; j <= last; ++j) {
        double score = 0.0;
        for (std::size_t i = 0; i < c.head_dim; ++i) { score += query[q + i] * keys[j][kv + i]; }
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(c.head_dim))));
      }
      const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (std::size_t j = 0; j <= last; ++j) {
        for (std::size_t i = 0; i < c.head_dim; ++i) { result[q + i] += weights[j] / total * values[j][kv + i]; }
      }
    }
    return result;
  }

  const llama::Model& m;
  const llama::Config& c;
};

/// A tiny model in a file that lives as long as the object.
struct TinyFile : tiny::TemporaryFile {
  template <class Extra>
  explicit TinyFile(const Extra& extra, tiny::Model model = {}) {
    write(model.write(extra).bytes());
  }
  TinyFile() : TinyFile([](tiny::Writer&) {}) {}
};

std::vector<float> run(llama::Engine& engine, std::size_t step) {
  llama::PlainAttention attention = engine.plain_attention();
  const std::size_t vocabulary = engine.config().vocabulary;
  std::vector<float> logits(text.size() * vocabulary);
  for (std::size_t at = 0; at < text.size(); at += step) {
    const std::size_t count = std::min(step, text.size() - at);
    engine.forward(std::span(text).subspan(at, count), at, attention, std::span(logits).subspan(at * vocabulary, count * vocabulary));
  }
  return logits;
}

void expect_definition(const TinyFile& file) {
  llama::Engine engine(file.path());
  const std::vector<float> logits = run(engine, text.size());
  const std::vector<Vector> expected = Definition(engine.model()).logits(text);
  for (std::size_t t = 0; t < text.size(); ++t) {
    for (std::size_t i = 0; i < expected[t].size(); ++i) {
      ASSERT_NEAR(static_cast<double>(logits[t * expected[t].size() + i]), expected[t][i], 2e-5) << "token " << t;
    }
  }
}

TEST(LlamaEngine, MatchesTheDefinition) { expect_definition(TinyFile()); }

TEST(LlamaEngine, ScalesRope) {
  const TinyFile linear([](tiny::Writer& out) {
    out.value("llama.rope.scaling.type", std::string("linear"));
    out.value("llama.rope.scaling.factor", 4.0F);
    out.value("llama.rope.freq_base", 500.0F);
  });
  expect_definition(linear);
  EXPECT_DOUBLE_EQ(llama::Model(linear.path()).rope_frequency[1], std::pow(500.0, -0.25) / 4.0);
  const TinyFile factors([](tiny::Writer& out) {
    std::string content;
    for (const float factor : {1.0F, 2.0F, 4.0F, 8.0F}) { tiny::put(content, factor); }
    out.tensor("rope_freqs.weight", {4}, 0, content);
  });
  EXPECT_DOUBLE_EQ(llama::Model(factors.path()).rope_frequency[3], std::pow(10000.0, -0.75) / 8.0);
}

/// What a file with these RoPE keys comes to: {frequency of the last pair by the plain one, magnitude}.
template <class Extra>
std::pair<double, double> rope_of(const Extra& extra, std::size_t context = 0) {
  const TinyFile file(extra);
  const llama::Model model(file.path(), context);
  return {model.rope_frequency[3] / std::pow(10000.0, -0.75), model.config.rope_magnitude};
}
using RopeOf = std::pair<double, double>;

TEST(LlamaRope, IsReadAsLlamaCppReadsIt) {
  const auto with = [](const std::vector<std::pair<std::string, float>>& numbers, const std::string& type = "") {
    return rope_of([&](tiny::Writer& out) {
      if (!type.empty()) { out.value("llama.rope.scaling.type", type); }
      for (const auto& [key, value] : numbers) { out.value("llama.rope." + key, value); }
    });
  };
  EXPECT_EQ(with({{"scaling.factor", 4}}), RopeOf(0.25, 1.0)) << "no type means linear";
  EXPECT_EQ(with({{"scale_linear", 4}}), RopeOf(0.25, 1.0));
  EXPECT_EQ(with({{"scale_linear", 8}, {"scaling.factor", 2}}), RopeOf(0.5, 1.0)) << "the newer key wins";
  EXPECT_EQ(with({{"scale_linear", 8}, {"scaling.factor", 0}}), RopeOf(1.0, 1.0));
  EXPECT_EQ(with({{"scale_linear", 4}, {"scaling.factor", 4}}, "none"), RopeOf(1.0, 1.0));
  EXPECT_EQ(with({{"scaling.attn_factor", 1.5}}), RopeOf(1.0, 1.5));
  EXPECT_EQ(with({{"scaling.attn_factor", 1.5}}, "none"), RopeOf(1.0, 1.5));
  EXPECT_EQ(with({{"scaling.factor", 0.5}}, "yarn"), RopeOf(2.0, 1.0));
  EXPECT_EQ(with({}, "yarn"), RopeOf(1.0, 1.0));
  const RopeOf yarn = with({{"scaling.factor", 4}, {"scaling.attn_factor", 2}}, "yarn");
  EXPECT_DOUBLE_EQ(yarn.first, 0.25) << "a pair that never turns once is stretched";
  EXPECT_DOUBLE_EQ(yarn.second, 2.0 * (1.0 + 0.1 * std::log(4.0)));
}

TEST(LlamaRope, YarnLeavesHighFrequenciesAlone) {
  const TinyFile file([](tiny::Writer& out) {
    out.value("llama.rope.freq_base", 100.0F);
    out.value("llama.rope.scaling.type", std::string("yarn"));
    out.value("llama.rope.scaling.factor", 4.0F);
    out.value("llama.rope.scaling.original_context_length", 1600U);
  });
  expect_definition(file);
  // Pair i turns 1600 / (2 pi) 100^(-i / 4) times: 32 times at i = 1.80, once at 4.81. So the ramp goes from 1 to 5.
  const llama::Model model(file.path());
  for (std::size_t i = 0; i < 4; ++i) {
    const double stretched = std::max(0.0, (static_cast<double>(i) - 1.0) / 4.0);
    const double plain = std::pow(100.0, -static_cast<double>(i) / 4.0);
    EXPECT_NEAR(model.rope_frequency[i], plain * (1.0 - stretched + stretched / 4.0), 1e-12) << i;
  }
}

TEST(LlamaRope, LongropeGoesByTheContextInUse) {
  const auto extra = [](tiny::Writer& out) {
    out.value("llama.rope.scaling.type", std::string("longrope"));
    out.value("llama.rope.scaling.original_context_length", 32U);
    out.value("llama.rope.scaling.attn_factor", 1.25F);
    for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
      std::string content;
      for (const float factor : {1.0F, 2.0F, 4.0F, 8.0F}) {
        tiny::put(content, std::string(name) == "rope_factors_long.weight" ? factor : 2.0F);
      }
      out.tensor(name, {4}, 0, content);
    }
  };
  EXPECT_EQ(rope_of(extra), RopeOf(0.125, 1.25));
  EXPECT_EQ(rope_of(extra, 33), RopeOf(0.125, 1.25));
  EXPECT_EQ(rope_of(extra, 32), RopeOf(0.5, 1.25));
  expect_definition(TinyFile(extra));
  const TinyFile without([](tiny::Writer& out) { out.value("llama.rope.scaling.type", std::string("longrope")); });
  EXPECT_NE(tiny::sentence_of([&] { llama::Model model(without.path()); }).find("\"rope_factors_short.weight\" is missing"),
            std::string::npos);
}

TEST(LlamaEngine, RunsFilesWithBiasesAndOfQwen2) {
  const auto biases = [](tiny::Writer& out) {
    for (const char* name : {"blk.0.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias", "blk.0.attn_output.bias"}) {
      const std::uint64_t rows = std::string_view(name).find("attn_q") != std::string_view::npos ? 48 : name[4] == '0' ? 40 : 24;
      std::string content;
      for (std::uint64_t i = 0; i < rows; ++i) { tiny::put(content, 0.5F * std::sin(static_cast<float>(i))); }
      out.tensor(name, {rows}, 0, content);
    }
  };
  expect_definition(TinyFile(biases));
  tiny::Model qwen2;
  qwen2.architecture = "qwen2";
  qwen2.rule = "qwen2";
  const TinyFile file(biases, qwen2);
  expect_definition(file);
  EXPECT_TRUE(llama::Model(file.path()).config.rope_halves);
}

TEST(LlamaEngine, DoesNotDependOnStepsOrThreads) {
  const TinyFile file;
  llama::Engine one(file.path(), 1);
  llama::Engine three(file.path(), 3);
  const std::vector<float> whole = run(one, text.size());
  EXPECT_EQ(run(one, 1), whole);
  EXPECT_EQ(run(three, 5), whole);
  EXPECT_EQ(run(three, text.size()), whole);
}

TEST(LlamaEngine, RunsSequencesInStepAsItRunsThemAlone) {
  const TinyFile file;
  llama::Engine engine(file.path(), 2);
  const std::size_t vocabulary = engine.config().vocabulary;
  const std::vector<float> alone = run(engine, text.size());
  std::vector<llama::PlainAttention> caches(3, engine.plain_attention());
  std::vector<std::vector<float>> logits(3, std::vector<float>(vocabulary));
  std::vector<llama::Slice> slices;
  for (std::size_t s = 0; s < 3; ++s) {  // sequences of 12, 11 and 10 tokens
    slices.push_back({std::span(text).first(text.size() - s), 0, &caches[s], logits[s]});
  }
  engine.forward(slices);
  for (std::size_t s = 0; s < 3; ++s) {
    const auto expected = std::span(alone).subspan((text.size() - 1 - s) * vocabulary, vocabulary);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), logits[s].begin())) << s;
  }
}

TEST(LlamaEngine, TellsTheCacheOfEachLayerInOrder) {
  struct Recorder : llama::Attention {
    std::string calls;
    void append(std::size_t layer, const float*, const float*, std::size_t tokens) override {
      calls += "append " + std::to_string(layer) + " " + std::to_string(tokens) + ", ";
    }
    void attend(std::size_t layer, const float*, std::size_t, float* out, std::size_t, std::size_t) override {
      out[0] = 0.0F;
      calls += "attend " + std::to_string(layer) + ", ";
    }
    void end_prompt(std::size_t layer) override { calls += "end " + std::to_string(layer) + ", "; }
  };
  const TinyFile file;
  llama::Engine engine(file.path());
  Recorder recorder;
  engine.forward(std::span(text).first(3), 0, recorder, {}, true);
  EXPECT_EQ(recorder.calls, "append 0 3, attend 0, end 0, append 1 3, attend 1, end 1, ");
}

TEST(LlamaEngine, SaysWhatIsWrongWithAnArgument) {
  const TinyFile file;
  llama::Engine engine(file.path());
  llama::PlainAttention cache = engine.plain_attention();
  std::vector<float> logits(engine.config().vocabulary);
  const auto refusal = [&](std::vector<Token> tokens, std::size_t position, std::span<float> out) {
    return tiny::sentence_of([&] { engine.forward(tokens, position, cache, out); });
  };
  EXPECT_EQ(refusal({300}, 0, logits), "forward: token 300 lies outside the vocabulary of 262.");
  EXPECT_EQ(refusal({1, 2}, 63, logits), "forward: 2 tokens at position 63 do not fit the model's context of 64.");
  EXPECT_EQ(refusal({}, 0, {}), "forward: a slice has no tokens.");
  EXPECT_EQ(refusal({1}, 0, std::span(logits).first(5)),
            "forward: logits has 5 values; it must be a multiple of 262, the vocabulary, for at most 1 tokens.");
}

TEST(LlamaEngine, AnswersAQuestionAboutItsContext) {
  llama::Engine engine(KVCOMPRESS_MODEL);
  const std::string prompt =
      "The sea was calm that morning.\nThe secret number of Helen Dawson is 48213.\nThe men went on board, "
      "and the ship sailed.\n"
      "The secret number of Helen Dawson is";
  std::vector<Token> tokens = engine.vocabulary().encode(prompt);
  llama::PlainAttention cache = engine.plain_attention();
  std::vector<float> logits(engine.config().vocabulary);
  engine.forward(tokens, 0, cache, logits);
  std::string answer;
  for (std::size_t at = tokens.size(); answer.size() < 6; ++at) {
    const Token next = llama::greedy(logits);
    answer += engine.vocabulary().piece(next);
    engine.forward({&next, 1}, at, cache, logits);
  }
  EXPECT_EQ(answer, " 48213");
}

TEST(LlamaPerplexity, IsTheDefinitionOverTheSecondHalves) {
  const TinyFile file;
  llama::Engine engine(file.path());
  const std::vector<Vector> first = Definition(engine.model()).logits(std::span(text).first(6));
  const std::vector<Vector> second = Definition(engine.model()).logits(std::span(text).subspan(6));
  double loss = 0.0;
  for (const std::size_t i : {3U, 4U}) {  // predicts tokens 4 and 5 of either chunk
    for (const auto& [logits, start] : {std::pair(&first, 0U), std::pair(&second, 6U)}) {
      double total = 0.0;
      for (const double logit : (*logits)[i]) { total += std::exp(logit); }
      loss += std::log(total) - (*logits)[i][text[start + i + 1]];
    }
  }
  const auto result = llama::perplexity(
      engine, text, 6, [&] { return std::make_unique<llama::PlainAttention>(engine.plain_attention()); }, [](const auto&) {});
  EXPECT_NEAR(result.value, std::exp(loss / 4.0), 1e-4 * result.value);
  EXPECT_EQ(result.chunks, 2U);
  EXPECT_EQ(result.tokens, 4U);
}

}  // namespace
