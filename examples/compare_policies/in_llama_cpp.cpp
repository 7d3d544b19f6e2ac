// examples/compare_policies/in_llama_cpp.cpp - the measurement, see in_llama_cpp.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/in_llama_cpp.hpp"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>

#include "compare_policies/clock.hpp"
#include "compare_policies/counting_memory.hpp"
#include "compare_policies/items.hpp"
#include "compare_policies/measurement.hpp"
#include "compare_policies/policy_list.hpp"
#include "compare_policies/progress.hpp"
#include "compare_policies/schedule.hpp"
#include "ggml-backend.h"
#include "kvcompress/adapters/llama_cpp.hpp"
#include "registry/registry.hpp"

namespace comparison {
namespace {

using Model = std::unique_ptr<llama_model, decltype(&llama_model_free)>;

std::atomic<bool> says_why = false;  // llama.cpp, of what fails; later our own sentences say it

Model load(const std::string& path) {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) { says_why&& level == GGML_LOG_LEVEL_ERROR ? std::fputs(text, stderr) : 0; },
        nullptr);
    ggml_backend_load_all_from_path(KVCOMPRESS_LLAMA_CPP_LIBRARIES);
  });
  llama_model_params params = llama_model_default_params();
  params.use_extra_bufts = false;
  params.n_gpu_layers = 0;
  says_why = true;
  Model model(llama_model_load_from_file(path.c_str(), params), llama_model_free);
  says_why = false;
  if (model == nullptr) { throw std::runtime_error(path + ": llama.cpp does not open it"); }
  return model;
}

/// llama.cpp's tokeniser, as llama::Vocabulary has it.
class Vocabulary {
 public:
  explicit Vocabulary(const llama_model* model) : vocabulary_(llama_model_get_vocab(model)) {}
  [[nodiscard]] std::vector<llama::Token> encode(std::string_view text) const {
    std::vector<llama_token> tokens(text.size() + 8);
    const int count = llama_tokenize(vocabulary_, text.data(), static_cast<int>(text.size()), tokens.data(),
                                     static_cast<int>(tokens.size()), false, false);
    if (count < 0) { throw std::runtime_error("llama.cpp's tokeniser cannot read the text"); }
    std::vector<llama::Token> all(tokens.begin(), tokens.begin() + count);
    if (adds_bos()) { all.insert(all.begin(), *bos()); }
    return all;
  }
  [[nodiscard]] std::string decode(std::span<const llama::Token> tokens) const {
    const std::vector<llama_token> all(tokens.begin(), tokens.end());
    std::string text(16 * all.size() + 64, ' ');
    const auto write = [&] {
      return llama_detokenize(vocabulary_, all.data(), static_cast<int>(all.size()), text.data(), static_cast<int>(text.size()), false,
                              false);
    };
    int length = write();
    if (length < 0) {
      text.resize(static_cast<std::size_t>(-length));
      length = write();
    }
    return text.substr(0, static_cast<std::size_t>(length));
  }
  [[nodiscard]] bool adds_bos() const { return llama_vocab_get_add_bos(vocabulary_) && bos().has_value(); }
  [[nodiscard]] std::optional<llama::Token> bos() const {
    const llama_token token = llama_vocab_bos(vocabulary_);
    return token >= 0 ? std::optional(static_cast<llama::Token>(token)) : std::nullopt;
  }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(llama_vocab_n_tokens(vocabulary_)); }

 private:
  const llama_vocab* vocabulary_;
};

