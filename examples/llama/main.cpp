// examples/llama/main.cpp - the program `llama`: continues a prompt, or scores a text, with a GGUF model.
// SPDX-License-Identifier: MIT
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "cache_attention.hpp"
#include "engine.hpp"
#include "perplexity.hpp"
#include "registry/registry.hpp"
#include "sampler.hpp"

namespace {

struct Options {
  std::filesystem::path model;
  std::string policy = "f32";
  std::string prompt;
  std::filesystem::path score;
  std::size_t tokens = 100;
  std::size_t context = 0;
  std::size_t threads = 1;
  llama::Sampling sampling;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The cache that the policy names.
std::unique_ptr<llama::CacheAttention> make_attention(const llama::Engine& engine, const std::string& policy) {
  static std::vector<double> frequency_factors;  // the shape of every cache refers to them
  const kvcompress::Shape shape = llama::shape_of(engine.model(), frequency_factors);
  return std::make_unique<llama::CacheAttention>(examples::registry().make(policy, shape));
}

void generate(llama::Engine& engine, const Options& options) {
  const llama::Vocabulary& vocabulary = engine.vocabulary();
  std::vector<llama::Token> tokens = vocabulary.encode(options.prompt);
  if (tokens.empty()) { llama::fail("The prompt has no tokens."); }
  const std::size_t prompt_tokens = tokens.size();
  llama::Sampler sampler(options.sampling);
  const std::unique_ptr<llama::CacheAttention> attention = make_attention(engine, options.policy);
  std::vector<float> logits(engine.config().vocabulary);

  const auto prompt_start = std::chrono::steady_clock::now();
  engine.forward(tokens, 0, *attention, logits, true);
  const double prompt_seconds = seconds_since(prompt_start);

  fmt::print("{}", options.prompt);
  const auto decode_start = std::chrono::steady_clock::now();
  std::size_t steps = 0;
  for (std::size_t i = 0; i < options.tokens; ++i) {
    const llama::Token next = sampler.pick(logits);
    if (next == vocabulary.eos()) { break; }
    fmt::print("{}", vocabulary.piece(next));
    std::fflush(stdout);
    tokens.push_back(next);
    if (i + 1 == options.tokens || tokens.size() > engine.config().context) { break; }
    engine.forward({&next, 1}, tokens.size() - 1, *attention, logits);
    ++steps;
  }
  fmt::print("\n");
  fmt::print(stderr, "prompt: {} tokens, {:.0f} tokens/s\n", prompt_tokens, static_cast<double>(prompt_tokens) / prompt_seconds);
  if (steps > 0) {
    fmt::print(stderr, "decode: {} tokens, {:.0f} tokens/s\n", steps, static_cast<double>(steps) / seconds_since(decode_start));
  }
  fmt::print(stderr, "cache: {}, {} bytes, {:.2f} bits per value\n", options.policy, attention->cache().memory().total(),
             attention->cache().bits_per_value());
}

void score(llama::Engine& engine, const Options& options) {
  std::ifstream file(options.score, std::ios::binary);
  if (!file) { llama::fail("{}: cannot be opened.", options.score.string()); }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::vector<llama::Token> tokens = engine.vocabulary().encode(text);
  const auto start = std::chrono::steady_clock::now();
  const llama::Perplexity result = llama::perplexity(
      engine, tokens, engine.config().context, [&] { return make_attention(engine, options.policy); },
      [](const llama::Perplexity& so_far) { fmt::print(stderr, "\r{} chunks: {:.4f}", so_far.chunks, so_far.value); });
  fmt::print(stderr, "\r{} chunks in {:.1f} s\n", result.chunks, seconds_since(start));
  fmt::print("perplexity {:.4f} +/- {:.4f} over {} tokens of {} chunks\n", result.value, result.error, result.tokens, result.chunks);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Runs a GGUF model of the Llama or Qwen2 architecture: continues a prompt, or scores a text.", "llama");
  Options options;
  app.add_option("MODEL", options.model, "a GGUF file")->required();
  app.add_option("--policy", options.policy, "how the cache is compressed, e.g. snapkv:budget=256+kivi4")->capture_default_str();
  CLI::Option* prompt = app.add_option("--prompt", options.prompt, "text to continue");
  app.add_option("--tokens", options.tokens, "how many tokens to write at most")->capture_default_str();
  app.add_option("--temperature", options.sampling.temperature, "0 takes the likeliest token")->capture_default_str();
  app.add_option("--top-p", options.sampling.top_p, "draw among the likeliest tokens of this probability")->capture_default_str();
  app.add_option("--seed", options.sampling.seed, "of the draws")->capture_default_str();
  app.add_option("--score", options.score, "print the perplexity of this text file instead")->excludes(prompt);
  app.add_option("--context", options.context, "positions in use, and the chunk length of --score; 0 is what the model knows");
  app.add_option("--threads", options.threads, "how many threads")->check(CLI::Range(1, 256))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    llama::Engine engine(options.model, options.threads, options.context);
    if (options.score.empty()) {
      generate(engine, options);
    } else {
      score(engine, options);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "llama: {}\n", error.what());
    return 1;
  }
  return 0;
}
