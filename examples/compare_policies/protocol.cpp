// examples/compare_policies/protocol.cpp - the measurement, see protocol.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/protocol.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "compare_policies/block_types.hpp"
#include "compare_policies/calibrate.hpp"
#include "compare_policies/clock.hpp"
#include "compare_policies/counting_memory.hpp"
#include "compare_policies/items.hpp"
#include "compare_policies/measurement.hpp"
#include "compare_policies/model_facts.hpp"
#include "compare_policies/policies.hpp"
#include "compare_policies/policy_cache.hpp"
#include "compare_policies/presets.hpp"
#include "compare_policies/progress.hpp"
#include "compare_policies/schedule.hpp"
#include "llama/cache_shape.hpp"
#include "llama/engine.hpp"

namespace comparison {
namespace {

class Measuring {
 public:
  Measuring(const Setup& setup, const llama::Model& model, Items&& items)
      : setup_(setup), shape_(llama::shape_of(model, frequency_factors_)), windows_(items.windows), items_(std::move(items.all)) {}

  [[nodiscard]] Comparison run(std::vector<std::unique_ptr<llama::Engine>>& engines);

 private:
  void prepare(Item& item, llama::Engine& engine, Progress& progress) const;
  [[nodiscard]] Measurement measure(const Item& item, const std::string& policy, const BlockType* type, llama::Engine& engine,
                                    Progress& progress) const;
  void decode(const Item& item, PolicyCache& cache, llama::Engine& engine, Progress& progress, Measurement& result) const;
  [[nodiscard]] bool ask(const Haystack::Question& question, std::size_t& position, PolicyCache& cache, llama::Engine& engine,
                         Progress& progress, bool to_the_end, std::vector<float> logits = {}) const;
  [[nodiscard]] std::vector<double> converse(const Item& item, const PolicyCache& prompt, llama::Engine& engine, Progress& progress) const;
  [[nodiscard]] std::size_t steps() const;
  /// How many of llama.cpp's types are measured: their blocks must fit a head.
  [[nodiscard]] std::size_t references() const {
    return setup_.references && shape_.head_dim % 32 == 0 ? 2 * block_types.size() : std::size_t{0};
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
    if (item.kind == Item::Kind::inside) { item.next_logits.resize(engine.config().vocabulary); }
    engine.forward(tokens.first(item.prompt_tokens), 0, recording, item.next_logits, true);
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
  PolicyCache cache(policy, shape_, memory.handle());
  Measurement result;
  {
    const Stopwatch watch(result.compress_seconds);
    cache.give_prompt(type == nullptr ? item.layers : rounded(*type, item.layers));
  }
  result.bytes_after_prompt = cache.bytes();
  for (const Haystack::Question& question : item.questions) {
    PolicyCache asked = cache.fork();
    std::size_t position = item.prompt_tokens;
    result.right.push_back(ask(question, position, asked, engine, progress, false, item.next_logits));
  }
  if (item.kind == Item::Kind::haystack && setup_.turns > 0) { result.turns = converse(item, cache, engine, progress); }
  if (item.questions.empty()) {
    if (type != nullptr) { cache.round_to(*type); }
    decode(item, cache, engine, progress, result);
    result.bytes = cache.bytes();
    result.layer_bytes = cache.layer_bytes();
    result.slow_bytes = cache.slow_bytes();
    result.fetched_bytes = cache.fetched();
    result.bits_per_value = 8.0 * static_cast<double>(result.bytes) / static_cast<double>(item.tokens.size() * shape_.values_per_token());
    result.peak_bytes = memory.peak();
  }
  return result;
}

/// Feeds the second half of a window token by token.
void Measuring::decode(const Item& item, PolicyCache& cache, llama::Engine& engine, Progress& progress, Measurement& result) const {
  std::vector<float> logits(engine.config().vocabulary);
  for (std::size_t i = item.prompt_tokens; i < item.tokens.size(); ++i) {
    {
      const Stopwatch watch(result.decode_seconds);
      engine.forward({&item.tokens[i], 1}, i, cache, logits);
    }
    const std::size_t scored = i - item.prompt_tokens;
    if (scored < item.reference.tokens()) { result.agreement.add(item.reference, scored, logits, item.tokens[i + 1]); }
    progress.advance();
  }
  cache.commit();
  result.cache_seconds = cache.seconds();
}

/// Whether greedy decoding answers the question right, digit by digit; `to_the_end`: the right digits follow whatever it said, and the end of the
/// sentence.
bool Measuring::ask(const Haystack::Question& question, std::size_t& position, PolicyCache& cache, llama::Engine& engine,
                    Progress& progress, bool to_the_end, std::vector<float> logits) const {
  logits.resize(engine.config().vocabulary);
  const auto feed = [&](const llama::Token& token) { engine.forward({&token, 1}, position++, cache, logits); };
  for (const llama::Token& token : question.asked) {
    feed(token);
    progress.advance();
  }
  bool right = true;
  for (const llama::Token& token : question.answer) {
    right = right && arg_max(logits) == token;
    if (!right && !to_the_end) { return false; }
    feed(token);
  }
  if (to_the_end) {
    for (const llama::Token& token : question.end) { feed(token); }
  }
  return right;
}

/// SCBench's second turns: after one compression, questions that follow each other in one conversation, the right answer behind each. One
/// conversation begins with each of the needles, so that every turn asks for all of them. The share of right answers, by turn.
std::vector<double> Measuring::converse(const Item& item, const PolicyCache& prompt, llama::Engine& engine, Progress& progress) const {
  const std::size_t count = item.questions.size();
  std::vector<double> right(std::min(setup_.turns, count), 0.0);
  for (std::size_t first = 0; first < count; ++first) {
    PolicyCache cache = prompt.fork();
    std::size_t position = item.prompt_tokens;
    for (std::size_t turn = 0; turn < right.size(); ++turn) {
      const bool is_right = ask(item.questions[(first + turn) % count], position, cache, engine, progress, true);
      right[turn] += is_right ? 1.0 / static_cast<double>(count) : 0.0;
    }
  }
  return right;
}

std::size_t Measuring::steps() const {
  std::size_t steps = 0;
  std::size_t reference_steps = 0;
  for (const Item& item : items_) {
    steps += item.tokens.size() - item.prompt_tokens;
    if (item.questions.empty()) { reference_steps += item.tokens.size() - item.prompt_tokens; }
    const std::size_t times = item.kind == Item::Kind::haystack ? 1 + std::min(setup_.turns, item.questions.size()) : 1;
    for (const Haystack::Question& question : item.questions) { steps += times * question.asked.size(); }
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
        } else if (item.kind == Item::Kind::window) {
          const std::size_t reference = task.user - setup_.policies.size();
          BlockType type = block_types[reference / 2];
          type.turned = reference % 2 == 1 ? turned_width(shape_.head_dim) : 0;
          measured_[task.item][task.user] = measure(item, "f32", &type, *engines[thread], progress);
        }
        break;
      case Schedule::Step::release:
        item.layers = {};
        item.next_logits = {};
        item.reference = {};
        break;
    }
  });
  for (const Agreement& part : exact) { exact_.add(part); }  // in the order of the text, whoever was first

