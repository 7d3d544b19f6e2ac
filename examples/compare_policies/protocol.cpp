// examples/compare_policies/protocol.cpp - the measurement, see protocol.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/protocol.hpp"

#include <fmt/format.h>

#include <chrono>
#include <memory>

#include "compare_policies/block_types.hpp"
#include "compare_policies/clock.hpp"
#include "compare_policies/counting_memory.hpp"
#include "compare_policies/items.hpp"
#include "compare_policies/measurement.hpp"
#include "compare_policies/policies.hpp"
#include "compare_policies/policy_list.hpp"
#include "compare_policies/progress.hpp"
#include "compare_policies/schedule.hpp"
#include "compare_policies/timed_attention.hpp"
#include "llama/engine.hpp"

namespace comparison {
namespace {

std::size_t bytes_of(const kvcompress::MemoryReport& report) { return report.fast() - report.scratch; }

/// What a cache holds, layer by layer; what stores of several layers hold together, and what belongs to none, in equal parts.
std::vector<double> layer_bytes_of(const kvcompress::AnyCache& cache) {
  const kvcompress::Shape& shape = cache.shape();
  std::vector<double> bytes;
  double sum = 0.0;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    kvcompress::MemoryReport report;
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      if (cache.keys(layer, head).facts().scope == kvcompress::Scope::lane) { cache.keys(layer, head).account(report); }
      if (cache.values(layer, head).facts().scope == kvcompress::Scope::lane) { cache.values(layer, head).account(report); }
      cache.state(layer, head).account(report);
      cache.index(layer, head).account(report);
    }
    bytes.push_back(static_cast<double>(bytes_of(report)));
    sum += bytes.back();
  }
  const double rest = (static_cast<double>(bytes_of(cache.memory())) - sum) / static_cast<double>(shape.layers);
  for (double& layer : bytes) { layer += rest; }
  return bytes;
}

class Measuring {
 public:
  Measuring(const Setup& setup, const llama::Model& model, Items&& items)
      : setup_(setup), shape_(llama::shape_of(model, frequency_factors_)), windows_(items.windows), items_(std::move(items.all)) {}

  [[nodiscard]] Comparison run(std::vector<std::unique_ptr<llama::Engine>>& engines);

 private:
  void prepare(Item& item, llama::Engine& engine, Progress& progress) const;
  [[nodiscard]] Measurement measure(const Item& item, const std::string& policy, const BlockType* type, llama::Engine& engine,
                                    Progress& progress) const;
  void decode(const Item& item, TimedAttention& attention, llama::Engine& engine, Progress& progress, Measurement& result) const;
  [[nodiscard]] bool ask(const Haystack::Question& question, std::size_t position, TimedAttention& attention, llama::Engine& engine,
                         Progress& progress) const;
  [[nodiscard]] std::size_t steps() const;
  /// How many of llama.cpp's types are measured: their blocks must fit a head.
  [[nodiscard]] std::size_t references() const {
    return setup_.references && shape_.head_dim % 32 == 0 ? block_types.size() : std::size_t{0};
  }

  const Setup& setup_;
  std::vector<double> frequency_factors_;
  kvcompress::Shape shape_;
  std::size_t windows_;
  std::vector<Item> items_;                         // (windows) of the text, then the haystacks
  std::vector<std::vector<Measurement>> measured_;  // (items, policies)
  Agreement exact_;                                 // the reference's own loss
};

/// Runs the exact model: the prompt once for all policies, then the rest of the window for the reference.
void Measuring::prepare(Item& item, llama::Engine& engine, Progress& progress) const {
  Recording recording(engine.config());
  const std::span<const llama::Token> tokens(item.tokens);
  {
    const Stopwatch watch(item.prompt_seconds);
    engine.forward(tokens.first(item.prompt_tokens), 0, recording, {}, true);
  }
  const std::size_t vocabulary = engine.config().vocabulary;
  const std::size_t scored = tokens.size() > item.prompt_tokens ? tokens.size() - item.prompt_tokens - 1 : 0;
  if (scored > 0) {
    std::vector<float> logits(scored * vocabulary);
    engine.forward(tokens.subspan(item.prompt_tokens, scored), item.prompt_tokens, recording, logits);
    item.reference = Reference(std::move(logits), vocabulary);
  }
  item.layers = recording.take_rows();
  progress.advance(0);
}

Measurement Measuring::measure(const Item& item, const std::string& policy, const BlockType* type, llama::Engine& engine,
                               Progress& progress) const {
  CountingMemory memory;
  kvcompress::AnyCache cache = make_cache(policy, shape_, memory.handle());
  Measurement result;
  {
    const Stopwatch watch(result.compress_seconds);
    compress_prompt(type == nullptr ? item.layers : rounded(*type, item.layers), cache);
  }
  result.bytes_after_prompt = bytes_of(cache.memory());
  for (const Haystack::Question& question : item.questions) {
    TimedAttention attention(cache.fork());
    result.right.push_back(ask(question, item.prompt_tokens, attention, engine, progress));
  }
  if (item.questions.empty()) {
    TimedAttention attention(std::move(cache), memory.handle(), type);
    decode(item, attention, engine, progress, result);
    const kvcompress::MemoryReport report = attention.cache().memory();
    result.bytes = bytes_of(report);
    result.layer_bytes = layer_bytes_of(attention.cache());
    result.slow_bytes = report.slow_tier + report.slow_file;
    result.fetched_bytes = attention.cache().fetched();
    result.bits_per_value = 8.0 * static_cast<double>(result.bytes) / static_cast<double>(item.tokens.size() * shape_.values_per_token());
    result.peak_bytes = memory.peak();
  }
  return result;
}

