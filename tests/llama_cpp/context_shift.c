/* tests/llama_cpp/context_shift.c - a program of llama.h alone that writes more text than its context holds: context_shift LIBRARIES MODEL.gguf
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "llama.h"

static void quiet(enum ggml_log_level level, const char* text, void* unused) {
  (void)unused;
  if (level >= GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); }
}

int main(int argc, char** argv) {
  enum { context_size = 256, kept = 4, dropped = 128, written = 450, apart = 300 };
  if (argc != 3) { return fputs("usage: context_shift LIBRARIES MODEL.gguf\n", stderr), EXIT_FAILURE; }
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(argv[1]);
  struct llama_model_params model_params = llama_model_default_params();
  model_params.use_extra_bufts = false;
  struct llama_model* model = llama_model_load_from_file(argv[2], model_params);
  if (model == NULL) { return EXIT_FAILURE; }
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = context_size, params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  struct llama_context* context = llama_init_from_model(model, params);
  if (context == NULL) { return EXIT_FAILURE; }
  llama_memory_t memory = llama_get_memory(context);
  const struct llama_vocab* vocabulary = llama_model_get_vocab(model);
  const char* prompt = "The keeper of the lighthouse";
  llama_token tokens[64];
  int count = llama_tokenize(vocabulary, prompt, (int)strlen(prompt), tokens, 64, true, false);
  const int size = llama_vocab_n_tokens(vocabulary);
  int* free_from = calloc((size_t)size, sizeof *free_from);
  int shifts = 0;
  for (int i = 0; i < written; ++i) {
    const llama_pos next = llama_memory_seq_pos_max(memory, 0) + 1;
    if (next + count > context_size) {
      if (!llama_memory_can_shift(memory) || !llama_memory_seq_rm(memory, 0, kept, kept + dropped)) {
        return fputs("there is no room, and none can be made\n", stderr), EXIT_FAILURE;
      }
      llama_memory_seq_add(memory, 0, kept + dropped, -1, -dropped);
      ++shifts;
    }
    if (llama_decode(context, llama_batch_get_one(tokens, count)) != 0) { return EXIT_FAILURE; }
    const float* logits = llama_get_logits_ith(context, -1);
    llama_token best = -1; /* of those not used lately, or a small model would say one thing for ever */
    for (llama_token t = 0; t < size; ++t) {
      if (free_from[t] <= i && (best < 0 || logits[t] > logits[best])) { best = t; }
    }
    free_from[best] = i + apart;
    count = 1, tokens[0] = best;
    char text[64];
    printf("%.*s", (int)llama_token_to_piece(vocabulary, best, text, sizeof text, 0, false), text);
  }
  printf("\n%d shifts\n", shifts);
  free(free_from);
  llama_free(context);
  llama_model_free(model);
  return EXIT_SUCCESS;
}