  Comparison result = summary(setup_, items_, windows_, measured_, exact_);
  for (std::size_t r = 0; r < references(); r += 2) {
    const auto kl = [&](std::size_t reference) {
      Agreement agreement;
      for (std::size_t i = 0; i < windows_; ++i) { agreement.add(measured_[i][setup_.policies.size() + reference].agreement); }
      return agreement.mean_kl();
    };
    const BlockType& type = block_types[r / 2];
    Row reference;
    reference.kl = std::min(kl(r), kl(r + 1));  // plain or turned, as llama.cpp does it where that is better
    reference.policy = {std::string(type.name), std::string(type.name)};
    reference.bits_per_value = type.bits_per_value();
    result.references.push_back(std::move(reference));
  }
  return result;
}

/// The context, and the policies that were given by name.
void check_setup(const Setup& setup, const llama::Model& model, const kvcompress::Shape& shape) {
  if (setup.context > model.config.context) {
    throw BadArgument(fmt::format("--context is {}, must be at most {}, what the model knows", setup.context, model.config.context));
  }
  std::vector<Policy> given;
  for (const Policy& policy : setup.policies) {
    if (policy.fitted.empty()) { given.push_back(policy); }
  }
  check(given, shape);
}

using Engines = std::vector<std::unique_ptr<llama::Engine>>;

/// The first windows of the items, without their haystacks.
Items only_windows(const Items& items, std::size_t windows) {
  Items some;
  some.windows = std::min(windows, items.windows);
  some.all.assign(items.all.begin(), items.all.begin() + static_cast<std::ptrdiff_t>(some.windows));
  return some;
}

bool is_made(const Policy& policy, const kvcompress::Shape& shape) {
  try {
    check({policy}, shape);
  } catch (const BadArgument&) { return false; }
  return true;
}

