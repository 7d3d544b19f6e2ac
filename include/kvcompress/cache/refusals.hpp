// include/kvcompress/cache/refusals.hpp - what the policy of a lane refuses whatever rows there are, and why; empty: it does not.
// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "kvcompress/cache/observe.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The facts of the value store of a lane.
template <class P>
constexpr const StoreFacts& value_facts(const PolicyOptions<P>& options, const Site& site) noexcept {
  using Storage = typename Axes<P>::Storage;
  return facts_of_made_from<typename Storage::Values>(values_at<Storage>(options.storage, site));
}
template <class P>
std::string_view why_no_shift(const PolicyOptions<P>& options, const Site& site) noexcept {
  if (value_facts<P>(options, site).in_keys) { return "the rows hold keys and values at once, which cannot be turned"; }
  if (!Axes<P>::Retrieval::renumbers(options.retrieval, site)) { return "the retrieval's index is made at the original positions"; }
  return {};
}
template <class P>
std::string_view why_no_alibi(const PolicyOptions<P>& options, const Site& site) noexcept {
  const bool reads_some = value_facts<P>(options, site).prepares || !Axes<P>::Retrieval::reads_all(options.retrieval, site);
  return reads_some || query_window<P>(options, site) > 0 ? "the policy chooses rows by queries alone, without their distance" : "";
}
template <class P>
std::string_view why_no_query_position(const PolicyOptions<P>& options, const Site& site) noexcept {
  const bool sees = sees_queries<P>(options, site, false) || sees_queries<P>(options, site, true);
  return sees ? "the policy observes every query, and this cache has a part of its softmax" : "";
}

}  // namespace kvcompress::detail
