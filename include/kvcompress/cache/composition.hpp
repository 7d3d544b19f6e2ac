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
#define KVCOMPRESS_RULE_WRITTEN                                                                                                          \
  "the eviction writes rows that stay, but the storage encodes lanes together or holds rows in a form that cannot be written. Use rows " \
  "that "                                                                                                                                \
  "are exact, or exact until a prompt ends (KIVI, GEAR with ValueVectors::head)"
#define KVCOMPRESS_RULE_WRITTEN_AT_COMMITS                                                                                              \
  "the eviction writes rows at every commit, but the storage encodes several rows together, of which one alone cannot be written. Use " \
  "an eviction that decides once (SnapKV), or rows that are exact or encoded one by one"
#define KVCOMPRESS_RULE_INDEX_FOLLOWS "the eviction writes or reorders rows that stay, and the retrieval's index does not follow that"
#define KVCOMPRESS_RULE_TIERS "the eviction makes rows colder, but the storage has no tier for them. Use one that has two (tiers2, tiers4)"

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

  static constexpr bool written(const Needs& needs, const StoreFacts& keys, const StoreFacts& values) noexcept {
    return !needs.rewrites || (keys.writes && values.writes && std::max(keys.scope, values.scope) == Scope::lane);
  }
  static constexpr bool written_at_commits(const Needs& needs, const StoreFacts& keys, const StoreFacts& values) noexcept {
    return !needs.rewrites || needs.decides != Decides::every_commit || (keys.writes_encoded && values.writes_encoded);
  }
  static constexpr bool index_follows(const Needs& needs, bool retrieves, bool follows) noexcept {
    return (!needs.rewrites && !needs.colder) || !retrieves || follows;
  }
  static constexpr bool has_tiers(const Needs& needs, const StoreFacts& keys, const StoreFacts& values) noexcept {
    return !needs.colder || (keys.tiers && values.tiers);
  }

  static constexpr std::string_view encoded_together_sentence = KVCOMPRESS_RULE_ENCODED_TOGETHER;
  static constexpr std::string_view observes_all_sentence = KVCOMPRESS_RULE_OBSERVES_ALL;
  static constexpr std::string_view model_sentence = KVCOMPRESS_RULE_MODEL;
  static constexpr std::string_view fetched_sentence = KVCOMPRESS_RULE_FETCHED;
  static constexpr std::string_view written_sentence = KVCOMPRESS_RULE_WRITTEN;
  static constexpr std::string_view written_at_commits_sentence = KVCOMPRESS_RULE_WRITTEN_AT_COMMITS;
  static constexpr std::string_view index_follows_sentence = KVCOMPRESS_RULE_INDEX_FOLLOWS;
  static constexpr std::string_view tiers_sentence = KVCOMPRESS_RULE_TIERS;

  /// The sentence of the first rule that does not hold, or nothing.
  static constexpr std::string_view broken(const Needs& needs, const StoreFacts& keys, const StoreFacts& values, bool needs_retrieval,
                                           bool retrieves, bool index_follows_writes) noexcept {
    if (!encoded_together(needs.decides, needs.agrees, std::max(keys.scope, values.scope))) { return encoded_together_sentence; }
    if (!model_apart(needs.model, std::max(keys.scope, values.scope))) { return model_sentence; }
    if (!observes_all(needs.observes, retrieves)) { return observes_all_sentence; }
    if (!written(needs, keys, values)) { return written_sentence; }
    if (!written_at_commits(needs, keys, values)) { return written_at_commits_sentence; }
    if (!has_tiers(needs, keys, values)) { return tiers_sentence; }
    if (!index_follows(needs, retrieves, index_follows_writes)) { return index_follows_sentence; }
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
  static constexpr const StoreFacts& keys = facts_of_type<typename Storage::Keys>;
  static constexpr const StoreFacts& values = facts_of_type<typename Storage::Values>;
  static_assert(chosen || Rules::written(may<P>, keys, values), "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_WRITTEN);
  static_assert(chosen || Rules::written_at_commits(may<P>, keys, values), "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_WRITTEN_AT_COMMITS);
  static_assert(chosen || Rules::has_tiers(may<P>, keys, values), "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_TIERS);
  static_assert(Rules::index_follows(may<P>, must_retrieve<P>, follows_writes<Retrieval>),
                "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_INDEX_FOLLOWS);
  static_assert(Rules::fetched(
                    requires { Storage::needs_retrieval; }, may_retrieve<P>),
                "kvcompress::KVCache<P>: " KVCOMPRESS_RULE_FETCHED);

  static constexpr bool works = true;
};

/// Raises an Error unless what the eviction of a lane writes can be written, and what it makes colder be colder.
template <class P>
void check_writes(const PolicyOptions<P>& options, const Site& site, const Needs& wanted, bool chooses) {
  using Storage = typename Axes<P>::Storage;
  const StoreFacts& keys = facts_of_made_from<typename Storage::Keys>(keys_at<Storage>(options.storage, site));
  const StoreFacts& values = facts_of_made_from<typename Storage::Values>(values_at<Storage>(options.storage, site));
  require(Rules::written(wanted, keys, values), ErrorCode::option, eviction_name<P>(options, site), ": ", Rules::written_sentence);
  require(Rules::written_at_commits(wanted, keys, values), ErrorCode::option, eviction_name<P>(options, site), ": ",
          Rules::written_at_commits_sentence);
  require(Rules::has_tiers(wanted, keys, values), ErrorCode::option, eviction_name<P>(options, site), ": ", Rules::tiers_sentence);
  const Budget* const budget = budget_of<P>(options, site);
  require(!wanted.colder || budget == nullptr || budget->bytes_of == 0, ErrorCode::option, eviction_name<P>(options, site),
          ": budget is given in bytes, must be rows or a fraction where rows get colder: none goes");
  require(Rules::index_follows(wanted, chooses, index_follows_writes<P>(options, site)), ErrorCode::option, eviction_name<P>(options, site),
          " with ", retrieval_name<P>(options, site), ": ", Rules::index_follows_sentence);
  require(!wanted.weighs || !accumulates_fast_at<Storage>(options.storage, site), ErrorCode::option, eviction_name<P>(options, site),
          ": accumulation is fast, must be exact or near_exact: one heavy row would round its 127 neighbours to 0");
}

/// Raises an Error unless the layers that are encoded together with that of `site` have rows of their own, of the same sizes, rope and window.
template <class P>
void check_group(const PolicyOptions<P>& options, const Site& site) {
  const RowRange group = layers_with<P>(options, site.model, site.layer);
  for (std::size_t other = group.first; other < group.last; ++other) {
    const Shape& a = site.shape;
    const Shape& b = site.model.of(other);
    require(site.model.owns(other) && a.kv_heads == b.kv_heads && a.key_width() == b.key_width() && a.value_width() == b.value_width() &&
                a.turns_like(b) && site.model.widest_window(site.layer) == site.model.widest_window(other),
            ErrorCode::shape, "shape.each[", other, "] differs from that of layer ", site.layer,
            ", must have rows of its own, KV heads, widths, rope and window like it: the storage encodes them together");
  }
}

/// Raises an Error unless the parts of every lane go together: what types do not say, or only options.
template <class P>
void check_lanes(const Shape& shape, const PolicyOptions<P>& options) {
  using Storage = typename Axes<P>::Storage;
  using Retrieval = typename Axes<P>::Retrieval;
  for_lanes(shape, [&](const Site& site) {
    const bool chooses = retrieves<P>(options, site);
    const Needs wanted = needs<P>(options, site);
    const Scope encodes = storage_scope_at<Storage>(options.storage, shape, site.layer);
    if (shape.each != nullptr && encodes == Scope::group && site.kv_head == 0) { check_group<P>(options, site); }
    require(may_lose<P> || site.model.widest_window(site.layer) == 0, ErrorCode::shape, "shape.window is ",
            site.model.widest_window(site.layer), " in layer ", site.layer,
            ", must be 0: the type of the policy keeps every row. Combine<Windowed, ...> lets rows go that lie past a window");
    require(Rules::encoded_together(wanted.decides, wanted.agrees, encodes), ErrorCode::option, eviction_name<P>(options, site), ": ",
            Rules::encoded_together_sentence);
    require(Rules::model_apart(wanted.model, encodes), ErrorCode::option, eviction_name<P>(options, site), ": ", Rules::model_sentence);
    require(Rules::observes_all(wanted.observes, chooses), ErrorCode::option, eviction_name<P>(options, site), " with ",
            retrieval_name<P>(options, site), ": ", Rules::observes_all_sentence);
    require(Rules::fetched(needs_retrieval_at<Storage>(options.storage, site), chooses), ErrorCode::option,
            retrieval_name<P>(options, site), ": ", Rules::fetched_sentence);
    if constexpr (may<P>.rewrites || may<P>.colder) { check_writes<P>(options, site, wanted, chooses); }
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
#undef KVCOMPRESS_RULE_WRITTEN
#undef KVCOMPRESS_RULE_WRITTEN_AT_COMMITS
#undef KVCOMPRESS_RULE_INDEX_FOLLOWS
#undef KVCOMPRESS_RULE_TIERS