/// Policies that ask for it get the number of rows with which they take as many bytes as StreamingLLM with `budget` rows, measured on the first
/// window: after the prompt where they evict from that only, else after the last token. Those that come no nearer than a tenth are left out; their names
/// are returned.
std::vector<std::string> fit_sizes(Setup& setup, const kvcompress::Shape& shape, const Items& items, Engines& engines) {
  if (std::none_of(setup.policies.begin(), setup.policies.end(), [](const Policy& policy) { return !policy.fitted.empty(); })) {
    return {};
  }
  std::vector<std::string> left_out;
  const auto leave_out = [&](std::size_t p) {
    left_out.push_back(setup.policies[p].shown() + " (" + evicts_word(setup.policies[p]) + ")");
    setup.policies.erase(setup.policies.begin() + static_cast<std::ptrdiff_t>(p));
  };
  for (std::size_t p = setup.policies.size(); p-- > 0;) {  // at this budget the registry may refuse one
    if (!setup.policies[p].fitted.empty() && !is_made(setup.policies[p], shape)) { leave_out(p); }
  }
  std::vector<double> nearest(setup.policies.size(), 1e300);
  Setup trial = setup;
  trial.references = false;
  const std::string window = fmt::format("streaming:sinks=4,window={}", std::max<std::size_t>(setup.budget, 5) - 4);
  trial.policies.push_back({window, window});
  for (int round = 0; round < 2; ++round) {
    const Comparison result = Measuring(trial, engines.front()->model(), only_windows(items, 1)).run(engines);
    for (std::size_t p = 0; p < setup.policies.size(); ++p) {
      const Policy& policy = setup.policies[p];
      if (policy.fitted.empty()) { continue; }
      const auto bytes_of = [&](const Row& row) { return policy.evicts == Policy::Evicts::prompt ? row.bytes_after_prompt : row.bytes; };
      const double target = bytes_of(result.rows.back());
      const double off = std::abs(bytes_of(result.rows[p]) - target) / target;
      std::string& tried = trial.policies[p].settings;
      if (off < nearest[p]) {
        nearest[p] = off;
        setup.policies[p].settings = tried;
      }
      const double change = (target - bytes_of(result.rows[p])) / (2.0 * static_cast<double>(shape.values_per_token()));  // rows of a lane
      const auto wanted = std::llround(static_cast<double>(option_of(tried, policy.fitted)) + change);
      Policy next{policy.name, with_option(tried, policy.fitted, static_cast<std::size_t>(std::max(2LL, wanted)))};
      if (is_made(next, shape)) { tried = std::move(next.settings); }
    }
  }
  for (std::size_t p = setup.policies.size(); p-- > 0;) {
    if (!setup.policies[p].fitted.empty() && nearest[p] > 0.1) { leave_out(p); }
  }
  return left_out;
}

/// The policy with the least KL at `setup.calibrate` bits per number that greedy_bits finds among the list's storages, measured on the first windows.
std::string calibrated(const Setup& setup, const kvcompress::Shape& shape, const Items& items, Engines& engines) {
  constexpr std::size_t windows = 2;
  Setup trial = setup;
  trial.references = false;
  trial.policies = {{"full", "full"}, {"f32", "f32"}};
  std::vector<std::string> storages;
  for (const Policy& policy : setup.policies) {
    if (policy.name == "full") { continue; }
    const Sides sides = sides_of(policy.settings);
    if (sides.keys.empty() || sides.keys != sides.values) {
      throw BadArgument(fmt::format("--calibrate chooses among storages, {} is none: give --policies like lm2;lm3;lm4", policy.name));
    }
    storages.push_back(sides.keys);
  }
  for (std::size_t side = 0; side < 2 * shape.layers; ++side) {
    for (const std::string& storage : storages) {
      const std::string held = side % 2 == 0 ? "keys=" + storage + ",values=f32" : "keys=f32,values=" + storage;
      trial.policies.push_back({storage, one_layer(side / 2, held)});
    }
  }
  check(trial.policies, shape);
  const Comparison result = Measuring(trial, engines.front()->model(), only_windows(items, windows)).run(engines);
  const double all = result.rows[1].bits_per_value;  // all in f32
  const auto count = static_cast<double>(2 * shape.layers);
  std::vector<std::vector<HeldSide>> sides(2 * shape.layers);
  for (std::size_t r = 2; r < result.rows.size(); ++r) {
    const Row& row = result.rows[r];
    sides[(r - 2) / storages.size()].push_back({row.policy.name, all - count * (all - row.bits_per_value), row.kl});
  }
  return policy_of(sides, greedy_bits(sides, setup.calibrate));
}

}  // namespace

Comparison compare_policies(const Setup& asked) {
  const auto start = std::chrono::steady_clock::now();
  Setup setup = asked;
  Engines engines;
  for (std::size_t i = 0; i < setup.threads; ++i) { engines.push_back(std::make_unique<llama::Engine>(setup.model, 1)); }
  const llama::Model& model = engines.front()->model();
  std::vector<double> factors;
  const kvcompress::Shape shape = llama::shape_of(model, factors);
  check_setup(setup, model, shape);
  Items items = make_items(setup, engines.front()->vocabulary());
  const std::size_t text_tokens = items.text_tokens;
  std::vector<std::string> left_out = fit_sizes(setup, shape, items, engines);
  std::string chosen;
  if (setup.calibrate > 0.0) {
    chosen = calibrated(setup, shape, items, engines);
    setup.policies.push_back({"calibrated", chosen, "calibrated", "bits"});
  }
  if (setup.by_layer) { setup.policies = by_layer(setup.policies, shape.layers); }
  check(setup.policies, shape);
  Comparison result = Measuring(setup, model, std::move(items)).run(engines);
  result.calibrated = std::move(chosen);
  result.left_out = std::move(left_out);
  result.text_tokens = text_tokens;
  result.model = model_facts(model, setup.model);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace comparison
