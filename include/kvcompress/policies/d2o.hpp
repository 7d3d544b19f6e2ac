// include/kvcompress/policies/d2o.hpp - D2O: what attention forgets is merged into rows like it, if there are any.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/merge_ranked.hpp"
#include "kvcompress/eviction/scorers/accumulated_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "D2O: Dynamic Discriminative Operations for Efficient Long-Context Inference of Large Language Models"; AIoT-MLSys-Lab/d2o@12c99d8a9961. Keeps:
/// `budget` rows per lane, sinks and recent ones among them, by accumulated attention; rows that go are merged as MergeRanked says, `weights=cosine`
/// as the code does it, `exponential` as the paper does. Observes: every query. Acts at every commit. Loses: rows unlike all that stay; a merge
/// forgets how many rows it was. Deviations: the code leaves layers 0, 1 and the last one alone and gives the others budgets by how their attention
/// varies; here a policy by layers says so ("layers 0-1,31: f16; rest: d2o:budget=..."), with what d2o_layer_ratios finds.
struct D2O {
  struct Eviction : Evict<AccumulatedAttention, Uniform, Best, MergeRanked> {
    using Base = Evict<AccumulatedAttention, Uniform, Best, MergeRanked>;
    static constexpr std::string_view name = "d2o";
    struct Options : Base::Options {
      constexpr Options() { this->sinks = 4; }
    };
  };
};

/// What share of a prompt's rows each layer keeps, as D2O's code has it: `columns` are sums of attention over the queries of a prompt, (layers, heads,
/// tokens), `share` what the layers keep on average. Of each head the variance of its columns, brought to 0 to 1 over the heads of its layer, whose
/// mean is the layer's; weights are the softmax of their negatives; shares are at least 0.01, at most 1. A layer thus keeps more the fewer of its
/// heads vary much, whatever they vary by.
inline std::vector<double> d2o_layer_ratios(std::span<const float> columns, std::size_t layers, std::size_t heads, double share) {
  require(layers > 0 && heads > 0 && !columns.empty() && columns.size() % (layers * heads) == 0, ErrorCode::input,
          "d2o_layer_ratios: columns has ", columns.size(), " numbers, must have a multiple of layers * heads = ", layers * heads);
  require(share > 0.0 && share <= 1.0, ErrorCode::option, "d2o_layer_ratios: share is ", share, ", must be above 0, at most 1");
  const std::size_t tokens = columns.size() / (layers * heads);
  require(tokens > 1, ErrorCode::input, "d2o_layer_ratios: columns has 1 token, must have at least 2");
  std::vector<double> ratios(layers);
  double sum = 0.0;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::vector<double> variances;
    for (std::size_t head = 0; head < heads; ++head) {
      const auto own = columns.subspan((layer * heads + head) * tokens, tokens);
      double mean = 0.0;
      for (const float x : own) { mean += static_cast<double>(x) / static_cast<double>(tokens); }
      double squares = 0.0;
      for (const float x : own) { squares += (static_cast<double>(x) - mean) * (static_cast<double>(x) - mean); }
      variances.push_back(squares / static_cast<double>(tokens - 1));
    }
    const auto [least, most] = std::minmax_element(variances.begin(), variances.end());
    double metric = 0.0;
    for (const double variance : variances) { metric += *most > *least ? (variance - *least) / (*most - *least) : 0.0; }
    ratios[layer] = math::exp(-metric / static_cast<double>(heads));
    sum += ratios[layer];
  }
  for (double& ratio : ratios) { ratio = std::clamp(ratio / sum * static_cast<double>(layers) * share, 0.01, 1.0); }
  return ratios;
}

}  // namespace kvcompress
