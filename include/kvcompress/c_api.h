/* include/kvcompress/c_api.h - the caches of kvcompress for C and every language that calls C.
 * SPDX-License-Identifier: MIT
 *
 * Declarations only, C99. One C++ source file of the program includes kvcompress/c_api_implementation.hpp, which defines them.
 *
 * A cache holds keys and values of one sequence. Per layer: append and attend the prompt (at once or in pieces), kvc_end_prompt, then append
 * and attend token by token. Arrays are floats, [tokens][heads][width], without gaps. Functions that can fail return a kvc_status; the
 * sentence that says why is kvc_last_error() of the calling thread, and what was asked for did not happen, not even in part.
 * Different caches are independent. One cache is used by one thread at a time, except kvc_attend_heads.
 */
#ifndef KVCOMPRESS_C_API_H
#define KVCOMPRESS_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvc_status {
  KVC_OK = 0,
  KVC_SHAPE = 1,    /* a size, head count or width that does not fit the cache */
  KVC_OPTION = 2,   /* an option outside its range, or an unknown policy */
  KVC_INPUT = 3,    /* a null pointer, NaN, infinity or a number that the cache cannot hold */
  KVC_PHASE = 4,    /* a function in the wrong phase */
  KVC_POSITION = 5, /* a position that is not newer than those before it, or out of range */
  KVC_MEMORY = 6,   /* no memory */
  KVC_IO = 7,       /* a file or one of your callbacks failed */
  KVC_FORMAT = 8,   /* a saved cache is damaged, or of another policy or shape */
  KVC_OTHER = 9     /* an error of another kind */
} kvc_status;

typedef struct kvc_cache kvc_cache;         /* the keys and values of a sequence, in all layers */
typedef struct kvc_workspace kvc_workspace; /* scratch of one thread, for kvc_attend_heads */

/* Which channels a rotary embedding turns together. */
typedef enum kvc_pairing {
  KVC_HALF_SPLIT = 0, /* channel i with i + rotary_dim / 2 (Hugging Face, NeoX) */
  KVC_INTERLEAVED = 1 /* channel 2i with 2i + 1 (Meta, llama2.c) */
} kvc_pairing;

/* Sizes of a cache, and the rotary embedding, which some policies must know. Begin with kvc_shape_of(...). */
typedef struct kvc_shape {
  size_t layers;
  size_t query_heads;
  size_t kv_heads;
  size_t key_width;
  size_t value_width;
  int unrotated;     /* keys and queries come without their rotary embedding: the cache rotates them */
  double rope_theta; /* base; 0: the model has no rotary embedding */
  double rope_scale; /* linear scaling of positions, usually 1 */
  size_t rotary_dim; /* leading channels that turn; 0: all */
  kvc_pairing pairing;
  const double* frequency_factors; /* optional, rotary_dim / 2 divisors; read during kvc_create only */
} kvc_shape;

/* What a model's attention may vary. Begin with kvc_options_default(). */
typedef struct kvc_options {
  float scale;        /* factor on q . k; 0: 1 / sqrt(key width) */
  float soft_cap;     /* logits become cap * tanh(logit / cap); 0: none */
  size_t window;      /* a query sees the rows less than this far behind it; 0: all */
  uint32_t start;     /* rows before this position (left padding) are not seen */
  float* log_sum_exp; /* optional output [tokens][query_heads]: log of the softmax's denominator */
  const float* sinks; /* optional [query_heads]: learned logits, finite or -infinity, that take part in every softmax and have no value */
  const uint32_t* until; /* optional [tokens]: a token sees the rows before this position, newer ones than itself among them (an image) */
  const uint64_t* among_open; /* optional [tokens][words]: bit r, of words = (rows since the last commit + 63) / 64, says whether a token
                                 sees the r-th of these rows (a tree of drafts); it sees all older ones */
  size_t among_open_words;    /* tokens * words, or 0 */
} kvc_options;

/* To where kvc_truncate goes back. */
typedef enum kvc_truncates {
  KVC_TO_LAST_COMMIT = 0, /* the policy has decided since, or counted what it observed */
  KVC_TO_EXACT_ROWS = 1,  /* and below it as far as rows have not become codes */
  KVC_ANYWHERE = 2
} kvc_truncates;

