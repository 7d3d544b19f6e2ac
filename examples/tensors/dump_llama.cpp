// examples/tensors/dump_llama.cpp - wrote data/kvlab-6m-dump: what two layers of the project's model gave to and asked of its cache.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compare_policies/recording.hpp"
#include "kvcompress/core/half.hpp"
#include "llama/engine.hpp"

namespace {

/// Arrays of f16 as one .safetensors.
class Writer {
 public:
  /// rows: (tokens, heads, dim), written as [1, heads, tokens, dim], as Hugging Face has them in its caches. `paired`: channels 2i and 2i + 1 turn
  /// together, as in GGUF files of Llama; they go to i and i + dim/2.
  void add(const std::string& name, const std::vector<float>& rows, std::size_t heads, std::size_t dim, bool paired) {
    const std::size_t tokens = rows.size() / (heads * dim);
    const std::size_t begin = bytes_.size();
    for (std::size_t h = 0; h < heads; ++h) {
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t c = 0; c < dim; ++c) {
          const std::size_t from = !paired ? c : c < dim / 2 ? 2 * c : 2 * (c - dim / 2) + 1;
          const kvcompress::half number(rows[(t * heads + h) * dim + from]);
          bytes_.push_back(static_cast<char>(number.bits & 0xFFU));
          bytes_.push_back(static_cast<char>(number.bits >> 8U));
        }
      }
    }
    header_[name] = {{"dtype", "F16"}, {"shape", {1, heads, tokens, dim}}, {"data_offsets", {begin, bytes_.size()}}};
  }
  void write(const std::string& path) const {
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::ofstream file(path, std::ios::binary);
    for (std::size_t i = 0; i < 8; ++i) { file.put(static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i) & 0xFFU)); }
    file << header << bytes_;
    if (!file.flush()) { llama::fail("{}: cannot be written.", path); }
  }

 private:
  nlohmann::ordered_json header_;
  std::string bytes_;
};

void dump(const std::string& model, const std::string& text, const std::string& folder) {
  constexpr std::size_t tokens = 224;
  llama::Engine engine(model, 1);
  std::ifstream file(text, std::ios::binary);
  const std::string story{std::istreambuf_iterator<char>(file), {}};
  std::vector<llama::Token> prompt = engine.vocabulary().encode(story);
  prompt.resize(tokens);
  prompt.front() = engine.vocabulary().bos().value();
  comparison::Recording recording(engine.config());
  engine.forward(prompt, 0, recording, {}, true);
  const std::vector<comparison::LayerRows> layers = recording.take_rows();
  const llama::Config& c = engine.config();
  Writer writer;
  for (const std::size_t layer : {std::size_t{2}, std::size_t{4}}) {
    const std::string name = fmt::format("layers.{}.", layer);
    writer.add(name + "keys", layers[layer].keys, c.kv_heads, c.head_dim, !c.rope_halves);
    writer.add(name + "values", layers[layer].values, c.kv_heads, c.head_dim, false);
    writer.add(name + "queries", layers[layer].queries, c.query_heads, c.head_dim, !c.rope_halves);
  }
  writer.write(folder + "/layers.safetensors");
  const nlohmann::ordered_json config{{"num_hidden_layers", c.layers},
                                      {"num_attention_heads", c.query_heads},
                                      {"num_key_value_heads", c.kv_heads},
                                      {"head_dim", c.head_dim},
                                      {"rope_theta", c.rope_base}};
  std::ofstream(folder + "/config.json") << config.dump(2) << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    dump(KVCOMPRESS_EXAMPLE_DATA "/kvlab-6m-q8_0.gguf", KVCOMPRESS_EXAMPLE_DATA "/the-lighthouse-ledger.txt",
         argc > 1 ? argv[1] : KVCOMPRESS_EXAMPLE_DATA "/kvlab-6m-dump");
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "dump_llama: {}\n", error.what());
    return 1;
  }
}
