// examples/compare_policies/kv_protocol.hpp - the measurement on tensors of one's own: every policy on the same keys, values and queries.
// SPDX-License-Identifier: MIT
#pragma once

#include "compare_policies/kv_results.hpp"

namespace comparison {

/// Reads the dump and measures, for each of its sequences: the rows but the last `decoded` are the prompt, given with their queries and
/// compressed; the rest comes token by token, and each token's attention is compared with the exact one over the dump's rows. Raises a
/// BadArgument for what the dump cannot serve, llama::Error for a dump that is wrong. Times are CPU seconds of one thread.
KvComparison compare_dump(const KvSetup& setup);

}  // namespace comparison
