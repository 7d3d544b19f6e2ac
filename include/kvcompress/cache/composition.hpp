// include/kvcompress/cache/composition.hpp - which compositions work; the others do not compile, with a sentence that says why.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>

#include "kvcompress/cache/commit.hpp"

// Each rule of composition is a predicate and a sentence, which is the compiler's for types and that of an Error for parts that are chosen at
// run time.
#define KVCOMPRESS_RULE_ENCODED_TOGETHER                                                                                                  \
  "the eviction decides lane by lane at every commit, but the storage encodes the lanes of a layer or of several layers together, which " \
  "must hold the same rows. Use an eviction that decides once (SnapKV) or by positions (StreamingLLM), or a storage per lane (for GEAR: " \
  "ValueVectors::head)"
#define KVCOMPRESS_RULE_OBSERVES_ALL \
  "the eviction observes the probabilities of every row for every query, but the retrieval reads only some of the rows"
#define KVCOMPRESS_RULE_MODEL                                                                                                           \
  "the eviction decides over all layers, when the last of them has ended its prompt, but the storage encodes several layers together. " \
  "Use a storage of lanes or of a layer"
#define KVCOMPRESS_RULE_FETCHED "the storage holds rows that must be fetched before they are read, so it needs a retrieval"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Which parts go together.
struct Rules {
  static constexpr bool encoded_together(Decides decides, Scope decides_for, Scope encodes) noexcept {
    return decides != Decides::every_commit || decides_for >= encodes;
  }
  static constexpr bool observes_all(Observes observes, bool retrieves) noexcept {
    return !retrieves || (observes != Observes::every_query && observes != Observes::last_queries);
  }
  static constexpr bool model_apart(bool model, Scope encodes) noexcept { return !model || encodes != Scope::group; }
  static constexpr bool fetched(bool needs_retrieval, bool retrieves) noexcept { return !needs_retrieval || retrieves; }

  static constexpr std::string_view encoded_together_sentence = KVCOMPRESS_RULE_ENCODED_TOGETHER;
  static constexpr std::string_view observes_all_sentence = KVCOMPRESS_RULE_OBSERVES_ALL;
  static constexpr std::string_view model_sentence = KVCOMPRESS_RULE_MODEL;
  static constexpr std::string_view fetched_sentence = KVCOMPRESS_RULE_FETCHED;

  /// The sentence of the first rule that does not hold, or nothing.
  static constexpr std::string_view broken(const Needs& needs, Scope encodes, bool needs_retrieval, bool retrieves) noexcept {
    if (!encoded_together(needs.decides, needs.agrees, encodes)) { return encoded_together_sentence; }
    if (!model_apart(needs.model, encodes)) { return model_sentence; }
    if (!observes_all(needs.observes, retrieves)) { return observes_all_sentence; }
    return fetched(needs_retrieval, retrieves) ? std::string_view() : fetched_sentence;
  }
};

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
  static constexpr bool chosen = EvictsAtRunTime<Eviction> || ChosenStore<typename Storage::Keys>;  // check_lanes asks then
  static_assert(may<P>.observes == Observes::nothing || ObservesAttention<Eviction>,
                "kvcompress::KVCache<P>: the eviction of P says that it observes attention, so it must model "
                "kvcompress::ObservesAttention: provide observe(options, state, head, probabilities)");
  static_assert(
      !may<P>.queries || ObservesQueries<Eviction>,
      "kvcompress::KVCache<P>: the eviction of P says that it observes queries, so it must model kvcompress::ObservesQueries: provide "
      "make_room_for_queries(options, state, shape) and observe_query(options, state, head, query)");
  static_assert(chosen || Rules::encoded_together(may<P>.decides, may<P>.agrees, storage_scope<Storage>()),
                "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_ENCODED_TOGETHER);
  static_assert(chosen || Rules::model_apart(may<P>.model, storage_scope<Storage>()), "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_MODEL);
  static_assert(Rules::observes_all(may<P>.observes, must_retrieve<P>), "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_OBSERVES_ALL);
  static_assert(Rules::fetched(
                    requires { Storage::needs_retrieval; }, may_retrieve<P>),
                "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_FETCHED);

  static constexpr bool works = true;
};

/// Raises an Error unless the parts of every lane go together: what types do not say, or only options.
template <class P>
void check_lanes(const Shape& shape, const PolicyOptions<P>& options) {
  using Storage = typename Axes<P>::Storage;
  using Retrieval = typename Axes<P>::Retrieval;
  for_lanes(shape, [&](const Site& site) {
    const bool chooses = retrieves<P>(options, site);
    const Needs wanted = needs<P>(options, site);
    const Scope encodes = storage_scope_at<Storage>(options.storage, shape, site.layer);
    require(Rules::encoded_together(wanted.decides, wanted.agrees, encodes), ErrorCode::option, eviction_name<P>(options, site), ": ",
            Rules::encoded_together_sentence);
    require(Rules::model_apart(wanted.model, encodes), ErrorCode::option, eviction_name<P>(options, site), ": ", Rules::model_sentence);
    require(Rules::observes_all(wanted.observes, chooses), ErrorCode::option, eviction_name<P>(options, site), " with ",
            retrieval_name<P>(options, site), ": ", Rules::observes_all_sentence);
    require(Rules::fetched(needs_retrieval_at<Storage>(options.storage, site), chooses), ErrorCode::option,
            retrieval_name<P>(options, site), ": ", Rules::fetched_sentence);
    require(!renumbers<P>(options, site) || Retrieval::renumbers(options.retrieval, site), ErrorCode::option,
            eviction_name<P>(options, site), ": in_cache_positions is true, must be false with ", retrieval_name<P>(options, site),
            ", whose index is made at the original positions");
    if constexpr (EvictsAtRunTime<typename Axes<P>::Eviction>) {
      const Site first{layers_with<P>(options, shape, site.layer).first, 0, shape};
      const auto& evictions = options.eviction.chosen;
      require(encodes == Scope::lane || evictions.entry_of(site) == evictions.entry_of(first), ErrorCode::option,
              eviction_name<P>(options, site), " is chosen for KV head ", site.kv_head, " of layer ", site.layer, ", must be what layer ",
              first.layer, " has: the storage encodes their lanes together, which must hold the same rows");
    }
    require(wanted.agrees != Scope::layer || held_alike<Storage>(options.storage, shape, site.layer), ErrorCode::option,
            eviction_name<P>(options, site), ": it keeps the same rows in all heads of layer ", site.layer, ", which must be held alike");
  });
}

}  // namespace kvcompress::detail

#undef KVCOMPRESS_RULE_ENCODED_TOGETHER
#undef KVCOMPRESS_RULE_OBSERVES_ALL
#undef KVCOMPRESS_RULE_MODEL
#undef KVCOMPRESS_RULE_FETCHED