/// Feeds the second half of a window token by token.
void Measuring::decode(const Item& item, TimedAttention& attention, llama::Engine& engine, Progress& progress, Measurement& result) const {
  std::vector<float> logits(engine.config().vocabulary);
  for (std::size_t i = item.prompt_tokens; i < item.tokens.size(); ++i) {
    {
      const Stopwatch watch(result.decode_seconds);
      engine.forward({&item.tokens[i], 1}, i, attention, logits);
    }
    const std::size_t scored = i - item.prompt_tokens;
    if (scored < item.reference.tokens()) { result.agreement.add(item.reference, scored, logits, item.tokens[i + 1]); }
    progress.advance();
  }
  attention.commit();
  result.cache_seconds = attention.seconds();
}

/// Whether greedy decoding answers the question right, digit by digit.
bool Measuring::ask(const Haystack::Question& question, std::size_t position, TimedAttention& attention, llama::Engine& engine,
                    Progress& progress) const {
  std::vector<float> logits(engine.config().vocabulary);
  for (const llama::Token token : question.asked) {
    engine.forward({&token, 1}, position++, attention, logits);
    progress.advance();
  }
  for (const llama::Token token : question.answer) {
    if (arg_max(logits) != token) { return false; }
    engine.forward({&token, 1}, position++, attention, logits);
  }
  return true;
}

std::size_t Measuring::steps() const {
  std::size_t steps = 0;
  std::size_t reference_steps = 0;
  for (const Item& item : items_) {
    steps += item.tokens.size() - item.prompt_tokens;
    if (item.questions.empty()) { reference_steps += item.tokens.size() - item.prompt_tokens; }
    for (const Haystack::Question& question : item.questions) { steps += question.asked.size(); }
  }
  return steps * setup_.policies.size() + reference_steps * references();
}

Comparison Measuring::run(std::vector<std::unique_ptr<llama::Engine>>& engines) {
  Progress progress(steps());
  const std::size_t users = setup_.policies.size() + references();
  measured_.assign(items_.size(), std::vector<Measurement>(users));
  std::vector<Agreement> exact(items_.size());
  Schedule schedule(items_.size(), users);
  comparison::run(schedule, engines.size(), [&](std::size_t thread, const Schedule::Task& task) {
    Item& item = items_[task.item];
    switch (task.step) {
      case Schedule::Step::prepare:
        prepare(item, *engines[thread], progress);
        for (std::size_t t = 0; t < item.reference.tokens(); ++t) {
          exact[task.item].loss += item.reference.loss(t, item.tokens[item.prompt_tokens + t + 1]);
          ++exact[task.item].tokens;
        }
        break;
      case Schedule::Step::use:
        if (task.user < setup_.policies.size()) {
          measured_[task.item][task.user] = measure(item, setup_.policies[task.user].settings, nullptr, *engines[thread], progress);
        } else if (item.questions.empty()) {
          const BlockType& type = block_types[task.user - setup_.policies.size()];
          measured_[task.item][task.user] = measure(item, "f32", &type, *engines[thread], progress);
        }
        break;
      case Schedule::Step::release:
        item.layers = {};
        item.reference = {};
        break;
    }
  });
  for (const Agreement& part : exact) { exact_.add(part); }  // in the order of the text, whoever was first

  Comparison result = summary(setup_, items_, windows_, measured_, exact_);
  for (std::size_t r = 0; r < references(); ++r) {
    Agreement agreement;
    for (std::size_t i = 0; i < windows_; ++i) { agreement.add(measured_[i][setup_.policies.size() + r].agreement); }
    Row reference;
    reference.policy = {std::string(block_types[r].name), std::string(block_types[r].name)};
    reference.bits_per_value = block_types[r].bits_per_value();
    reference.kl = agreement.mean_kl();
    result.references.push_back(std::move(reference));
  }
  return result;
}

}  // namespace

void check(const Setup& setup, const llama::Model& model) {
  if (setup.context > model.config.context) {
    throw BadArgument(fmt::format("--context is {}, must be at most {}, what the model knows", setup.context, model.config.context));
  }
  std::vector<double> factors;
  const kvcompress::Shape shape = llama::shape_of(model, factors);
  for (const Policy& policy : setup.policies) {
    try {
      static_cast<void>(make_cache(policy.settings, shape, {}));
    } catch (const kvcompress::Error& error) {
      std::string_view sentence = error.what();
      if (sentence.starts_with("kvcompress: ")) { sentence.remove_prefix(12); }
      if (sentence.starts_with("policy \"")) { throw BadArgument(std::string(sentence)); }
      throw BadArgument(fmt::format("policy {}: {}", policy.settings, sentence));
    }
  }
}

Comparison compare_policies(const Setup& setup) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::unique_ptr<llama::Engine>> engines;
  for (std::size_t i = 0; i < setup.threads; ++i) { engines.push_back(std::make_unique<llama::Engine>(setup.model, 1)); }
  check(setup, engines.front()->model());
  Items items = make_items(setup, engines.front()->vocabulary());
  const std::size_t text_tokens = items.text_tokens;
  Comparison result = Measuring(setup, engines.front()->model(), std::move(items)).run(engines);
  result.text_tokens = text_tokens;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace comparison
