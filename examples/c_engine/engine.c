/* examples/c_engine/engine.c - a small Llama engine in plain C; with KVCOMPRESS its key-value cache is ours: engine MODEL.gguf TOKENS [POLICY]
 * SPDX-License-Identifier: MIT
 *
 * Reads the model of this repository (GGUF, Llama, tied embeddings, Q8_0 and F32 tensors) and writes what it would say after the first token.
 * What the library changes stands between #ifdef KVCOMPRESS and #else or #endif. Errors end the program.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef KVCOMPRESS
#include "kvcompress/c_api.h"
#endif

static void die(const char* what) {
  fprintf(stderr, "engine: %s\n", what);
  exit(1);
}

/* ---------------------------------------------------------------- the model's file */

typedef struct tensor {
  char name[64];
  uint32_t type;
  uint64_t offset;
  const unsigned char* data;
  int rows, width;
} tensor;

static struct {
  unsigned char *file, *at;
  tensor tensors[128];
  int tensor_count;
  const unsigned char* pieces; /* the vocabulary: 64-bit lengths and texts */
  int layers, width, heads, kv_heads, inner, vocabulary;
} model;

static uint32_t get32(void) { uint32_t x; memcpy(&x, model.at, 4), model.at += 4; return x; }
static uint64_t get64(void) { uint64_t x; memcpy(&x, model.at, 8), model.at += 8; return x; }
static void get_name(char* name, size_t capacity) {
  uint64_t length = get64(), kept = length < capacity ? length : capacity - 1;
  memcpy(name, model.at, kept), name[kept] = 0, model.at += length;
}
static void skip_value(uint32_t type) {
  static const int bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  if (type == 8) { uint64_t length = get64(); model.at += length; }
  else if (type == 9) { uint32_t of = get32(); for (uint64_t n = get64(); n > 0; --n) { skip_value(of); } }
  else { model.at += bytes[type]; }
}
static void read_value(const char* key, uint32_t type) {
  struct { const char* key; int* to; } wanted[] = {{"llama.block_count", &model.layers}, {"llama.embedding_length", &model.width},
      {"llama.attention.head_count", &model.heads}, {"llama.attention.head_count_kv", &model.kv_heads}, {"llama.feed_forward_length", &model.inner}};
  for (int i = 0; i < 5; ++i) { if (strcmp(key, wanted[i].key) == 0) { memcpy(wanted[i].to, model.at, 4); } }
  if (strcmp(key, "tokenizer.ggml.tokens") == 0) { memcpy(&model.vocabulary, model.at + 4, 4), model.pieces = model.at + 12; }
  skip_value(type);
}
static void read_model(const char* path) {
  FILE* in = fopen(path, "rb");
  if (!in || fseek(in, 0, SEEK_END) != 0) { die("cannot read the model's file"); }
  long bytes = ftell(in);
  rewind(in);
  model.file = model.at = malloc((size_t)bytes);
  if (!model.file || fread(model.file, 1, (size_t)bytes, in) != (size_t)bytes || memcmp(model.file, "GGUF", 4) != 0) { die("not a GGUF file"); }
  fclose(in), model.at += 8;
  uint64_t tensors = get64(), values = get64();
  if (tensors > 128) { die("too many tensors"); }
  for (char key[128]; values > 0; --values) { get_name(key, sizeof key); uint32_t type = get32(); read_value(key, type); }
  for (uint64_t i = 0; i < tensors; ++i) {
    tensor* t = &model.tensors[model.tensor_count++];
    get_name(t->name, sizeof t->name);
    uint32_t dims = get32();
    t->width = (int)get64(), t->rows = dims > 1 ? (int)get64() : 1;
    t->type = get32(), t->offset = get64();
    if (dims > 2 || (t->type != 0 && t->type != 8)) { die("a tensor is neither F32 nor Q8_0"); }
  }
  size_t start = ((size_t)(model.at - model.file) + 31) / 32 * 32;
  for (int i = 0; i < model.tensor_count; ++i) { model.tensors[i].data = model.file + start + model.tensors[i].offset; }
}
static const tensor* find(int layer, const char* name) {
  char full[64];
  if (layer < 0) { snprintf(full, sizeof full, "%s.weight", name); } else { snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name); }
  for (int i = 0; i < model.tensor_count; ++i) { if (strcmp(model.tensors[i].name, full) == 0) { return &model.tensors[i]; } }
  die("a tensor is missing");
  return NULL;
}