/// A context of one thread, with a cache of ours or with llama.cpp's most exact one.
class Run {
 public:
  Run(llama_model* model, std::size_t context, kvcompress::llama_cpp::Cache* cache) : cache_(cache) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<std::uint32_t>(context);
    params.n_batch = params.n_ubatch = batch_tokens;
    params.n_seq_max = 2;
    params.kv_unified = true;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = GGML_TYPE_F32;
    if (cache != nullptr) { cache->configure(params, model); }
    context_.reset(llama_init_from_model(model, params));
    if (context_ == nullptr) { throw std::runtime_error("llama.cpp makes no context"); }
    vocabulary_ = Vocabulary(model).size();
  }
  [[nodiscard]] llama_context* context() const noexcept { return context_.get(); }

  /// Evaluates tokens of a sequence; with `logits`, appends theirs.
  void forward(std::span<const llama::Token> tokens, std::size_t position, std::vector<float>* logits, llama_seq_id sequence = 0) {
    for (std::size_t at = 0; at < tokens.size(); at += batch_tokens) {
      const std::size_t count = std::min<std::size_t>(batch_tokens, tokens.size() - at);
      llama_batch batch = llama_batch_init(static_cast<int>(count), 0, 1);
      batch.n_tokens = static_cast<int>(count);
      for (std::size_t i = 0; i < count; ++i) {
        batch.token[i] = static_cast<llama_token>(tokens[at + i]), batch.pos[i] = static_cast<llama_pos>(position + at + i);
        batch.n_seq_id[i] = 1, batch.seq_id[i][0] = sequence, batch.logits[i] = logits != nullptr ? 1 : 0;
      }
      const int result = cache_ != nullptr ? cache_->decode(context(), batch) : llama_decode(context(), batch);
      for (std::size_t i = 0; result == 0 && logits != nullptr && i < count; ++i) {
        const float* row = llama_get_logits_ith(context(), static_cast<int>(i));
        logits->insert(logits->end(), row, row + vocabulary_);
      }
      llama_batch_free(batch);
      if (result != 0) { throw std::runtime_error(cache_ != nullptr ? cache_->error() : fmt::format("llama_decode returned {}", result)); }
    }
  }

 private:
  static constexpr std::uint32_t batch_tokens = 512;
  struct Free {
    void operator()(llama_context* context) const noexcept { llama_free(context); }
  };
  kvcompress::llama_cpp::Cache* cache_;
  std::unique_ptr<llama_context, Free> context_;
  std::size_t vocabulary_ = 0;
};

std::size_t room_for(const Item& item) {
  std::size_t longest = 0;
  for (const Haystack::Question& question : item.questions) { longest = std::max(longest, question.asked.size() + question.answer.size()); }
  return item.tokens.size() + longest + 8;
}

void prepare(Item& item, llama_model* model, std::size_t vocabulary) {
  if (!item.questions.empty()) { return; }
  Run exact(model, room_for(item), nullptr);
  const std::span<const llama::Token> tokens(item.tokens);
  exact.forward(tokens.first(item.prompt_tokens), 0, nullptr);
  std::vector<float> logits;
  exact.forward(tokens.subspan(item.prompt_tokens, tokens.size() - item.prompt_tokens - 1), item.prompt_tokens, &logits);
  item.reference = Reference(std::move(logits), vocabulary);
}

/// Whether greedy decoding of a copy of sequence 0 answers the question right, token by token.
bool ask(const Haystack::Question& question, std::size_t position, Run& run, kvcompress::llama_cpp::Cache& cache) {
  constexpr llama_seq_id copy = 1;
  cache.copy(run.context(), 0, copy);
  std::vector<float> logits;
  const auto feed = [&](const llama::Token& token) {
    logits.clear();
    run.forward({&token, 1}, position++, &logits, copy);
  };
  for (const llama::Token& token : question.asked) { feed(token); }
  bool right = true;
  for (const llama::Token& token : question.answer) {
    right = right && arg_max(logits) == token;
    if (!right) { break; }
    feed(token);
  }
  if (!cache.remove(run.context(), copy, -1, -1)) { throw std::runtime_error(cache.error()); }
  return right;
}

Measurement measure(const Item& item, const std::string& policy, llama_model* model, Progress& progress) {
  CountingMemory memory;
  kvcompress::llama_cpp::Cache cache(examples::registry(),
                                     {.policy = policy, .phases = kvcompress::llama_cpp::Phases::said, .memory = memory.handle()});
  Run run(model, room_for(item), &cache);
  const auto bytes = [&] { return cache.memory().fast() - cache.memory().scratch; };
  const std::span<const llama::Token> tokens(item.tokens);
  Measurement result;
  {
    const Stopwatch watch(result.compress_seconds);
    run.forward(tokens.first(item.prompt_tokens), 0, nullptr);
    cache.end_prompt(0);
  }
  result.bytes_after_prompt = bytes();
  for (const Haystack::Question& question : item.questions) {
    result.right.push_back(ask(question, item.prompt_tokens, run, cache));
    progress.advance(question.asked.size());
  }
  if (!item.questions.empty()) { return result; }
  const double before = cache.seconds();
  std::vector<float> logits;
  for (std::size_t i = item.prompt_tokens; i < tokens.size(); ++i) {
    logits.clear();
    {
      const Stopwatch watch(result.decode_seconds);
      run.forward(tokens.subspan(i, 1), i, &logits);
    }
    const std::size_t scored = i - item.prompt_tokens;
    if (scored < item.reference.tokens()) { result.agreement.add(item.reference, scored, logits, tokens[i + 1]); }
    progress.advance();
  }
  result.cache_seconds = cache.seconds() - before;
  result.bytes = bytes();
  std::size_t values = 0;
  for (const auto& [kind, held] : cache.sequences().at(0).caches) {
    result.fetched_bytes += held.fetched();
    for (std::size_t layer = 0; layer < held.shape().layers; ++layer) {
      values += held.tokens(layer) > 0 ? kind.kv_heads * (kind.key_width + kind.value_width) : 0;
    }
  }
  result.slow_bytes = cache.memory().slow_tier + cache.memory().slow_file;
  result.bits_per_value = 8.0 * static_cast<double>(result.bytes) / static_cast<double>(tokens.size() * values);
  result.peak_bytes = memory.peak();
  return result;
}