/* What caches of a policy do in one KV head or another, and what they refuse, with the reason: "" if they do not. */
typedef struct kvc_capabilities {
  int evicts;               /* rows may leave */
  int keeps_every_row;      /* whatever a later question asks for is still there, if less exact */
  int observes_queries;     /* it sees every query after the prompt: attend or observe each, once */
  int needs_prompt_queries; /* kvc_end_prompt needs queries: attend or observe them */
  int retrieves;            /* a query reads chosen rows */
  int encodes;              /* rows become codes */
  int offloads;             /* rows are fetched from a slow tier before they are read */
  int in_cache_positions;   /* attention sees the ranks of the rows that are left */
  size_t layers_together;   /* most layers that are encoded together: their prompts end together */
  kvc_truncates truncates;
  double bytes_per_token;   /* of a token that stays in every KV head, in all layers */
  char shift_refused[128];  /* kvc_shift */
  char drafts_refused[128]; /* kvc_truncate and kvc_keep_open of queries that were attended */
} kvc_capabilities;

/* By which rotary embedding a key is turned that is read back. */
typedef enum kvc_angle {
  KVC_AT_POSITION = 0, /* that of the position that the row is at now */
  KVC_AS_HELD = 1,     /* that which its codes carry: another one only after kvc_shift */
  KVC_UNROTATED = 2
} kvc_angle;

/* Bytes by purpose. */
typedef struct kvc_bytes {
  size_t total;   /* everything taken, scratch included */
  size_t codes;   /* packed codes and their scales */
  size_t exact;   /* rows in 16 or 32 bits */
  size_t other;   /* factors, outliers, positions, scores, indices */
  size_t scratch; /* holds nothing between calls */
  size_t slow_tier;
  size_t spare;
} kvc_bytes;

const char* kvc_version(void);
/* Why the last function of this thread that did not return KVC_OK failed; "" before the first. */
const char* kvc_last_error(void);

kvc_shape kvc_shape_of(size_t layers, size_t query_heads, size_t kv_heads, size_t head_width);
kvc_options kvc_options_default(void);

/* What caches of a policy will do, and what so many tokens that stay in every KV head take, before one is made. A policy that cannot be is
 * refused as kvc_create refuses it. */
kvc_status kvc_capabilities_of(const char* policy, const kvc_shape* shape, kvc_capabilities* capabilities);
kvc_status kvc_bytes_for(const char* policy, const kvc_shape* shape, size_t tokens, size_t* bytes);

/* Makes a cache of a policy such as "full", "kivi4", "snapkv:budget=25%+kivi4". */
kvc_status kvc_create(const char* policy, const kvc_shape* shape, kvc_cache** cache);
void kvc_destroy(kvc_cache* cache);
/* A cache with the same contents: a copy of its own, or one that shares memory with the original until one of them writes. */
kvc_status kvc_copy(const kvc_cache* cache, kvc_cache** copy);
kvc_status kvc_fork(const kvc_cache* cache, kvc_cache** fork);

/* New rows behind those that are there: keys [tokens][kv_heads][key_width], values [tokens][kv_heads][value_width]. */
kvc_status kvc_append(kvc_cache* cache, size_t layer, const float* keys, const float* values, size_t tokens);
/* The same at positions from first_position on, which must not be older than the newest row. */
kvc_status kvc_append_at(kvc_cache* cache, size_t layer, const float* keys, const float* values, size_t tokens, uint32_t first_position);
/* The same at a position per row, none older than the newest row. After a prompt several rows may share one, a tree of drafts: attend them
 * with kvc_options.among_open, then say which are accepted, by their numbers since the last commit, from 0, ascending; the others are forgotten. */
kvc_status kvc_append_positions(kvc_cache* cache, size_t layer, const float* keys, const float* values, size_t tokens,
                                const uint32_t* positions);
