// include/kvcompress/reference/xkv.hpp - one token basis for all layers and heads of a group.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <Eigen/SVD>
#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"

/// "xKV: Cross-Layer SVD for KV-Cache Compression" (arXiv:2503.18893), as in
/// abdelfattah-lab/xKV@bfe5d7201a09 (fake_layer_merge_dynamic_cache.py).
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

using Heads = std::vector<Matrix>;  // (tokens, dim) for every KV head of one layer

/// A matrix with orthonormal rows `right` as left * right, best in the Frobenius norm for its rank.
struct LowRank {
  Matrix left{};             // (rows, rank): U S, whose columns are orthogonal
  Matrix right{};            // (rank, columns): W^T
  Vector singular_values{};  // (min(rows, columns)), all of them, descending
};

/// The leading `rank` singular triplets; the rank is at most min(rows, columns). Divide and conquer takes 11
/// s to compile, Jacobi 3 s, but Jacobi takes eight times as long to run (0.6 s for 256 x 256).
inline LowRank truncated_svd(const Matrix& x, Index rank) {
  require(rank >= 1 && x.size() > 0 && x.allFinite(), ErrorCode::input, "reference: a matrix of ", x.size(), " numbers at rank ", rank,
          ": must have at least 1, all finite, and a rank of at least 1");
  const Eigen::BDCSVD<Matrix> svd(x, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Index kept = std::min(rank, svd.singularValues().size());
  return {svd.matrixU().leftCols(kept) * svd.singularValues().head(kept).asDiagonal(), svd.matrixV().leftCols(kept).transpose(),
          svd.singularValues()};
}

/// Heads side by side: (tokens, heads * dim).
inline Matrix join_heads(std::span<const Matrix> heads) {
  require(!heads.empty(), ErrorCode::shape, "reference: there must be at least one head");
  Matrix out(heads.front().rows(), static_cast<Index>(heads.size()) * heads.front().cols());
  for (std::size_t h = 0; h < heads.size(); ++h) { out.middleCols(static_cast<Index>(h) * heads[h].cols(), heads[h].cols()) = heads[h]; }
  return out;
}

/// The keys (not rotated) or the values of consecutive layers: that of layer l and head h is about basis *
/// coefficients of its columns. The basis belongs to the tokens and serves all layers and heads.
struct SharedBasis {
  Index heads = 0;           // per layer
  Index dim = 0;             // per head
  Matrix basis{};            // (tokens, rank)
  Matrix coefficients{};     // (rank, layers * heads * dim), orthonormal rows
  Vector singular_values{};  // of the factorised matrix, all of them

  [[nodiscard]] Index rank() const { return basis.cols(); }

  /// One head of one layer, counted from the first layer of the group: (tokens, dim).
  [[nodiscard]] Matrix reconstruct(Index layer, Index head) const {
    return basis * coefficients.middleCols((layer * heads + head) * dim, dim);
  }

  /// Appends tokens, given by the exact rows of every layer, by least squares for the coefficients as they
  /// are.
  void fold_in(std::span<const Heads> layers) { basis = append_rows(basis, Matrix(join_layers(layers) * coefficients.transpose())); }

  /// Layers side by side, each with its heads side by side: (tokens, layers * heads * dim).
  static Matrix join_layers(std::span<const Heads> layers) {
    std::vector<Matrix> joined;
    for (const Heads& layer : layers) { joined.push_back(join_heads(layer)); }
    return join_heads(joined);
  }
};

/// Factorises a tensor of one group of layers; the latents of MLA are keys with one head.
inline SharedBasis shared_basis(std::span<const Heads> layers, Index rank) {
  require(!layers.empty() && !layers.front().empty(), ErrorCode::shape, "reference: there must be at least one layer with one head");
  LowRank low_rank = truncated_svd(SharedBasis::join_layers(layers), rank);
  return {static_cast<Index>(layers.front().size()), layers.front().front().cols(), std::move(low_rank.left), std::move(low_rank.right),
          std::move(low_rank.singular_values)};
}

struct XkvOptions {
  Index layers_per_group = 4;  // 1: an SVD for each layer alone
  Index rank_keys = 512;       // of a whole group; 0 leaves keys exact
  Index rank_values = 768;     // of a whole group; 0 leaves values exact
  Index first_layer = 0;       // layers below stay exact
  Index last_layer = -1;       // the last one that is compressed; -1 means the last of all
};

struct XkvGroup {
  Index first = 0;
  Index layers = 0;
  Index rank_keys = 0;  // each group may have ranks of its own
  Index rank_values = 0;
};

/// The groups of a model, ascending: chunks of `layers_per_group`, the last one possibly shorter, of equal
/// ranks.
inline std::vector<XkvGroup> xkv_groups(Index layers, const XkvOptions& options) {
  require(options.layers_per_group >= 1, ErrorCode::option, "reference: layers_per_group is ", options.layers_per_group,
          ", must be at least 1");
  const Index end = options.last_layer < 0 ? layers : options.last_layer + 1;
  require(options.first_layer >= 0 && end <= layers, ErrorCode::option, "reference: the layers ", options.first_layer, " to ", end,
          " are compressed, must be layers of the model, which has ", layers);
  std::vector<XkvGroup> groups;
  for (Index first = options.first_layer; first < end; first += options.layers_per_group) {
    groups.push_back({first, std::min(options.layers_per_group, end - first), options.rank_keys, options.rank_values});
  }
  return groups;
}

/// The cache of a model, all layers and KV heads. Keys enter before the rotation, queries after it. The
/// prompt is exact until `end_prompt`; later rows stay exact until somebody folds them in.
struct XkvState {
  struct Layer {
    Heads keys{};    // exact rows, not rotated: all before `end_prompt`, afterwards the newest
    Heads values{};  // exact rows
  };
  struct Group {
    XkvGroup layers{};
    std::optional<SharedBasis> keys{};    // none while, or where, keys are exact
    std::optional<SharedBasis> values{};  // none while, or where, values are exact
  };

  std::vector<Group> groups{};
  std::vector<Layer> layers{};
  std::optional<Rope> rope = Rope{};  // of the keys, after the reconstruction; none: keys are never rotated

  XkvState(Index layer_count, const std::vector<XkvGroup>& of, std::optional<Rope> turn = Rope{})
      : layers(static_cast<std::size_t>(layer_count)), rope(turn) {
    for (const XkvGroup& group : of) { groups.push_back({group, {}, {}}); }
  }

  void append(Index layer, const Heads& keys, const Heads& values) {
    Layer& to = layers[static_cast<std::size_t>(layer)];
    append_heads(to.keys, keys);
    append_heads(to.values, values);
  }

  /// Factorises every group; it is the last layer of a group that completes its matrix.
  void end_prompt() {
    for (Group& group : groups) {
      if (group.layers.rank_keys > 0) { group.keys = shared_basis(take(group, &Layer::keys), group.layers.rank_keys); }
      if (group.layers.rank_values > 0) { group.values = shared_basis(take(group, &Layer::values), group.layers.rank_values); }
    }
  }

  /// Moves the exact rows of every group into its basis; not in the official code.
  void fold_in() {
    for (Group& group : groups) {
      if (group.keys) { group.keys->fold_in(take(group, &Layer::keys)); }
      if (group.values) { group.values->fold_in(take(group, &Layer::values)); }
    }
  }

  /// Keys as they are attended, rotated by their places in the text: (tokens, dim).
  [[nodiscard]] Matrix decoded_keys(Index layer, Index head) const {
    const Matrix keys = decoded(layer, head, &Group::keys, &Layer::keys);
    return rope ? rotate(keys, consecutive(0, keys.rows()), *rope) : keys;
  }
  [[nodiscard]] Matrix decoded_values(Index layer, Index head) const { return decoded(layer, head, &Group::values, &Layer::values); }

  /// Attention of one query head that reads `head`; `queries` belong to the newest rows.
  [[nodiscard]] AttentionResult attend(Index layer, Index head, const Matrix& queries, const AttentionOptions& options = {}) const {
    const Matrix keys = decoded_keys(layer, head);
    return attention(queries, keys, decoded_values(layer, head), consecutive(keys.rows() - queries.rows(), queries.rows()),
                     consecutive(0, keys.rows()), options);
  }

 private:
  static void append_heads(Heads& to, const Heads& rows) {
    to.resize(rows.size());
    for (std::size_t h = 0; h < rows.size(); ++h) { to[h] = append_rows(to[h], rows[h]); }
  }

  /// The exact rows of all layers of a group, which then hold none.
  std::vector<Heads> take(const Group& group, Heads Layer::*tensor) {
    std::vector<Heads> rows;
    for (Index l = group.layers.first; l < group.layers.first + group.layers.layers; ++l) {
      Heads& heads = layers[static_cast<std::size_t>(l)].*tensor;
      rows.push_back(heads);
      for (Matrix& head : heads) { head = Matrix(0, head.cols()); }
    }
    return rows;
  }

  [[nodiscard]] Matrix decoded(Index layer, Index head, std::optional<SharedBasis> Group::*factors, Heads Layer::*tensor) const {
    const Matrix& exact = (layers[static_cast<std::size_t>(layer)].*tensor)[static_cast<std::size_t>(head)];
    for (const Group& group : groups) {
      const Index within = layer - group.layers.first;
      if (within < 0 || within >= group.layers.layers || !(group.*factors)) { continue; }
      return append_rows((group.*factors)->reconstruct(within, head), exact);
    }
    return exact;
  }
};

}  // namespace kvcompress::reference
