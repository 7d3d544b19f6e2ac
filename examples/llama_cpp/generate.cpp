// examples/llama_cpp/generate.cpp - a small llama.cpp program on a compressed cache: generate MODEL.gguf [POLICY] [PROMPT]
// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "kvcompress/adapters/llama_cpp.hpp"
#include "registry/registry.hpp"

int main(int argc, char** argv) {
  if (argc < 2) { return std::fputs("usage: generate MODEL.gguf [POLICY] [PROMPT]\n", stderr), EXIT_FAILURE; }
  const std::string prompt = argc > 3 ? argv[3] : "The keeper of the lighthouse";
  llama_log_set([](ggml_log_level level, const char* text, void*) { level == GGML_LOG_LEVEL_ERROR ? std::fputs(text, stderr) : 0; },
                nullptr);
  ggml_backend_load_all_from_path(KVCOMPRESS_LLAMA_CPP_LIBRARIES);
  llama_model_params model_params = llama_model_default_params();
  model_params.use_extra_bufts = false;
  const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(llama_model_load_from_file(argv[1], model_params),
                                                                        llama_model_free);
  if (model == nullptr) { return EXIT_FAILURE; }
  const llama_vocab* vocabulary = llama_model_get_vocab(model.get());
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 4096;
  params.n_threads = params.n_threads_batch = 1;

  kvcompress::llama_cpp::Cache cache(examples::registry(), {.policy = argc > 2 ? argv[2] : "kivi4"});
  cache.configure(params, model.get());

  const std::unique_ptr<llama_context, decltype(&llama_free)> context(llama_init_from_model(model.get(), params), llama_free);
  std::vector<llama_token> tokens(prompt.size() + 8);
  tokens.resize(static_cast<std::size_t>(llama_tokenize(vocabulary, prompt.data(), static_cast<int>(prompt.size()), tokens.data(),
                                                        static_cast<int>(tokens.size()), true, false)));
  std::printf("%s", prompt.c_str());
  for (int i = 0; i < 100; ++i) {
    if (cache.decode(context.get(), llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()))) != 0) {
      return std::fprintf(stderr, "%s\n", cache.error().c_str()), EXIT_FAILURE;
    }
    const float* logits = llama_get_logits_ith(context.get(), -1);
    tokens = {static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(vocabulary)) - logits)};
    if (llama_vocab_is_eog(vocabulary, tokens[0])) { break; }
    char text[64];
    std::printf("%.*s", llama_token_to_piece(vocabulary, tokens[0], text, sizeof text, 0, false), text);
  }
  std::printf("\n%zu tokens in %zu KiB\n", static_cast<std::size_t>(cache.sequences().at(0).next), cache.memory().total() >> 10U);
}
