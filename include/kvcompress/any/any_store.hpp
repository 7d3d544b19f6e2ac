// include/kvcompress/any/any_store.hpp - a store of keys or values that is chosen at run time.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "kvcompress/any/store_ops.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// One store of one of the storages that a program knows; models KeyStore and ValueStore, and whatever a store may have besides. Which of it
/// the chosen store has, facts() tells: a verb that it lacks must not be called, but for those that only give or keep memory, which do nothing
/// then. Stores that are settled, compacted, counted or cloned together must be of one choice. A call costs one indirect call.
class AnyStore {
  using Ops = detail::StoreOps;
  using Members = std::span<AnyStore* const>;

 public:
  using exact_type = float;  // the widest
  static constexpr Scope scope = Scope::group;
  static constexpr bool in_keys = true;

  AnyStore(const detail::Choice<Ops>& choice, const Site& site, std::size_t dim, const Memory& memory)
      : store_(*choice.ops, memory, [&](void* room) { choice.ops->make(room, choice.options.get(), site, dim, memory); }),
        members_(Allocator<void*>(memory)) {}
  AnyStore(const AnyStore& other) : store_(other.store_), rows_(other.rows_), members_(other.members_.get_allocator()) {
    members_.reserve(other.members_.capacity());  // a copy of a layer holds what the layer held
  }
  AnyStore(AnyStore&&) noexcept = default;
  AnyStore& operator=(AnyStore other) noexcept {
    store_ = std::move(other.store_);
    rows_ = other.rows_;
    members_ = std::move(other.members_);
    return *this;
  }
  ~AnyStore() = default;

  [[nodiscard]] const detail::StoreFacts& facts() const noexcept { return ops().facts; }
  /// The store, if it is known to be an S.
  template <class S>
  [[nodiscard]] const S& as() const noexcept {
    return store_.template as<S>();
  }

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t settled() const noexcept { return ops().settled(get()); }
  void make_room(std::size_t more) { ops().make_room(get(), more); }
  void append(const float* row) {
    ops().append(get(), row);
    ++rows_;
  }
  void move(std::size_t from, std::size_t to) { ops().move(get(), from, to); }
  void resize(std::size_t rows) noexcept {
    ops().resize(get(), rows);
    rows_ = rows;
  }
  void reserve(std::size_t rows) { ops().reserve(get(), rows); }
  void unshare() { ops().unshare(get()); }
  void make_writable(std::size_t first, std::size_t last) { ops().make_writable(get(), first, last); }
  void prepare_to_write(std::size_t row) { ops().prepare_to_write(get(), row); }
  void write(std::size_t row, const float* x) noexcept { ops().write(get(), row, x); }
  void take_room(AnyStore& from) noexcept {
    if (ops().take_room != nullptr) { ops().take_room(get(), from.get()); }
  }
  void hold() noexcept {
    if (ops().hold != nullptr) { ops().hold(get()); }
  }
  void release() noexcept {
    if (ops().release != nullptr) { ops().release(get()); }
  }
  void own_recent() {
    if (ops().own_recent != nullptr) { ops().own_recent(get()); }
  }
  void keep_recent() noexcept {
    if (ops().keep_recent != nullptr) { ops().keep_recent(get()); }
  }
  void hold_at_most(std::size_t rows) noexcept {
    if (ops().hold_at_most != nullptr) { ops().hold_at_most(get(), rows); }
  }

  // ------------------------------------------------------------------ attention

