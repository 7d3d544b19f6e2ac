#!/bin/sh
# findings/llama_cpp_seq_keep.sh - llama_memory_seq_keep keeps all sequences when each has a stream of cells of its own.
#
# Guess: as llama.h says, "removes all tokens that do not belong to the specified sequence", whatever kv_unified is.
# Seen (llama.cpp 0.4.0, commit 80fb11ac, npm @node-llama-cpp/linux-x64 3.21.1, CPU): with kv_unified = true the others are gone; with
# kv_unified = false they are all still there, and decoding one of them again from position 0 is refused. To keep one sequence in both
# settings, remove the others one by one with llama_memory_seq_rm.
set -eu
version=3.21.1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --silent --no-audit --no-fund --ignore-scripts --omit=optional --prefix "$dir" \
  "node-llama-cpp@$version" "@node-llama-cpp/linux-x64@$version"
lib=$dir/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64
git clone --quiet --bare "$dir/node_modules/node-llama-cpp/llama/gitRelease.bundle" "$dir/source" 2> /dev/null
for header in include/llama.h ggml/include/ggml.h ggml/include/ggml-alloc.h ggml/include/ggml-backend.h ggml/include/ggml-cpu.h \
              ggml/include/ggml-opt.h ggml/include/gguf.h; do
  git --git-dir "$dir/source" show "HEAD:$header" > "$dir/$(basename "$header")"
done

cat > "$dir/keep.cpp" <<'CPP'
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

// A Llama model of one layer with random weights.
static std::string table, data, values;
static std::uint64_t tensors = 0, keys = 0;
template <class T> static void put(std::string& to, T x) { to.append(reinterpret_cast<const char*>(&x), sizeof x); }
static void put_text(std::string& to, const std::string& x) { put(to, std::uint64_t(x.size())), to += x; }
static void text(const char* key, const char* x) { put_text(values, key), put(values, std::uint32_t(8)), put_text(values, x), ++keys; }
static void whole(const char* key, std::uint32_t x) { put_text(values, key), put(values, std::uint32_t(4)), put(values, x), ++keys; }
static void real(const char* key, float x) { put_text(values, key), put(values, std::uint32_t(6)), put(values, x), ++keys; }
static void tensor(const char* name, std::vector<std::uint64_t> shape, float centre) {
  put_text(table, name), put(table, std::uint32_t(shape.size()));
  std::uint64_t count = 1;
  for (auto n : shape) { put(table, n), count *= n; }
  put(table, std::uint32_t(0)), put(table, std::uint64_t(data.size())), ++tensors;
  while (count-- > 0) { put(data, centre + 0.3F * float(std::rand()) / float(RAND_MAX) - 0.15F); }
  data.resize((data.size() + 31) / 32 * 32);
}
static void write_model(const char* path) {
  text("general.architecture", "llama"), text("tokenizer.ggml.model", "no_vocab");
  whole("llama.context_length", 256), whole("llama.embedding_length", 64), whole("llama.block_count", 1), whole("llama.feed_forward_length", 64);
  whole("llama.vocab_size", 32), whole("llama.attention.head_count", 2), whole("llama.attention.head_count_kv", 2);
  whole("llama.rope.dimension_count", 32), real("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  tensor("token_embd.weight", {64, 32}, 0), tensor("output_norm.weight", {64}, 1), tensor("output.weight", {64, 32}, 0);
  tensor("blk.0.attn_norm.weight", {64}, 1), tensor("blk.0.ffn_norm.weight", {64}, 1);
  for (const char* x : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
    tensor(("blk.0." + std::string(x) + ".weight").c_str(), {64, 64}, 0);
  }
  std::string head = "GGUF";
  put(head, std::uint32_t(3)), put(head, tensors), put(head, keys), head += values + table, head.resize((head.size() + 31) / 32 * 32);
  std::FILE* out = std::fopen(path, "wb");
  std::fwrite(head.data(), 1, head.size(), out), std::fwrite(data.data(), 1, data.size(), out), std::fclose(out);
}

int main(int, char** argv) {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all_from_path(argv[1]);
  write_model(argv[2]);
  llama_model_params model_params = llama_model_default_params();
  model_params.use_extra_bufts = false;
  llama_model* model = llama_model_load_from_file(argv[2], model_params);
  for (const bool unified : {true, false}) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512, params.n_seq_max = 2, params.kv_unified = unified, params.n_threads = params.n_threads_batch = 1;
    llama_context* context = llama_init_from_model(model, params);
    llama_memory_t memory = llama_get_memory(context);
    llama_batch batch = llama_batch_init(8, 0, 1);
    batch.n_tokens = 8;
    for (int i = 0; i < 8; ++i) { batch.token[i] = i, batch.pos[i] = i / 2, batch.n_seq_id[i] = 1, batch.seq_id[i][0] = i % 2, batch.logits[i] = 0; }
    if (llama_decode(context, batch) != 0) { return 1; }
    llama_memory_seq_keep(memory, 1);
    std::printf("kv_unified %d: newest positions of sequences 0 and 1 after seq_keep(1): %d %d\n", unified,
                llama_memory_seq_pos_max(memory, 0), llama_memory_seq_pos_max(memory, 1));
    llama_batch_free(batch), llama_free(context);
  }
  llama_model_free(model);
}
CPP
g++ -std=c++17 -I"$dir" "$dir/keep.cpp" -o "$dir/keep" -L"$lib" -l:libllama.v0.4.0.so -l:libggml.v0.4.0.so -l:libggml-base.so -Wl,-rpath,"$lib"
"$dir/keep" "$lib" "$dir/model.gguf" | tee "$dir/seen"
cat > "$dir/expected" <<'TEXT'
kv_unified 1: newest positions of sequences 0 and 1 after seq_keep(1): -1 3
kv_unified 0: newest positions of sequences 0 and 1 after seq_keep(1): 3 3
TEXT
cmp "$dir/seen" "$dir/expected"
