/* tests/llama_cpp/to_f32.c - writes a GGUF file again with all its weights in F32: llama.cpp rounds activations as the weights are.
 * SPDX-License-Identifier: MIT
 *
 *     to_f32 FROM.gguf TO.gguf
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml.h"
#include "gguf.h"

int main(int argc, char** argv) {
  if (argc != 3) { return fprintf(stderr, "usage: to_f32 FROM.gguf TO.gguf\n"), EXIT_FAILURE; }
  struct ggml_context* tensors = NULL;
  struct gguf_context* from = gguf_init_from_file(argv[1], (struct gguf_init_params){.no_alloc = false, .ctx = &tensors});
  if (from == NULL) { return EXIT_FAILURE; }
  size_t bytes = 0;
  for (struct ggml_tensor* t = ggml_get_first_tensor(tensors); t != NULL; t = ggml_get_next_tensor(tensors, t)) {
    bytes += (size_t)ggml_nelements(t) * sizeof(float) + 2 * ggml_tensor_overhead();
  }
  struct ggml_context* floats = ggml_init((struct ggml_init_params){.mem_size = bytes, .mem_buffer = NULL, .no_alloc = false});
  struct gguf_context* to = gguf_init_empty();
  gguf_set_kv(to, from);
  for (int64_t i = 0; i < gguf_get_n_tensors(from); ++i) {
    const struct ggml_tensor* t = ggml_get_tensor(tensors, gguf_get_tensor_name(from, i));
    struct ggml_tensor* f = ggml_new_tensor(floats, GGML_TYPE_F32, ggml_n_dims(t), t->ne);
    ggml_set_name(f, t->name);
    if (t->type == GGML_TYPE_F32) {
      memcpy(f->data, t->data, ggml_nbytes(t));
    } else {
      ggml_get_type_traits(t->type)->to_float(t->data, (float*)f->data, ggml_nelements(t));
    }
    gguf_add_tensor(to, f);
  }
  return gguf_write_to_file(to, argv[2], false) ? EXIT_SUCCESS : EXIT_FAILURE;
}
