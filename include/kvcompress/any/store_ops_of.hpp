// include/kvcompress/any/store_ops_of.hpp - the table of functions of one store of one storage.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <new>
#include <span>
#include <string_view>

#include "kvcompress/any/store_ops.hpp"
#include "kvcompress/cache/facts.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// How the functions of a table see a store S of a storage with Options.
template <class S, class Options>
struct StoreThunks {
  static S& in(void* store) noexcept { return *static_cast<S*>(store); }
  static const S& in(const void* store) noexcept { return *static_cast<const S*>(store); }
  static const Options& of(const void* options) noexcept { return *static_cast<const Options*>(options); }

  /// The members as S settles them, in the place of the pointers that came.
  static std::span<S* const> typed(StoreOps::Members members) noexcept {
    static_assert(sizeof(S*) == sizeof(void*) && alignof(S*) == alignof(void*));
    S** first = nullptr;
    for (void*& member : members) {
      void* const value = member;
      S** const to = ::new (static_cast<void*>(&member)) S*(static_cast<S*>(value));
      if (first == nullptr) { first = to; }
    }
    return {first, members.size()};
  }

  static constexpr void holds_rows(StoreOps& ops) noexcept {
    ops.make = [](void* room, const void* options, const Site& site, std::size_t dim, const Memory& memory) {
      ::new (room) S(of(options), site, dim, memory);
    };
    ops.rows = [](const void* store) noexcept { return in(store).rows(); };
    ops.settled = [](const void* store) noexcept { return in(store).settled(); };
    ops.make_room = [](void* store, std::size_t more) { in(store).make_room(more); };
    ops.append = [](void* store, const float* row) { in(store).append(row); };
    ops.move = [](void* store, std::size_t from, std::size_t to) { in(store).move(from, to); };
    ops.resize = [](void* store, std::size_t rows) { in(store).resize(rows); };
    ops.reserve = [](void* store, std::size_t rows) { in(store).reserve(rows); };
    ops.unshare = [](void* store) { in(store).unshare(); };
    ops.account = [](const void* store, MemoryReport& report) noexcept { in(store).account(report); };
    if constexpr (requires(S store) { store.make_writable(std::size_t{}, std::size_t{}); }) {
      ops.make_writable = [](void* store, std::size_t first, std::size_t last) { in(store).make_writable(first, last); };
    } else {
      ops.make_writable = [](void* store, std::size_t, std::size_t) { in(store).unshare(); };
    }
    if constexpr (WritesRows<S>) {
      ops.prepare_to_write = [](void* store, std::size_t row) { in(store).prepare_to_write(row); };
      ops.write = [](void* store, std::size_t row, const float* x) noexcept { in(store).write(row, x); };
    }
    if constexpr (requires(S store) { store.take_room(store); }) {
      ops.take_room = [](void* store, void* from) noexcept { in(store).take_room(in(from)); };
    }
    if constexpr (requires(S store) { store.hold(); }) {
      ops.hold = [](void* store) noexcept { in(store).hold(); };
    }
    if constexpr (requires(S store) { store.release(); }) {
      ops.release = [](void* store) noexcept { in(store).release(); };
    }
    if constexpr (requires(S store) { store.own_recent(); }) {
      ops.own_recent = [](void* store) { in(store).own_recent(); };
    }
    if constexpr (requires(S store) { store.keep_recent(); }) {
      ops.keep_recent = [](void* store) noexcept { in(store).keep_recent(); };
    }
    if constexpr (requires(S store) { store.hold_at_most(std::size_t{}); }) {
      ops.hold_at_most = [](void* store, std::size_t rows) noexcept { in(store).hold_at_most(rows); };
    }
  }
  static constexpr void shares_memory(StoreOps& ops) noexcept {
    constexpr auto nobody = [](std::size_t) -> S& { __builtin_unreachable(); };
    if constexpr (requires { S::unshare(std::size_t{}, nobody); }) {
      ops.unshare_together = [](const StoresTogether& stores) {
        S::unshare(stores.count, [&](std::size_t i) -> S& { return in(stores.at(stores.context, i)); });
      };
    }
    constexpr auto none = [](std::size_t) { return false; };
    if constexpr (requires(MemoryReport & report) { S::account(std::size_t{}, nobody, none, report); }) {
      ops.account_together = [](const StoresTogether& stores, MemoryReport& report) noexcept {
        S::account(
            stores.count, [&](std::size_t i) -> const S& { return in(stores.at(stores.context, i)); },
            [&](std::size_t i) { return stores.shared(stores.context, i); }, report);
      };
    }
  }
  static constexpr void attends(StoreOps& ops) noexcept {
    ops.scratch_floats = [](const void* store, std::size_t dim, std::size_t queries) noexcept {
      return in(store).scratch_floats(dim, queries);
    };
    if constexpr (KeyStore<S>) {
      ops.scores = [](const void* store, RowRange range, [[maybe_unused]] const RowTable& table, [[maybe_unused]] Rotation& rotation,
                      const float* queries, std::size_t query_stride, std::size_t query_count, float* logits, std::size_t logit_stride,
                      float* scratch) noexcept {
        if constexpr (UnrotatedKeyStore<S>) {
          in(store).scores(range, table, rotation, queries, query_stride, query_count, logits, logit_stride, scratch);
        } else {
          in(store).scores(range, queries, query_stride, query_count, logits, logit_stride, scratch);
        }
      };
      ops.read_key = [](const void* store, std::size_t row, [[maybe_unused]] const RowTable& table, [[maybe_unused]] Rotation& rotation,
                        float* out) noexcept {
        if constexpr (UnrotatedKeyStore<S>) {
          in(store).read(row, table, rotation, out);
        } else {
          in(store).read(row, out);
        }
      };
    }
    if constexpr (ValueStore<S>) {
      ops.accumulate = [](const void* store, RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count,
                          float* out, std::size_t out_stride, float* scratch) noexcept {
        in(store).accumulate(range, weights, weight_stride, query_count, out, out_stride, scratch);
      };
      ops.read_value = [](const void* store, std::size_t row, float* out) { in(store).read(row, out); };
    }
    if constexpr (FramesQueries<S>) {
      ops.frame_queries = [](const void* store, float* queries, std::size_t stride, std::size_t count) noexcept {
        in(store).frame_queries(queries, stride, count);
      };
    }
    if constexpr (FramesOutputs<S>) {
      ops.unframe_outputs = [](const void* store, float* outputs, std::size_t stride, std::size_t count) noexcept {
        in(store).unframe_outputs(outputs, stride, count);
      };
    }
    if constexpr (requires(const S store) { store.fetch(std::size_t{}); }) {
      ops.fetch = [](const void* store, std::size_t row) noexcept { in(store).fetch(row); };
    }
    if constexpr (requires(S store, std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation, Vector<float>& scratch) {
                    store.prepare(ranges, table, rotation, scratch);
                  }) {
      ops.prepare_keys = [](void* store, std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation,
                            Vector<float>& scratch) { return in(store).prepare(ranges, table, rotation, scratch); };
    }
    if constexpr (requires(S store, std::span<const RowRange> ranges) { store.prepare(ranges); }) {
      ops.prepare_values = [](void* store, std::span<const RowRange> ranges) { return in(store).prepare(ranges); };
    }
  }
  static constexpr void commits(StoreOps& ops) noexcept {
    if constexpr (Settles<S>) {
      ops.settle = [](StoreOps::Members members, const Settling& settling) { S::settle(typed(members), settling); };
    }
    if constexpr (PreparesToSettle<S>) {
      ops.prepare_to_settle = [](StoreOps::Members members, const Settling& settling) { S::prepare_to_settle(typed(members), settling); };
    }
    if constexpr (SettlesInRoom<S>) {
      ops.make_room_to_settle = [](void* store, std::size_t more, Vector<float>& scratch) { in(store).make_room_to_settle(more, scratch); };
    }
    if constexpr (SettlesAside<S>) {
      ops.encode_aside = [](StoreOps::Members members, const Settling& settling) { S::encode_aside(typed(members), settling); };
      ops.take_aside = [](StoreOps::Members members) noexcept { S::take_aside(typed(members)); };
      ops.forget_aside = [](void* store) noexcept { in(store).forget_aside(); };
    }
    if constexpr (SaysWhenItEncodes<S>) {
      ops.encodes_at = [](const void* store, std::size_t rows) noexcept { return in(store).encodes_at(rows); };
    }
    if constexpr (requires(const S store) { store.rows_at_once(); }) {
      ops.rows_at_once = [](const void* store) noexcept { return in(store).rows_at_once(); };
    }
    if constexpr (requires(const S store) { store.block_at(std::size_t{}); }) {
      ops.block_at = [](const void* store, std::size_t row) noexcept { return in(store).block_at(row); };
    }
    if constexpr (ErasesBlocks<S>) {
      ops.erase_block = [](void* store, std::size_t first) noexcept { in(store).erase_block(first); };
    }
    if constexpr (Compacts<S>) {
      ops.prepare_to_compact = [](StoreOps::Members members, const RowTable& table, Vector<float>& scratch) {
        S::prepare_to_compact(typed(members), table, scratch);
      };
      ops.compact = [](StoreOps::Members members, const RowTable& table, Vector<float>& scratch) {
        S::compact(typed(members), table, scratch);
      };
    }
  }
  static constexpr void saves(StoreOps& ops) noexcept {
    if constexpr (requires(const S store) { store.alike(store); }) {
      ops.alike = [](const void* store, const void* other) noexcept { return in(store).alike(in(other)); };
    } else {
      ops.alike = [](const void* store, const void* other) noexcept { return in(store).settled() == in(other).settled(); };
    }
    if constexpr (archive::supported && PersistsRows<S> && ListsFields<Options>) {
      ops.describe_to = [](Writer& writer, std::string_view prefix) { S::describe(Facts(writer, prefix)); };
      ops.describe_from = [](Reader& reader, std::string_view prefix) { S::describe(Facts(reader, prefix)); };
      ops.describe_options_to = [](const void* options, Writer& writer, std::string_view prefix) {
        describe_options(of(options), writer, prefix);
      };
      ops.describe_options_from = [](const void* options, Reader& reader, std::string_view prefix) {
        describe_options(of(options), reader, prefix);
      };
      ops.save = [](const void* store, Writer& writer, std::size_t rows) { S::persist(in(store), writer, rows); };
      ops.load = [](void* store, Reader& reader, std::size_t rows) { S::persist(in(store), reader, rows); };
    }
  }
  static constexpr void says_bytes(StoreOps& ops) noexcept {
    ops.bytes_for = [](const void* options, std::size_t rows, std::size_t dim, [[maybe_unused]] const Shape& shape,
                       [[maybe_unused]] std::size_t at_hand) {
      if constexpr (requires { S::bytes_for(rows, dim, of(options), shape, at_hand); }) {
        return S::bytes_for(rows, dim, of(options), shape, at_hand);
      } else if constexpr (requires { S::bytes_for(rows, dim, of(options), shape); }) {
        return S::bytes_for(rows, dim, of(options), shape);
      } else {
        return S::bytes_for(rows, dim, of(options));
      }
    };
    if constexpr (requires(const MostRows& rows, const Options& options, const Shape& shape, std::size_t n) {
                    S::most_bytes(rows, n, options, shape, n);
                  }) {
      ops.most_bytes = [](const void* options, const MostRows& rows, std::size_t dim, const Shape& shape, std::size_t at_hand) {
        return S::most_bytes(rows, dim, of(options), shape, at_hand);
      };
    }
  }
};

