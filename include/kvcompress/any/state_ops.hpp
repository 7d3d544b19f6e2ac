// include/kvcompress/any/state_ops.hpp - what a part that is chosen at run time remembers of a lane, behind functions: the State of any part.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "kvcompress/any/erased.hpp"
#include "kvcompress/cache/fingerprint.hpp"
#include "kvcompress/core/archive.hpp"
#include "kvcompress/core/no_state.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// What evictions and retrievals have in common: their name, and a State that follows its rows. Null where a State remembers nothing, or the
/// part cannot be saved.
struct StateOps {
  Holding holding;
  std::string_view name;
  void (*make)(void* room, const void* options, const Site& site, const Memory& memory);

  void (*assign)(void* state, const void* from);
  void (*reserve)(void* state, std::size_t rows);
  void (*resize)(void* state, std::size_t rows);
  void (*move)(void* state, std::size_t from, std::size_t to);
  void (*erase)(void* state, std::size_t first, std::size_t count);
  void (*compact)(void* state, std::size_t slack);
  void (*account)(const void* state, MemoryReport& report);

  Saving saving;
  void (*write)(const void* state, Writer& archive, std::size_t rows);
  void (*read)(void* state, Reader& archive, std::size_t rows);
};

/// Those of part E.
template <class E>
constexpr StateOps state_ops_of() noexcept {
  using Options = typename E::Options;
  using State = typename E::State;
  StateOps ops{};
  ops.holding = holding_of<State>;
  ops.name = E::name;
  ops.make = [](void* room, const void* options, const Site& site, const Memory& memory) {
    ::new (room) State(E::state(*static_cast<const Options*>(options), site, memory));
  };
  if constexpr (!std::derived_from<State, NoState>) {
    if constexpr (std::is_copy_assignable_v<State>) {
      ops.assign = [](void* s, const void* from) { *static_cast<State*>(s) = *static_cast<const State*>(from); };
    }
    ops.reserve = [](void* s, std::size_t rows) { static_cast<State*>(s)->reserve(rows); };
    ops.resize = [](void* s, std::size_t rows) { static_cast<State*>(s)->resize(rows); };
    ops.move = [](void* s, std::size_t from, std::size_t to) { static_cast<State*>(s)->move(from, to); };
    ops.erase = [](void* s, std::size_t first, std::size_t count) { static_cast<State*>(s)->erase(first, count); };
    ops.compact = [](void* s, std::size_t slack) { static_cast<State*>(s)->compact(slack); };
    ops.account = [](const void* s, MemoryReport& report) { static_cast<const State*>(s)->account(report); };
  }
  if constexpr (Persists<State> && ListsFields<Options>) {
    ops.saving = saving_of<E>;
    ops.write = [](const void* s, Writer& archive, std::size_t rows) { State::persist(*static_cast<const State*>(s), archive, rows); };
    ops.read = [](void* s, Reader& archive, std::size_t rows) { State::persist(*static_cast<State*>(s), archive, rows); };
  }
  return ops;
}

/// The State of one lane, and what its part was chosen with, which the cache's Options keep alive. `Ops` derives from StateOps.
template <class Ops>
class ChosenState {
 public:
  ChosenState(const Choice<Ops>& choice, const Site& site, const Memory& memory)
      : state_(*choice.ops, memory, [&](void* room) { choice.ops->make(room, choice.options.get(), site, memory); }),
        options_(choice.options.get()) {}
  ChosenState(const ChosenState&) = default;
  ChosenState(ChosenState&&) noexcept = default;
  /// In place, as the part's own State, where both have the same part.
  ChosenState& operator=(const ChosenState& other) {
    options_ = other.options_;
    if (this == &other) { return *this; }
    if (&ops() != &other.ops()) {
      state_ = other.state_;
    } else if (ops().assign != nullptr) {
      ops().assign(state_.get(), other.state_.get());
    }
    return *this;
  }
  ChosenState& operator=(ChosenState&&) noexcept = default;
  ~ChosenState() = default;

  [[nodiscard]] const Ops& ops() const noexcept { return state_.ops(); }
  [[nodiscard]] const void* options() const noexcept { return options_; }
  /// The State of the part itself.
  [[nodiscard]] void* inner() noexcept { return state_.get(); }
  [[nodiscard]] const void* inner() const noexcept { return state_.get(); }

  void reserve(std::size_t rows) {
    if (ops().reserve != nullptr) { ops().reserve(inner(), rows); }
  }
  void resize(std::size_t rows) {
    if (ops().resize != nullptr) { ops().resize(inner(), rows); }
  }
  void move(std::size_t from, std::size_t to) {
    if (ops().move != nullptr) { ops().move(inner(), from, to); }
  }
  void erase(std::size_t first, std::size_t count) {
    if (ops().erase != nullptr) { ops().erase(inner(), first, count); }
  }
  void compact(std::size_t slack) {
    if (ops().compact != nullptr) { ops().compact(inner(), slack); }
  }
  void account(MemoryReport& report) const {
    state_.account(report);
    if (ops().account != nullptr) { ops().account(inner(), report); }
  }
  static void persist(const ChosenState& self, Writer& archive, std::size_t rows) {
    check_saved(self.ops().write != nullptr, "save", self.ops().name);
    self.ops().write(self.inner(), archive, rows);
  }
  static void persist(ChosenState& self, Reader& archive, std::size_t rows) {
    check_saved(self.ops().read != nullptr, "load", self.ops().name);
    self.ops().read(self.inner(), archive, rows);
  }

 private:
  Erased<Ops> state_;
  const void* options_;
};

}  // namespace kvcompress::detail
