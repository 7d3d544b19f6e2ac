// include/kvcompress/cache/needs.hpp - what the eviction of a policy needs: at most, of a whole cache, and of one lane.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

template <class P>
inline constexpr Needs may = Axes<P>::Eviction::may;
/// Whether some lane may want to see every query, or the last ones of a prompt.
template <class P>
inline constexpr bool may_see_queries =
    may<P>.observes == Observes::every_query || may<P>.observes == Observes::last_queries || may<P>.observes == Observes::as_options_say;
template <class P>
inline constexpr bool may_see_last = may<P>.observes == Observes::last_prompt_queries || may<P>.observes == Observes::last_queries ||
                                     may<P>.observes == Observes::as_options_say;

/// Of the lanes of a cache together.
template <class P>
constexpr Needs needs(const PolicyOptions<P>& options) noexcept {
  if constexpr (requires { Axes<P>::Eviction::needs(options.eviction); }) {
    return Axes<P>::Eviction::needs(options.eviction);
  } else {
    return may<P>;
  }
}
/// Of one lane.
template <class P>
constexpr Needs needs(const PolicyOptions<P>& options, const Site& site) noexcept {
  if constexpr (requires { Axes<P>::Eviction::needs(options.eviction, site); }) {
    return Axes<P>::Eviction::needs(options.eviction, site);
  } else {
    return needs<P>(options);
  }
}
/// Whether a lane sees every query: some do, others once its prompt has ended.
template <class P>
constexpr bool sees_queries(const PolicyOptions<P>& options, const Site& site, bool in_prompt) noexcept {
  if constexpr (may_see_queries<P>) {
    const Observes observes = needs<P>(options, site).observes;
    return observes == Observes::every_query || (observes == Observes::last_queries && !in_prompt);
  } else {
    return false;
  }
}
/// How many of the last queries of a prompt a lane's eviction sees.
template <class P>
std::size_t window_of(const PolicyOptions<P>& options, const Site& site) noexcept {
  if constexpr (may_see_last<P>) {
    const Observes observes = needs<P>(options, site).observes;
    if (observes != Observes::last_prompt_queries && observes != Observes::last_queries) { return 0; }
    if constexpr (requires { Axes<P>::Eviction::window(options.eviction, site); }) {
      return Axes<P>::Eviction::window(options.eviction, site);
    } else {
      return Axes<P>::Eviction::window(options.eviction);
    }
  } else {
    return 0;
  }
}

}  // namespace kvcompress::detail