template <class Storage>
inline constexpr char address_of_storage = 0;

/// What a storage says of itself and not of one of its stores.
template <class Storage>
constexpr void describes_storage(StoreOps& ops) noexcept {
  using Options = typename Storage::Options;
  ops.storage = &address_of_storage<Storage>;
  ops.needs_retrieval = requires { Storage::needs_retrieval; };
  ops.fast = [](const void* options) noexcept { return accumulates_fast(*static_cast<const Options*>(options)); };
  ops.validate = [](const void* options) { Storage::validate(*static_cast<const Options*>(options)); };
  if constexpr (requires(const Options& options, const Shape& shape) { Storage::validate_shape(options, shape); }) {
    ops.validate_shape = [](const void* options, const Shape& shape) {
      Storage::validate_shape(*static_cast<const Options*>(options), shape);
    };
  }
  if constexpr (requires(const Options& options, const Shape& shape) { Storage::layers_with(options, shape, std::size_t{}); }) {
    ops.layers_with = [](const void* options, const Shape& shape, std::size_t layer) -> RowRange {
      return Storage::layers_with(*static_cast<const Options*>(options), shape, layer);
    };
  }
  if constexpr (requires(const Options& options, const Shape& shape) { Storage::start_count(options, shape); }) {
    ops.start_count = [](const void* options, const Shape& shape) {
      return Storage::start_count(*static_cast<const Options*>(options), shape);
    };
    ops.start = [](const void* options) { return static_cast<const Options*>(options)->start; };
    ops.with_start = [](const void* options, const float* start) -> std::shared_ptr<const void> {
      Options own = *static_cast<const Options*>(options);
      own.start = start;
      return std::make_shared<const Options>(own);
    };
  }
}

template <class Storage, class S>
constexpr StoreOps store_ops_of() noexcept {
  using Thunks = StoreThunks<S, typename Storage::Options>;
  StoreOps ops{};
  ops.holding = holding_of<S>;
  ops.facts = facts_of_type<S>;
  describes_storage<Storage>(ops);
  Thunks::says_bytes(ops);
  Thunks::holds_rows(ops);
  Thunks::shares_memory(ops);
  Thunks::attends(ops);
  Thunks::commits(ops);
  Thunks::saves(ops);
  return ops;
}

template <class Storage>
inline constexpr StoreOps key_ops_of = store_ops_of<Storage, typename Storage::Keys>();
template <class Storage>
inline constexpr StoreOps value_ops_of = store_ops_of<Storage, typename Storage::Values>();

}  // namespace kvcompress::detail
