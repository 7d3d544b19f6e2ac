// include/kvcompress/policies/streaming_llm.hpp - StreamingLLM: attention sinks and a rolling window.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/sink_window.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Efficient Streaming Language Models with Attention Sinks". Keeps: the first `sinks` and the newest `window` rows of every lane, at
/// in-cache positions. Observes: nothing. Loses: the middle of the text. Bytes per lane: min(tokens, sinks + window) rows.
struct StreamingLLM {
  using Eviction = SinkWindow;
};

}  // namespace kvcompress