std::vector<Fact> facts(const llama_model* model, const std::string& path) {
  char description[128] = "";
  llama_model_desc(model, description, sizeof description);
  return {{"Model", fmt::format("{} ({}), {:.2f} million parameters, {:.1f} MB, in llama.cpp", description,
                                std::filesystem::path(path).filename().string(), static_cast<double>(llama_model_n_params(model)) / 1e6,
                                static_cast<double>(llama_model_size(model)) / 1e6)},
          {"Architecture",
           fmt::format("{} layers, {} query heads and {} KV heads, vocabulary {}, context {}", llama_model_n_layer(model),
                       llama_model_n_head(model), llama_model_n_head_kv(model), Vocabulary(model).size(), llama_model_n_ctx_train(model))}};
}

/// So that a policy that does not exist is refused before anything runs.
void check(const Setup& setup, llama_model* model) {
  const auto knows = static_cast<std::size_t>(llama_model_n_ctx_train(model));
  if (setup.context > knows) {
    throw BadArgument(fmt::format("--context is {}, must be at most {}, what the model knows", setup.context, knows));
  }
  for (const Policy& policy : setup.policies) {
    kvcompress::llama_cpp::Cache cache(examples::registry(), {.policy = policy.settings});
    Run run(model, 64, &cache);
    const llama::Token token = 0;
    try {
      run.forward({&token, 1}, 0, nullptr);
    } catch (const std::exception& error) {
      std::string_view sentence = error.what();
      if (sentence.starts_with("kvcompress: ")) { sentence.remove_prefix(12); }
      throw BadArgument(sentence.starts_with("policy \"") ? std::string(sentence)
                                                          : fmt::format("policy {}: {}", policy.settings, sentence));
    }
  }
}

}  // namespace

Comparison compare_in_llama_cpp(const Setup& setup) {
  const auto start = std::chrono::steady_clock::now();
  const Model model = load(setup.model);
  check(setup, model.get());
  const Vocabulary vocabulary(model.get());
  Items items = make_items(setup, vocabulary);
  std::size_t steps = 0;
  for (const Item& item : items.all) {
    steps += item.tokens.size() - item.prompt_tokens;
    for (const Haystack::Question& question : item.questions) { steps += question.asked.size(); }
  }
  Progress progress(steps * setup.policies.size());
  std::vector<std::vector<Measurement>> measured(items.all.size(), std::vector<Measurement>(setup.policies.size()));
  std::vector<Agreement> exact(items.all.size());
  Schedule schedule(items.all.size(), setup.policies.size());
  run(schedule, setup.threads, [&](std::size_t /*thread*/, const Schedule::Task& task) {
    Item& item = items.all[task.item];
    if (task.step == Schedule::Step::prepare) {
      prepare(item, model.get(), vocabulary.size());
      for (std::size_t t = 0; t < item.reference.tokens(); ++t) {
        exact[task.item].loss += item.reference.loss(t, item.tokens[item.prompt_tokens + t + 1]);
        ++exact[task.item].tokens;
      }
    } else if (task.step == Schedule::Step::use) {
      measured[task.item][task.user] = measure(item, setup.policies[task.user].settings, model.get(), progress);
    } else {
      item.reference = {};
    }
  });
  Agreement all;
  for (const Agreement& part : exact) { all.add(part); }
  Comparison result = summary(setup, items.all, items.windows, measured, all);
  result.model = facts(model.get(), setup.model);
  result.text_tokens = items.text_tokens;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace comparison