kvc_status kvc_keep_open(kvc_cache* cache, size_t layer, const size_t* rows, size_t count);
/* Attention of the newest tokens: queries [tokens][query_heads][key_width] to out [tokens][query_heads][value_width]. options may be null. */
kvc_status kvc_attend(kvc_cache* cache, size_t layer, const float* queries, size_t tokens, float* out, const kvc_options* options);
/* The same for the KV heads [head_begin, head_end) only; several threads may call it at once for different heads, each with a workspace. */
kvc_status kvc_attend_heads(kvc_cache* cache, size_t layer, const float* queries, size_t tokens, float* out, const kvc_options* options,
                            size_t head_begin, size_t head_end, kvc_workspace* workspace);
kvc_status kvc_workspace_create(const kvc_cache* cache, kvc_workspace** workspace);
void kvc_workspace_destroy(kvc_workspace* workspace);
/* For engines with an attention of their own: shows the policy queries at `positions`; log_sum_exp [tokens][query_heads] or null. */
kvc_status kvc_observe(kvc_cache* cache, size_t layer, const float* queries, const uint32_t* positions, size_t tokens,
                       const kvc_options* options, const float* log_sum_exp);

/* Phases: rows of a prompt are compressed when it ends; a later prompt begins with kvc_begin_prompt, unless it comes in one append. */
kvc_status kvc_begin_prompt(kvc_cache* cache, size_t layer);
kvc_status kvc_end_prompt(kvc_cache* cache, size_t layer);
kvc_status kvc_commit(kvc_cache* cache, size_t layer);

/* Forgets all rows at positions >= position; those at [begin, end), once everything is committed; all. */
kvc_status kvc_truncate(kvc_cache* cache, uint32_t position);
kvc_status kvc_remove(kvc_cache* cache, uint32_t begin, uint32_t end);
kvc_status kvc_clear(kvc_cache* cache);
/* Moves the rows at positions [begin, end) by delta in all layers, past no other row, as an engine does that makes room in a full context:
 * kvc_remove(c, 4, 100), then kvc_shift(c, 100, UINT32_MAX, -96). Keys stay as they are, queries are turned instead: nothing is lost. If the
 * newest row moves, the next position moves with it. Needs everything committed. */
kvc_status kvc_shift(kvc_cache* cache, uint32_t begin, uint32_t end, int64_t delta);
/* Takes memory for so many tokens now. */
kvc_status kvc_reserve(kvc_cache* cache, size_t tokens);

/* Tokens that a layer has seen. */
kvc_status kvc_tokens(const kvc_cache* cache, size_t layer, size_t* tokens);
/* Positions that a KV head still holds, ascending: the first `capacity` to `positions` (may be null), how many there are to `count`. */
kvc_status kvc_kept(const kvc_cache* cache, size_t layer, size_t kv_head, uint32_t* positions, size_t capacity, size_t* count);
/* Rows of a KV head, in the order in which they are held, dead ones (position UINT32_MAX, numbers 0) among them: how many there are. */
kvc_status kvc_rows(const kvc_cache* cache, size_t layer, size_t kv_head, size_t* rows);
/* Decodes its rows [begin, end): keys [rows][key_width], values [rows][value_width], positions [rows]; each may be null. `capacity`: rows that
 * each of them has room for. */
kvc_status kvc_read_rows(kvc_cache* cache, size_t layer, size_t kv_head, size_t begin, size_t end, kvc_angle angle, float* keys,
                         float* values, uint32_t* positions, size_t capacity);
/* The same, keys and values in f16. */
kvc_status kvc_read_rows_f16(kvc_cache* cache, size_t layer, size_t kv_head, size_t begin, size_t end, kvc_angle angle, uint16_t* keys,
                             uint16_t* values, uint32_t* positions, size_t capacity);
kvc_status kvc_memory(const kvc_cache* cache, kvc_bytes* bytes);
kvc_status kvc_bits_per_value(const kvc_cache* cache, double* bits);

/* Saves all of a cache; loads it into another one of the same policy, options and shape, which then goes on bit for bit. */
kvc_status kvc_save_file(const kvc_cache* cache, const char* path);
kvc_status kvc_load_file(kvc_cache* cache, const char* path);

#ifdef __cplusplus
}
#endif

#endif