/* ---------------------------------------------------------------- arithmetic */

static float half_to_float(uint16_t h) {
  int exponent = (h >> 10) & 31;
  float value = exponent ? ldexpf((float)((h & 1023) + 1024), exponent - 25) : ldexpf((float)(h & 1023), -24);
  return h & 0x8000 ? -value : value;
}
static float number(const tensor* t, int row, int column) {
  size_t at = (size_t)row * (size_t)t->width + (size_t)column;
  if (t->type == 0) { float x; memcpy(&x, t->data + 4 * at, 4); return x; }
  const unsigned char* block = t->data + at / 32 * 34;
  uint16_t scale;
  memcpy(&scale, block, 2);
  return half_to_float(scale) * (float)(signed char)block[2 + at % 32];
}
static void multiply(float* out, const tensor* t, const float* x) {
  for (int r = 0; r < t->rows; ++r) {
    float sum = 0.0f;
    for (int c = 0; c < t->width; ++c) { sum += number(t, r, c) * x[c]; }
    out[r] = sum;
  }
}
static void normalise(float* out, const float* x, const tensor* weight) {
  float squares = 0.0f;
  for (int i = 0; i < model.width; ++i) { squares += x[i] * x[i]; }
  float scale = 1.0f / sqrtf(squares / (float)model.width + 1e-5f);
  for (int i = 0; i < model.width; ++i) { out[i] = x[i] * scale * number(weight, 0, i); }
}
static void rotate(float* heads, int count, int width, int position) {
  for (int h = 0; h < count; ++h) {
    for (int i = 0; i < width; i += 2) {
      float angle = (float)position * powf(10000.0f, -(float)i / (float)width), *x = heads + h * width + i, a = x[0], b = x[1];
      x[0] = a * cosf(angle) - b * sinf(angle), x[1] = a * sinf(angle) + b * cosf(angle);
    }
  }
}

/* ---------------------------------------------------------------- attention, over all tokens so far */

#ifdef KVCOMPRESS
static kvc_cache* cache;
static void attend(int layer, const float* q, const float* k, const float* v, float* out, int position, int head_width) {
  (void)position, (void)head_width;
  if (kvc_append(cache, (size_t)layer, k, v, 1) || kvc_attend(cache, (size_t)layer, q, 1, out, NULL)) { die(kvc_last_error()); }
}
#else
static float *keys, *values;
static void attend(int layer, const float* q, const float* k, const float* v, float* out, int position, int head_width) {
  int row = model.kv_heads * head_width, group = model.heads / model.kv_heads;
  float *all_keys = keys + (size_t)layer * 2048 * (size_t)row, *all_values = values + (size_t)layer * 2048 * (size_t)row, weights[2048];
  memcpy(all_keys + position * row, k, sizeof(float) * (size_t)row), memcpy(all_values + position * row, v, sizeof(float) * (size_t)row);
  for (int h = 0; h < model.heads; ++h) {
    float largest = -INFINITY, sum = 0.0f;
    for (int t = 0; t <= position; ++t) {
      weights[t] = 0.0f;
      for (int c = 0; c < head_width; ++c) { weights[t] += q[h * head_width + c] * all_keys[t * row + h / group * head_width + c]; }
      weights[t] /= sqrtf((float)head_width), largest = weights[t] > largest ? weights[t] : largest;
    }
    for (int t = 0; t <= position; ++t) { sum += weights[t] = expf(weights[t] - largest); }
    for (int c = 0; c < head_width; ++c) {
      float mixed = 0.0f;
      for (int t = 0; t <= position; ++t) { mixed += weights[t] * all_values[t * row + h / group * head_width + c]; }
      out[h * head_width + c] = mixed / sum;
    }
  }
}
#endif

