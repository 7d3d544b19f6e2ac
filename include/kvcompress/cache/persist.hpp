// include/kvcompress/cache/persist.hpp - all layers of a cache, to an archive or from one: a section per layer and one per lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kvcompress/cache.hpp"
#include "kvcompress/cache/fingerprint.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Of one that is chosen at run time, its storage describes all that there are.
template <class S>
concept PersistsStore = PersistsRows<S> ||(ChosenStore<S>&& Persists<S>);
template <class S>
concept NamesOptions = ListsFields<typename S::Options> || ChosenStore<typename S::Keys>;

/// Whether all parts of a policy say how they are saved.
template <class P>
concept Saved = archive::supported && PersistsStore<typename Lane<P>::Keys> && PersistsStore<typename Lane<P>::Values> &&
    Persists<typename Lane<P>::State> && Persists<typename Lane<P>::Retrieval::State> && ListsFields<typename Axes<P>::Eviction::Options> &&
    NamesOptions<typename Axes<P>::Storage> && ListsFields<typename Axes<P>::Retrieval::Options>;

template <class P>
struct Persistence {
  static_assert(archive::supported, "kvcompress: saving and loading need a little-endian machine with 64-bit sizes");
  static_assert(PersistsStore<typename Lane<P>::Keys>,
                "kvcompress: a cache of P cannot be saved: its key store must provide describe(fact) and persist(self, archive, rows), see "
                "kvcompress::PersistsRows in kvcompress/concepts.hpp");
  static_assert(
      PersistsStore<typename Lane<P>::Values>,
      "kvcompress: a cache of P cannot be saved: its value store must provide describe(fact) and persist(self, archive, rows), see "
      "kvcompress::PersistsRows in kvcompress/concepts.hpp");
  static_assert(Persists<typename Lane<P>::State>,
                "kvcompress: a cache of P cannot be saved: the State of its eviction must provide persist(self, archive, rows), see "
                "kvcompress::Persists in kvcompress/concepts.hpp");
  static_assert(Persists<typename Lane<P>::Retrieval::State>,
                "kvcompress: a cache of P cannot be saved: the State of its retrieval must provide persist(self, archive, rows), see "
                "kvcompress::Persists in kvcompress/concepts.hpp");
  static_assert(ListsFields<typename Axes<P>::Eviction::Options> && NamesOptions<typename Axes<P>::Storage> &&
                    ListsFields<typename Axes<P>::Retrieval::Options>,
                "kvcompress: a cache of P cannot be saved: Options must provide fields(options, field), which names each of them");

  /// See kvcompress/persistence.hpp.
  static void save(const KVCache<P>& cache, const ByteSink& sink, Checksum checksum) {
    Writer writer(sink, checksum, cache.memory_);
    Persistence{cache.shape_, cache.options_}.run(writer, cache.tokens_,
                                                  [&](std::size_t layer) -> const Layer<P>& { return cache.at(layer); });
  }
  static void load(KVCache<P>& cache, const ByteSource& source, Checksum checksum) {
    Reader reader(source, checksum, cache.memory_);
    KVCache<P> loaded(cache.shape_, cache.options_, cache.memory_);
    Persistence{cache.shape_, cache.options_}.run(reader, loaded.tokens_,
                                                  [&](std::size_t layer) -> Layer<P>& { return loaded.writable(layer); });
    if (cache.reserved_ > 0) { loaded.reserve(cache.reserved_); }
    cache = std::move(loaded);
  }

  const Shape& shape;
  const PolicyOptions<P>& options;

