// include/kvcompress/cache/composition.hpp - which compositions work; the others do not compile, with a sentence that says why.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <type_traits>

#include "kvcompress/cache/commit.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Whether KVCache can execute policy P.
template <class P>
struct Composition {
  static_assert(PolicyPart<P>, "kvcompress::KVCache<P>: P must model kvcompress::PolicyPart: name an Eviction, a Storage or a Retrieval");
  static_assert(Eviction<typename Axes<P>::Eviction>,
                "kvcompress::KVCache<P>: the eviction of P must model kvcompress::Eviction (see kvcompress/concepts.hpp)");
  static_assert(Storage<typename Axes<P>::Storage>,
                "kvcompress::KVCache<P>: the storage of P must model kvcompress::Storage (see kvcompress/concepts.hpp)");
  static_assert(Retrieval<typename Axes<P>::Retrieval>,
                "kvcompress::KVCache<P>: the retrieval of P must model kvcompress::Retrieval (see kvcompress/concepts.hpp)");

  using Eviction = typename Axes<P>::Eviction;
  using Storage = typename Axes<P>::Storage;
  using Retrieval = typename Axes<P>::Retrieval;
  static_assert(may<P>.observes == Observes::nothing || ObservesAttention<Eviction>,
                "kvcompress::KVCache<P>: the eviction of P says that it observes attention, so it must model "
                "kvcompress::ObservesAttention: provide observe(options, state, head, probabilities)");
  static_assert(
      may<P>.decides != Decides::every_commit || may<P>.agrees >= storage_scope<Storage>(),
      "kvcompress::KVCache<P>: the eviction of P decides lane by lane at every commit, but the storage of P encodes the lanes of a layer "
      "or of several layers together, which must hold the same rows. Use an eviction that decides once (SnapKV) or by positions "
      "(StreamingLLM), or a storage per lane (for GEAR: ValueVectors::head)");
  static_assert(
      !may_see_queries<P> || std::is_same_v<Retrieval, ReadAll>,
      "kvcompress::KVCache<P>: the eviction of P observes the probabilities of every row for every query, but the retrieval of P reads "
      "only some of the rows");
  static_assert(
      !requires { Storage::needs_retrieval; } || !std::is_same_v<Retrieval, ReadAll>,
      "kvcompress::KVCache<P>: the storage of P holds rows that must be fetched before they are read, so P needs a retrieval");

  static constexpr bool works = true;
};

}  // namespace kvcompress::detail
