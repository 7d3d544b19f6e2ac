// include/kvcompress/policies/quest.hpp - Quest: every row is kept, a query reads the pages that may matter to it.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/retrieval/page_bounds.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference". Keeps: every row. Reads: `budget` rows per query, in pages of 16,
/// chosen by bounds on q . k. Observes: the current query. Loses: rows of other pages, for this query only. Bytes per lane: those of the
/// storage, and 2 keys in f16 per page. `Combine<Quest, Kivi<4>>` reads only the chosen pages of the codes.
struct Quest {
  using Retrieval = PageBounds<half>;
};

}  // namespace kvcompress
