/* tests/llama_cpp/context_shift.c - a program of llama.h alone that reads more text than its context holds, and says how likely the text was.
 * SPDX-License-Identifier: MIT
 *
 *     context_shift LIBRARIES MODEL.gguf
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "llama.h"

static const char text[] =
    "The keeper of the lighthouse had not slept. All night the wind had gone about the house like a man who has lost a key, and in the "
    "morning the sea was the colour of lead and the boat was gone. He went down to the shore with his wife and his two sons, and they "
    "looked "
    "for it among the rocks until the rain came. \"We shall have to write to the town,\" said the elder, \"and ask for another.\" But the "
    "father shook his head. He knew the men of the town; they would ask who had tied the rope, and when, and whether it was old, and in "
    "the "
    "end they would send no boat at all, but a letter. So they made a fire in the kitchen and dried their coats, and nobody said anything "
    "more about it until the evening, when the light had to be lit. ";

static void quiet(enum ggml_log_level level, const char* line, void* unused) {
  (void)unused;
  if (level >= GGML_LOG_LEVEL_ERROR) { fputs(line, stderr); }
}
static double negative_log_likelihood(const float* logits, int size, llama_token token) {
  double sum = 0.0;
  for (int t = 0; t < size; ++t) { sum += exp((double)(logits[t] - logits[token])); }
  return log(sum);
}

int main(int argc, char** argv) {
  enum { context_size = 256, prompt = 60, kept = 4, dropped = 128, most = 512 };
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
  const int size = llama_vocab_n_tokens(vocabulary);
  llama_token tokens[most];
  const int length = llama_tokenize(vocabulary, text, (int)strlen(text), tokens, most, true, false);
  int shifts = 0;
  double sum = 0.0;
  for (int i = 0, count = prompt; i + count < 3 * length; i += count, count = 1) { /* over again, so that what is far away matters */
    if (llama_memory_seq_pos_max(memory, 0) + 1 + count > context_size) {
      if (!llama_memory_can_shift(memory) || !llama_memory_seq_rm(memory, 0, kept, kept + dropped)) {
        return fputs("there is no room, and none can be made\n", stderr), EXIT_FAILURE;
      }
      llama_memory_seq_add(memory, 0, kept + dropped, -1, -dropped);
      ++shifts;
    }
    if (llama_decode(context, llama_batch_get_one(tokens + i % length, count)) != 0) { return EXIT_FAILURE; }
    sum += negative_log_likelihood(llama_get_logits_ith(context, -1), size, tokens[(i + count) % length]);
  }
  printf("%d tokens, %.2f nats a token, %d shifts\n", 3 * length, sum / (3 * length - prompt), shifts);
  llama_free(context);
  llama_model_free(model);
  return EXIT_SUCCESS;
}
