// examples/compare_policies/read_dump.hpp - tensors of one's own, read.
// SPDX-License-Identifier: MIT
#pragma once

#include "compare_policies/kv_results.hpp"
#include "tensors/dump_data.hpp"

namespace comparison {

/// What --kv and --layout name; raises llama::Error for a dump that is wrong.
tensors::Dump read_dump(const KvSetup& setup);

}  // namespace comparison