  [[nodiscard]] std::size_t scratch_floats(std::size_t dim, std::size_t queries) const noexcept {
    return ops().scratch_floats(get(), dim, queries);
  }
  void scores(RowRange range, const RowTable& table, Rotation& rotation, const float* queries, std::size_t query_stride,
              std::size_t query_count, float* logits, std::size_t logit_stride, float* scratch) const noexcept {
    ops().scores(get(), range, table, rotation, queries, query_stride, query_count, logits, logit_stride, scratch);
  }
  /// A key.
  void read(std::size_t row, const RowTable& table, Rotation& rotation, float* out) const noexcept {
    ops().read_key(get(), row, table, rotation, out);
  }
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept {
    ops().accumulate(get(), range, weights, weight_stride, query_count, out, out_stride, scratch);
  }
  void frame_queries(float* queries, std::size_t stride, std::size_t count) const noexcept {
    ops().frame_queries(get(), queries, stride, count);
  }
  void unframe_outputs(float* outputs, std::size_t stride, std::size_t count) const noexcept {
    ops().unframe_outputs(get(), outputs, stride, count);
  }
  /// A value.
  void read(std::size_t row, float* out) const { ops().read_value(get(), row, out); }
  void fetch(std::size_t row) const noexcept {
    if (ops().fetch != nullptr) { ops().fetch(get(), row); }
  }
  /// Of keys.
  std::size_t prepare(std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation, Vector<float>& scratch) {
    return ops().prepare_keys != nullptr ? ops().prepare_keys(get(), ranges, table, rotation, scratch) : 0;
  }
  /// Of values.
  std::size_t prepare(std::span<const RowRange> ranges) {
    return ops().prepare_values != nullptr ? ops().prepare_values(get(), ranges) : 0;
  }

  // ------------------------------------------------------------------ commits

  /// Afterwards `members` can be named together without failing.
  static void make_room_for(Members members) {
    if (members.size() > 1) { members.front()->members_.reserve(members.size()); }
  }
  static void settle(Members members, const Settling& settling) {
    together(members, [&](const Ops& ops, Ops::Members stores) { ops.settle(stores, settling); });
  }
  static void prepare_to_settle(Members members, const Settling& settling) {
    together(members, [&](const Ops& ops, Ops::Members stores) { ops.prepare_to_settle(stores, settling); });
  }
  void make_room_to_settle(std::size_t more, Vector<float>& scratch) { ops().make_room_to_settle(get(), more, scratch); }
  static void encode_aside(Members members, const Settling& settling) {
    together(members, [&](const Ops& ops, Ops::Members stores) { ops.encode_aside(stores, settling); });
  }
  static void take_aside(Members members) noexcept {
    together(members, [](const Ops& ops, Ops::Members stores) { ops.take_aside(stores); });
  }
  void forget_aside() noexcept {
    if (ops().forget_aside != nullptr) { ops().forget_aside(get()); }
  }
  [[nodiscard]] std::size_t rows_at_once() const noexcept {
    return ops().rows_at_once != nullptr ? ops().rows_at_once(get()) : ops().facts.row_multiple;
  }
  [[nodiscard]] bool encodes_at(std::size_t rows) const noexcept { return ops().encodes_at(get(), rows); }
  [[nodiscard]] RowRange block_at(std::size_t row) const noexcept { return ops().block_at(get(), row); }
  void erase_block(std::size_t first) noexcept {
    ops().erase_block(get(), first);
    rows_ = ops().rows(get());
  }
  static void prepare_to_compact(Members members, const RowTable& table, Vector<float>& scratch) {
    together(members, [&](const Ops& ops, Ops::Members stores) { ops.prepare_to_compact(stores, table, scratch); });
  }
  static void compact(Members members, const RowTable& table, Vector<float>& scratch) {
    together(members, [&](const Ops& ops, Ops::Members stores) { ops.compact(stores, table, scratch); });
    for (AnyStore* member : members) { member->rows_ = member->ops().rows(member->get()); }
  }

  // ------------------------------------------------------------------ memory

