// include/kvcompress/cache/needs.hpp - what the eviction of a policy needs: at most, of a whole cache, and of one lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string_view>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

template <class P>
inline constexpr Needs may = Axes<P>::Eviction::may;
/// An eviction that keeps everything, but for rows that lie past the window of their layer.
template <class E>
concept KeepsWindows = requires {
  requires E::keeps_windows;
};
/// Whether rows may leave at a commit.
template <class P>
inline constexpr bool may_lose = may<P>.decides != Decides::never || KeepsWindows<typename Axes<P>::Eviction>;
/// Whether some lane may want to see every query, or the last ones of a prompt.
template <class P>
inline constexpr bool may_see_queries =
    may<P>.observes == Observes::every_query || may<P>.observes == Observes::last_queries || may<P>.observes == Observes::as_options_say;
/// Whether all lanes of any cache of P see every query, at least after the prompt.
template <class P>
inline constexpr bool must_see_queries = may_see_queries<P>&& may<P>.observes != Observes::as_options_say;
template <class P>
inline constexpr bool may_see_last = may<P>.observes == Observes::last_prompt_queries || may<P>.observes == Observes::last_queries ||
                                     may<P>.observes == Observes::as_options_say;

/// An eviction that is chosen at run time: options and site, or the State of a lane, say what a lane needs, and what else types would.
template <class E>
concept EvictsAtRunTime = E::may.observes == Observes::as_options_say;

/// Of one lane.
template <class P>
constexpr Needs needs([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::needs(options.eviction, site);
  } else {
    return may<P>;
  }
}
template <class P>
constexpr Needs needs([[maybe_unused]] const typename Axes<P>::Eviction::State& state) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return state.needs();
  } else {
    return may<P>;
  }
}
/// Which lanes of a layer keep the same rows, as far as the eviction knows.
template <class P>
Scope agreement([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Shape& shape,
                [[maybe_unused]] std::size_t layer) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::agreement(options.eviction, shape, layer);
  } else {
    return may<P>.agrees;
  }
}
template <class P>
constexpr std::string_view eviction_name([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::name_of(options.eviction, site);
  } else {
    return Axes<P>::Eviction::name;
  }
}
template <class P>
constexpr bool renumbers(const PolicyOptions<P>& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::renumbers(options.eviction, site);
  } else {
    return Axes<P>::Eviction::renumbers(options.eviction);
  }
}
/// What the eviction's State takes for a row.
template <class P>
std::size_t row_bytes(const PolicyOptions<P>& options, const Site& site) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::row_bytes(options.eviction, site);
  } else {
    return Axes<P>::Eviction::row_bytes(options.eviction, site.shape);
  }
}
/// The eviction's budget, or null.
template <class P>
const Budget* budget_of([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::budget(options.eviction, site);
  } else if constexpr (HasBudget<typename Axes<P>::Eviction>) {
    return &options.eviction.budget;
  } else {
    return nullptr;
  }
}
/// Of `rows` rows under a budget in bytes those that the eviction leaves to decoded rows.
template <class P>
std::size_t decoded_rows([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Site& site, std::size_t rows) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::decoded_rows(options.eviction, site, rows);
  } else if constexpr (requires { Axes<P>::Eviction::decoded_rows(options.eviction, rows); }) {
    return Axes<P>::Eviction::decoded_rows(options.eviction, rows);
  } else {
    return rows;
  }
}
/// The smallest budget that the eviction works with.
template <class P>
std::size_t least_rows([[maybe_unused]] const PolicyOptions<P>& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
    return Axes<P>::Eviction::least_rows(options.eviction, site);
  } else if constexpr (requires { Axes<P>::Eviction::least_rows(options.eviction); }) {
    return Axes<P>::Eviction::least_rows(options.eviction);
  } else {
    return 1;
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
/// Whether an eviction decides, or remembers queries, in a way that cannot be taken back below a commit.
constexpr bool keeps_what_it_saw(const Needs& needs) noexcept {
  return needs.queries || needs.decides != Decides::never || needs.observes != Observes::nothing;
}
/// How many of the last queries of a prompt a lane's eviction sees.
template <class P>
std::size_t window_of(const PolicyOptions<P>& options, const Site& site) noexcept {
  if constexpr (may_see_last<P>) {
    const Observes observes = needs<P>(options, site).observes;
    if (observes != Observes::last_prompt_queries && observes != Observes::last_queries) { return 0; }
    if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
      return Axes<P>::Eviction::window(options.eviction, site);
    } else {
      return Axes<P>::Eviction::window(options.eviction);
    }
  } else {
    return 0;
  }
}

}  // namespace kvcompress::detail
