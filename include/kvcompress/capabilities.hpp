// include/kvcompress/capabilities.hpp - what caches of a policy do, asked before one is made.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "kvcompress/cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What a cache of a policy and a shape will do, in one lane or another, and what it refuses. A sentence says why; empty: it is not refused.
struct Capabilities {
  /// To where truncate goes back, exactly.
  enum class Truncates {
    last_commit,  ///< the policy has decided since, or counted what it observed
    exact_rows,   ///< and below it as far as rows have not become codes
    anywhere      ///< nothing is decided and nothing encoded
  };
  bool evicts = false;                ///< rows may leave
  bool keeps_every_row = false;       ///< whatever a later question asks for is still there, if less exact
  bool observes_queries = false;      ///< it sees every query after the prompt: attend or observe each, once
  bool needs_prompt_queries = false;  ///< end_prompt needs queries: attend or observe them
  bool needs_kept_queries = false;    ///< with Record::kept, which repeat the prompt (KVzip)
  bool retrieves = false;             ///< a query reads chosen rows
  bool encodes = false;               ///< rows become codes
  bool offloads = false;              ///< rows are fetched from a slow tier before they are read
  bool in_cache_positions = false;    ///< attention sees the ranks of the rows that are left
  std::size_t layers_together = 1;    ///< most layers that are encoded together: their prompts end together
  Truncates truncates = Truncates::anywhere;
  double bytes_per_token = 0.0;       ///< of a token that stays in every lane, in all layers
  std::string_view shift{};           ///< KVCache::shift
  std::string_view alibi{};           ///< AttendOptions::alibi_slopes
  std::string_view query_position{};  ///< AttendOptions::query_position: shards, shared prefixes
  std::string_view drafts{};          ///< truncate and keep_open of queries that were attended (see PolicyOptions::speculation)
};

/// Of KVCache<P>(shape, options); takes no memory but what the options take. What such a cache would refuse to be is an Error, with its sentence.
/// Cost: a look at every lane.
template <class P>
[[nodiscard]] Capabilities capabilities(const Shape& shape, const PolicyOptions<P>& options = {}) {
  using Storage = typename detail::Axes<P>::Storage;
  constexpr std::size_t many = std::size_t{1} << 14U;  // whole blocks of every store
  const std::size_t bytes = KVCache<P>::bytes_for(shape, many, options);
  Capabilities all{.keeps_every_row = true};
  all.bytes_per_token = static_cast<double>(KVCache<P>::bytes_for(shape, 2 * many, options) - bytes) / static_cast<double>(many);
  const auto first = [](std::string_view& sentence, std::string_view other) {
    if (sentence.empty()) { sentence = other; }
  };
  bool remembers = false;
  detail::for_lanes(shape, [&](const Site& site) {
    const Needs needs = detail::needs<P>(options, site);
    const detail::StoreFacts& keys = detail::facts_of_made_from<typename Storage::Keys>(keys_at<Storage>(options.storage, site));
    const detail::StoreFacts& values = detail::facts_of_made_from<typename Storage::Values>(values_at<Storage>(options.storage, site));
    const bool observes = detail::sees_queries<P>(options, site, false);
    all.evicts = all.evicts || (needs.decides != Decides::never && !needs.colder);
    all.observes_queries = all.observes_queries || observes;
    all.needs_prompt_queries = all.needs_prompt_queries || needs.queries || needs.observes == Observes::kept_queries ||
                               detail::sees_queries<P>(options, site, true) || detail::query_window<P>(options, site) > 0;
    all.needs_kept_queries = all.needs_kept_queries || needs.observes == Observes::kept_queries;
    all.retrieves = all.retrieves || detail::retrieves<P>(options, site);
    all.encodes = all.encodes || keys.encodes || values.encodes;
    all.offloads = all.offloads || keys.prepares || values.prepares;
    all.in_cache_positions = all.in_cache_positions || detail::renumbers<P>(options, site);
    all.layers_together = std::max(all.layers_together, detail::layers_with<P>(options, shape, site.layer).size());
    remembers = remembers || detail::keeps_what_it_saw(needs);
    first(all.shift, detail::why_no_shift<P>(options, site));
    first(all.alibi, detail::why_no_alibi<P>(options, site));
    first(all.query_position, detail::why_no_query_position<P>(options, site));
    if (observes && options.speculation == 0) { first(all.drafts, "Options::speculation is 0: observed queries are counted at once"); }
  });
  all.keeps_every_row = !all.evicts;
  all.truncates = remembers                      ? Capabilities::Truncates::last_commit
                  : all.encodes || all.retrieves ? Capabilities::Truncates::exact_rows
                                                 : Capabilities::Truncates::anywhere;
  return all;
}

}  // namespace kvcompress