  /// `from`: the choice, as a choice of a storage's options: see AnyStorage::keys_at.
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const detail::Choice<Ops>& from, const Shape& shape,
                                             std::size_t at_hand) {
    return from.ops->bytes_for(from.options.get(), rows, dim, shape, at_hand);
  }
  /// Those of the value, too, which lies beside its lane.
  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const detail::Choice<Ops>& from, const Shape& shape,
                                              std::size_t at_hand) {
    const Ops& ops = *from.ops;
    const void* options = from.options.get();
    const std::size_t blocks = ops.most_bytes != nullptr ? ops.most_bytes(options, rows, dim, shape, at_hand)
                                                         : ops.bytes_for(options, rows.all(), dim, shape, at_hand);
    const std::size_t members = from.ops->facts.scope == Scope::lane ? 0 : shape.layers * shape.kv_heads * sizeof(void*);
    return blocks + ops.holding.bytes + members;
  }
  void account(MemoryReport& report) const noexcept {
    account_own(report);
    ops().account(get(), report);
  }
  static void account(std::size_t lanes, const auto& member, const auto& shared, MemoryReport& report) noexcept {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      report.add_held(shared(lane), [&](MemoryReport& all) { member(lane).account_own(all); });
    }
    const Ops& ops = member(0).ops();
    if (ops.account_together != nullptr) { return ops.account_together(all_of(lanes, member, shared), report); }
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      report.add_held(shared(lane), [&](MemoryReport& all) { ops.account(member(lane).get(), all); });
    }
  }
  static void unshare(std::size_t lanes, const auto& member) {
    const Ops& ops = member(0).ops();
    if (ops.unshare_together != nullptr) {
      const auto nobody = [](std::size_t) { return false; };
      return ops.unshare_together(all_of(lanes, member, nobody));
    }
    for (std::size_t lane = 0; lane < lanes; ++lane) { member(lane).unshare(); }
  }

  // ------------------------------------------------------------------ saving

  [[nodiscard]] bool alike(const AnyStore& other) const noexcept { return ops().alike(get(), other.get()); }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    constexpr bool reads = std::remove_reference_t<decltype(archive)>::reads;
    require(self.ops().save != nullptr, ErrorCode::option, reads ? "load: " : "save: ",
            "a store does not say how it is saved: it must provide describe(fact) and persist(self, archive, rows)");
    if constexpr (reads) {
      self.ops().load(self.get(), archive, rows);
      self.rows_ = rows;
    } else {
      self.ops().save(self.get(), archive, rows);
    }
  }

 private:
  [[nodiscard]] const Ops& ops() const noexcept { return store_.ops(); }
  [[nodiscard]] void* get() noexcept { return store_.get(); }
  [[nodiscard]] const void* get() const noexcept { return store_.get(); }

  /// Calls call(ops, pointers to the stores behind the members).
  static void together(Members members, auto&& call) {
    AnyStore& first = *members.front();
    if (members.size() == 1) {
      void* one = first.get();
      return call(first.ops(), Ops::Members(&one, 1));
    }
    make_room_for(members);
    first.members_.clear();
    for (AnyStore* member : members) { first.members_.push_back(member->get()); }
    call(first.ops(), Ops::Members(first.members_.data(), members.size()));
  }
  /// The lanes' stores as a table of functions takes them.
  template <class Member, class Shared>
  static auto all_of(std::size_t lanes, const Member& member, const Shared& shared) noexcept {
    struct Lanes : detail::StoresTogether {
      Lanes(std::size_t number, const Member& of, const Shared& is_shared) noexcept
          : detail::StoresTogether{number, this,
                                   [](const void* self, std::size_t i) -> void* {
                                     return const_cast<void*>(static_cast<const void*>(static_cast<const Lanes*>(self)->member(i).get()));
                                   },
                                   [](const void* self, std::size_t i) -> bool { return static_cast<const Lanes*>(self)->shared(i); }},
            member(of), shared(is_shared) {}
      Lanes(const Lanes&) = delete;
      Lanes& operator=(const Lanes&) = delete;
      ~Lanes() = default;
      const Member& member;
      const Shared& shared;
    };
    return Lanes(lanes, member, shared);
  }
  void account_own(MemoryReport& report) const noexcept {
    store_.account(report);
    report.indices += members_.capacity() * sizeof(void*);
  }

  detail::Erased<Ops> store_;
  std::size_t rows_ = 0;   // of it, which are asked for at every step
  Vector<void*> members_;  // room to name what this one is settled together with
};

using AnyKeys = AnyStore;
using AnyValues = AnyStore;

}  // namespace kvcompress
