// include/kvcompress/adapters/llama_cpp/batch.hpp - whose tokens llama.cpp's graph is about to compute.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "kvcompress/adapters/llama_cpp/nodes.hpp"
#include "llama.h"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// A batch that llama_decode cuts into ubatches. In a unified cache these are the batch's tokens in order; else a token's cell tells its
/// stream, which is its sequence, and each sequence's tokens come in order.
class Batch {
 public:
  struct Token {
    llama_seq_id sequence;
    Position position;
  };
  /// A sequence's tokens in an ubatch: their places in it and their positions.
  struct Part {
    std::vector<std::size_t> places;
    std::vector<Position> positions;
  };

  /// Reads the batch; next(id) is the position after the newest token of a sequence, for batches without positions.
  Batch() = default;
  Batch(const llama_batch& batch, auto&& next) {
    for (int i = 0; i < batch.n_tokens; ++i) {
      require(batch.seq_id == nullptr || batch.n_seq_id[i] == 1, ErrorCode::input, "llama_cpp: token ", i, " belongs to ",
              batch.seq_id != nullptr ? batch.n_seq_id[i] : 1, " sequences, must be one");
      const llama_seq_id id = batch.seq_id != nullptr ? batch.seq_id[i][0] : 0;
      std::vector<Position>& positions = positions_[id];
      const Position expected = positions.empty() ? next(id) : positions.back() + 1;
      positions.push_back(batch.pos != nullptr ? static_cast<Position>(batch.pos[i]) : expected);
      tokens_.push_back({id, positions.back()});
    }
  }
  /// The positions of each sequence, in order.
  [[nodiscard]] const std::map<llama_seq_id, std::vector<Position>>& positions() const noexcept { return positions_; }

  /// The next ubatch's tokens by sequence. `keys` is the node that stores a layer's keys.
  [[nodiscard]] std::map<llama_seq_id, Part> next_ubatch(const ggml_tensor& keys, bool unified) {
    const auto count = static_cast<std::size_t>(keys.src[0]->ne[1]);
    const auto* cells = static_cast<const std::int64_t*>(keys.src[1]->data);
    const std::int64_t cells_per_stream = root(keys.src[2])->ne[1];
    std::map<llama_seq_id, Part> parts;
    require(read_ + count <= tokens_.size(), ErrorCode::phase, "llama_cpp: the graph has ", read_ + count, " tokens, the batch ",
            tokens_.size());
    for (std::size_t i = 0; i < count; ++i) {
      const llama_seq_id id = unified ? tokens_[read_ + i].sequence : static_cast<llama_seq_id>(cells[i] / cells_per_stream);
      const std::vector<Position>& positions = positions_[id];
      std::size_t& read = read_of_[id];
      require(read < positions.size(), ErrorCode::phase, "llama_cpp: the graph has more tokens of sequence ", id,
              " than the batch: ", positions.size());
      parts[id].places.push_back(i);
      parts[id].positions.push_back(positions[read++]);
    }
    read_ += count;
    return parts;
  }

 private:
  std::vector<Token> tokens_;
  std::map<llama_seq_id, std::vector<Position>> positions_;
  std::map<llama_seq_id, std::size_t> read_of_;
  std::size_t read_ = 0;
};

}  // namespace kvcompress::llama_cpp
