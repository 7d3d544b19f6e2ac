// include/kvcompress/cache/prompts_together.hpp - what prompts of several layers must have in common to be decided over or encoded together.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string_view>

#include "kvcompress/cache/layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Raises an Error if the prompt of layer `number` that ends here cannot be encoded together with that of `other`, which has ended.
template <class P>
void check_encoding_with(const Layer<P>& layer, const Layer<P>& other, std::size_t number, std::size_t other_number) {
  require(layer.next == other.next, ErrorCode::phase, "end_prompt(layer = ", number, "): it has seen ", layer.next,
          " tokens, must have seen as many as layer ", other_number, ", which is encoded together with it: ", other.next);
  require(layer.appended == other.appended, ErrorCode::position, "end_prompt(layer = ", number,
          "): its rows came at other positions than those of layer ", other_number,
          ", which is encoded together with it: they must be appended alike");
  require(!layer.decides() || layer.start() == other.start(), ErrorCode::input, "end_prompt(layer = ", number,
          "): its queries see nothing before position ", layer.start(), ", must be that of layer ", other_number,
          ", which is encoded together with it: ", other.start());
}
/// Raises an Error if it cannot be decided over both together.
template <class P>
void check_decision_with(const Layer<P>& layer, const Layer<P>& other, std::size_t number, std::size_t other_number,
                         std::string_view eviction) {
  require(layer.next == other.next, ErrorCode::phase, "end_prompt(layer = ", number, "): it has seen ", layer.next,
          " tokens, must have seen as many as layer ", other_number, ", with which ", eviction, " decides together: ", other.next);
  require(layer.start() == other.start(), ErrorCode::input, "end_prompt(layer = ", number, "): its queries see nothing before position ",
          layer.start(), ", must be that of layer ", other_number, ", with which ", eviction, " decides together: ", other.start());
}

}  // namespace kvcompress::inline KVCOMPRESS_ABI::detail