/* ---------------------------------------------------------------- one token through the model; the next one comes back */

static int forward(int token, int position) {
  static float x[1024], normed[1024], q[1024], k[1024], v[1024], mixed[1024], up[4096], gate[4096];
  int head_width = model.width / model.heads, best = 0;
  const tensor* embedding = find(-1, "token_embd");
  for (int i = 0; i < model.width; ++i) { x[i] = number(embedding, token, i); }
  for (int layer = 0; layer < model.layers; ++layer) {
    normalise(normed, x, find(layer, "attn_norm"));
    multiply(q, find(layer, "attn_q"), normed), multiply(k, find(layer, "attn_k"), normed), multiply(v, find(layer, "attn_v"), normed);
    rotate(q, model.heads, head_width, position), rotate(k, model.kv_heads, head_width, position);
    attend(layer, q, k, v, mixed, position, head_width);
    multiply(normed, find(layer, "attn_output"), mixed);
    for (int i = 0; i < model.width; ++i) { x[i] += normed[i]; }
    normalise(normed, x, find(layer, "ffn_norm"));
    multiply(gate, find(layer, "ffn_gate"), normed), multiply(up, find(layer, "ffn_up"), normed);
    for (int i = 0; i < model.inner; ++i) { up[i] *= gate[i] / (1.0f + expf(-gate[i])); }
    multiply(normed, find(layer, "ffn_down"), up);
    for (int i = 0; i < model.width; ++i) { x[i] += normed[i]; }
  }
  normalise(normed, x, find(-1, "output_norm"));
  float* logits = malloc(sizeof(float) * (size_t)model.vocabulary);
  if (!logits) { die("no memory"); }
  multiply(logits, embedding, normed);
  for (int i = 1; i < model.vocabulary; ++i) { best = logits[i] > logits[best] ? i : best; }
  free(logits);
  return best;
}
static void print_piece(int token) {
  const unsigned char* at = model.pieces;
  uint64_t length;
  for (memcpy(&length, at, 8); token > 0; --token) { at += 8 + length, memcpy(&length, at, 8); }
  for (at += 8; length > 0; --length, ++at) {
    if (length >= 3 && memcmp(at, "\xE2\x96\x81", 3) == 0) { putchar(' '), at += 2, length -= 2; } /* a blank */
    else { putchar(*at); }
  }
}

int main(int argc, char** argv) {
  if (argc < 3) { die("usage: engine MODEL.gguf TOKENS [POLICY]"); }
  read_model(argv[1]);
  int tokens = atoi(argv[2]), token = 1;
#ifdef KVCOMPRESS
  kvc_shape shape = kvc_shape_of((size_t)model.layers, (size_t)model.heads, (size_t)model.kv_heads, (size_t)(model.width / model.heads));
  shape.pairing = KVC_INTERLEAVED;
  if (kvc_create(argc > 3 ? argv[3] : "full", &shape, &cache)) { die(kvc_last_error()); }
#else
  keys = calloc((size_t)model.layers * 2048 * (size_t)model.width, sizeof(float)), values = calloc((size_t)model.layers * 2048 * (size_t)model.width, sizeof(float));
  if (!keys || !values || tokens > 2048) { die("no memory for so many tokens"); }
#endif
  for (int position = 0; position < tokens; ++position) {
    token = forward(token, position);
#ifdef KVCOMPRESS
    for (int layer = 0; position == 0 && layer < model.layers; ++layer) { if (kvc_end_prompt(cache, (size_t)layer)) { die(kvc_last_error()); } }
#endif
    print_piece(token);
  }
  putchar('\n');
  return 0;
}
