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
  static constexpr bool chosen = ChosenStore<typename Storage::Keys>;  // at run time: check_composition asks then
  static_assert(Eviction::observes == Observes::nothing || ObservesAttention<Eviction>,
                "kvcompress::KVCache<P>: the eviction of P says that it observes attention, so it must model "
                "kvcompress::ObservesAttention: provide observe(options, state, head, probabilities)");
  static_assert(
      Eviction::decides != Decides::every_commit || Eviction::scope >= storage_scope<Storage>() || chosen,
      "kvcompress::KVCache<P>: the eviction of P decides lane by lane at every commit, but the storage of P encodes the lanes of a layer "
      "or of several layers together, which must hold the same rows. Use an eviction that decides once (SnapKV) or by positions "
      "(StreamingLLM), or a storage per lane (for GEAR: ValueVectors::head)");
  static_assert(
      !Commit<P>::decides_together ||
          requires(typename Eviction::State state, const PolicyOptions<P> options, const Memory memory) {
            { Eviction::sums(options.eviction, memory) } -> std::same_as<typename Eviction::State>;
            Eviction::add(options.eviction, state, state);
          },
      "kvcompress::KVCache<P>: the storage of P encodes lanes together and the eviction of P scores them one by one, so it must say how "
      "scores are added: provide sums(options, memory) and add(options, sums, lane)");
  static_assert(
      Eviction::observes != Observes::every_query || std::is_same_v<Retrieval, ReadAll>,
      "kvcompress::KVCache<P>: the eviction of P observes the probabilities of every row for every query, but the retrieval of P reads "
      "only some of the rows");
  static_assert(
      !requires { Storage::needs_retrieval; } || !std::is_same_v<Retrieval, ReadAll>,
      "kvcompress::KVCache<P>: the storage of P holds rows that must be fetched before they are read, so P needs a retrieval");

  static constexpr bool works = true;
};

/// The same for what is known at run time only: raises an Error.
template <class P>
void check_composition(const PolicyOptions<P>& options, const Shape& shape) {
  using Eviction = typename Axes<P>::Eviction;
  using Storage = typename Axes<P>::Storage;
  if constexpr (Composition<P>::chosen) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      require(Eviction::decides != Decides::every_commit || Eviction::scope >= storage_scope_at<Storage>(options.storage, shape, layer),
              ErrorCode::option, Eviction::name, " decides lane by lane at every commit, but the storage of layer ", layer,
              " encodes the lanes of a layer or of several layers together, which must hold the same rows");
    }
    require(!needs_retrieval<Storage>(options.storage) || !std::is_same_v<typename Axes<P>::Retrieval, ReadAll>, ErrorCode::option,
            "storage: it holds rows that must be fetched before they are read, so it needs a retrieval");
  }
}

}  // namespace kvcompress::detail
