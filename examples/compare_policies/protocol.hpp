// examples/compare_policies/protocol.hpp - the measurement: every policy on the same tokens, after the same exact prompt.
// SPDX-License-Identifier: MIT
#pragma once

#include "compare_policies/results.hpp"

namespace comparison {

/// Measures; throws if the model or its context cannot serve the setup, or if the registry knows no such policy (a BadArgument). Protocol, for each window of `context` tokens of the text (its first one replaced by BOS):
///
/// 1. The exact model (f32, plain attention) runs the first half, the prompt, once, then predicts the second half: the reference.
/// 2. Each policy gets the prompt's rows and queries, end_prompt, then the second half token by token through its own cache.
/// 3. The predictions of tokens context/2 + 1 to context - 1 are compared; the cache's bytes are taken after the last token.
///
/// For each window also a prompt of the same text with needles: compressed once, then every question is asked of a fork.
/// The numbers do not depend on the number of threads. Times do: they are CPU seconds of one thread while the others work too.
Comparison compare_policies(const Setup& setup);

}  // namespace comparison
