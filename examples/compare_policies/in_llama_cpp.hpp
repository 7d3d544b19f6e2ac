// examples/compare_policies/in_llama_cpp.hpp - the same measurement with llama.cpp as the engine: any model that it opens.
// SPDX-License-Identifier: MIT
#pragma once

#include "compare_policies/results.hpp"

namespace comparison {

/// As compare_policies (see protocol.hpp), but for these: the reference is llama.cpp with a cache in f32 and flash attention off; each policy
/// computes its own prompt; bytes are taken before the last token is committed; time in the cache is that of a clock on the wall. States facts about the model. A model that llama.cpp or the
/// adapter cannot serve is refused with their sentence; a policy likewise, as a BadArgument.
Comparison compare_in_llama_cpp(const Setup& setup);

}  // namespace comparison