 private:
  /// access(layer) gives a layer of a cache to save, or a new one to read into.
  void run(auto& archive, auto& tokens, auto&& access) const {
    archive.section(archive::Kind::fingerprint, 0, [&] { describe<P>(shape, options, archive); });
    for (std::size_t number = 0; number < shape.layers; ++number) {
      if (!shape.owns(number)) { continue; }
      auto& layer = access(number);
      if (layers_with<P>(options, shape, number).first == number) { archive.forget_shared(); }
      archive.section(archive::Kind::layer, number, [&] { persist_layer(layer, archive); });
      const Shape& of = shape.of(number);
      for (std::size_t head = 0; head < of.kv_heads; ++head) {
        archive.section(archive::Kind::lane, Site(number, head, shape).lane(), [&] { persist_lane(layer, of, head, archive); });
      }
    }
    archive.section(archive::Kind::tokens, 0, [&] { persist_tokens(tokens, archive); });
  }

  static void persist_tokens(auto& tokens, auto& archive) {
    bool described = tokens.has_value();
    archive.number(described);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      if (described) { tokens.emplace(archive.memory(), archive.memory()); }
      if (described) { Tokens::persist(tokens->write_in_place(), archive); }
    } else if (described) {
      Tokens::persist(tokens->read(), archive);
    }
  }
  static void persist_layer(auto& layer, auto& archive) {
    archive.number(layer.next);
    archive.number(layer.committed);
    archive.number(layer.open);
    archive.number(layer.in_prompt);
    archive.number(layer.branches);
    archive.number(layer.waiting);
    archive.number(layer.prompt_tokens);
    archive.number(layer.appended);
    for (auto& budget : layer.budgets) {
      archive.number(budget);
      archive.check(budget <= most_rows, "its budget is more than any cache can hold");
    }
    archive.check(layer.committed <= layer.next && layer.prompt_tokens <= layer.next, "its phase contradicts its tokens");
    for (auto& table : layer.tables) {
      RowTable::persist(table, archive, layer.next, layer.branches ? layer.open : 0);
      bool open = layer.open <= table.rows();
      for (std::size_t i = 0; open && i < layer.open; ++i) { open = table.alive(table.rows() - 1 - i); }
      archive.check(open, "there are more open rows than rows");
    }
  }
  void persist_lane(auto& layer, const Shape& of, std::size_t head, auto& archive) const {
    auto& lane = layer.lanes[head];
    const std::size_t rows = layer.table(head).rows();
    Lane<P>::Keys::persist(lane.keys, archive, rows);
    Lane<P>::Values::persist(lane.values, archive, rows);
    Lane<P>::State::persist(lane.state, archive, rows);
    Lane<P>::Retrieval::State::persist(lane.index, archive, rows);
    if constexpr (may_remember<P>) {
      if (remembers<P>(options, lane.index)) { Memos::persist(lane.memos, archive, rows); }
    }
    LastQueries::persist(lane.last, archive, layer.next, of.group(), of.key_width());
    Pending::persist(lane.pending, archive, rows, of.group());
    Shown::persist(lane.shown, archive);
    archive.number(lane.kept);
    archive.number(lane.observed_end);
    archive.number(lane.fetched);
    archive.check(lane.settled() <= rows - std::min(rows, layer.open), "open rows are encoded");
    const auto& first = layer.lanes.front();
    archive.check(&layer.table(head) != &layer.table(0) || (alike(lane.keys, first.keys) && alike(lane.values, first.values)),
                  "its encoded rows lie other than those of its layer's first lane");
  }
  template <class S>
  static bool alike(const S& a, const S& b) noexcept {
    if constexpr (requires { a.alike(b); }) {
      return a.alike(b);
    } else {
      return a.settled() == b.settled();
    }
  }
};

}  // namespace kvcompress::detail

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Saving and loading with the checksum of one's choice; kvcompress/persistence.hpp has both with one, and says what they promise.
template <class P>
void save(const KVCache<P>& cache, const ByteSink& sink, Checksum checksum) {
  detail::Persistence<P>::save(cache, sink, checksum);
}
template <class P>
void load(KVCache<P>& cache, const ByteSource& source, Checksum checksum) {
  detail::Persistence<P>::load(cache, source, checksum);
}

}  // namespace kvcompress
