// include/kvcompress/any/any_retrieval.hpp - a retrieval that is chosen at run time, lane by lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <string_view>
#include <type_traits>

#include "kvcompress/any/state_ops.hpp"
#include "kvcompress/core/function_ref.hpp"
#include "kvcompress/retrieval/read_all.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// What a retrieval provides, as functions over its Options and its State; those that it lacks are null. See the concept Retrieval.
struct RetrievalOps : StateOps {
  using ReadKey = FunctionRef<void(std::size_t row, float* out)>;

  bool retrieves;  // it is not ReadAll
  bool follows_writes;
  float largest_key;  // infinity where there is no bound

  void (*validate)(const void* options, const Shape& shape);
  bool (*reads_all)(const void* options, const Site& site);
  bool (*wants_last_query)(const void* options, const Site& site);
  bool (*renumbers)(const void* options, const Site& site);
  std::size_t (*bytes_for)(const void* options, const Site& site, std::size_t rows);
  std::size_t (*rows_read)(const void* options, const Site& site, std::size_t rows);  // or null

  void (*refresh)(const void* options, void* state, const RowTable& table, bool end_of_prompt, std::size_t padding, ReadKey read,
                  Vector<float>& scratch);
  void (*make_room_to_refresh)(const void* options, void* state, std::size_t rows, Vector<float>& scratch);  // or null
  bool (*grows_at)(const void* options, const void* state, std::size_t rows);                                // or null
  void (*select)(const void* options, const void* state, const Retrieving& retrieving, Vector<RowRange>& ranges);
  bool (*remembers)(const void* options);  // or null
  bool (*select_remembering)(const void* options, const void* state, const Retrieving& retrieving, const Memo& before, Memo& after,
                             Vector<RowRange>& ranges);  // or null
  std::size_t (*indexed)(const void* state);
  Reads (*reads)(const void* state);
  void (*remember_first)(void* state, const Vector<RowRange>& ranges);
};

template <class R>
struct RetrievalFunctions {
  using Options = typename R::Options;
  using State = typename R::State;
  static const Options& of(const void* options) noexcept { return *static_cast<const Options*>(options); }
  static State& in(void* state) noexcept { return *static_cast<State*>(state); }
  static const State& in(const void* state) noexcept { return *static_cast<const State*>(state); }

  static constexpr RetrievalOps table() noexcept {
    RetrievalOps ops{};
    static_cast<StateOps&>(ops) = state_ops_of<R>();
    ops.retrieves = !std::is_same_v<R, ReadAll>;
    ops.follows_writes = follows_writes<R>;
    ops.largest_key = std::numeric_limits<float>::infinity();
    if constexpr (requires { R::largest_key; }) { ops.largest_key = R::largest_key; }
    ops.validate = [](const void* o, const Shape& shape) { R::validate(of(o), shape); };
    ops.reads_all = [](const void* o, const Site& site) { return R::reads_all(of(o), site); };
    ops.wants_last_query = [](const void* o, const Site& site) { return R::wants_last_query(of(o), site); };
    ops.renumbers = [](const void* o, const Site& site) { return R::renumbers(of(o), site); };
    ops.bytes_for = [](const void* o, const Site& site, std::size_t rows) { return R::bytes_for(of(o), site, rows); };
    if constexpr (requires(const Options& o, const Site& site) { R::rows_read(o, site, std::size_t{}); }) {
      ops.rows_read = [](const void* o, const Site& site, std::size_t rows) { return R::rows_read(of(o), site, rows); };
    }
    index(ops);
    return ops;
  }
  static constexpr void index(RetrievalOps& ops) noexcept {
    ops.refresh = [](const void* o, void* s, const RowTable& table, bool end_of_prompt, std::size_t padding, RetrievalOps::ReadKey read,
                     Vector<float>& scratch) { R::refresh(of(o), in(s), table, end_of_prompt, padding, read, scratch); };
    if constexpr (requires(const Options& o, State& s, Vector<float>& scratch) { R::make_room_to_refresh(o, s, std::size_t{}, scratch); }) {
      ops.make_room_to_refresh = [](const void* o, void* s, std::size_t rows, Vector<float>& scratch) {
        R::make_room_to_refresh(of(o), in(s), rows, scratch);
      };
    }
    if constexpr (requires(const Options& o, const State& s) { R::grows_at(o, s, std::size_t{}); }) {
      ops.grows_at = [](const void* o, const void* s, std::size_t rows) { return R::grows_at(of(o), in(s), rows); };
    }
    ops.select = [](const void* o, const void* s, const Retrieving& retrieving, Vector<RowRange>& ranges) {
      R::select(of(o), in(s), retrieving, ranges);
    };
    if constexpr (Remembers<R>) {
      ops.remembers = [](const void* o) { return R::remembers(of(o)); };
      ops.select_remembering = [](const void* o, const void* s, const Retrieving& retrieving, const Memo& before, Memo& after,
                                  Vector<RowRange>& ranges) { return R::select(of(o), in(s), retrieving, before, after, ranges); };
    }
    ops.indexed = [](const void* s) { return in(s).indexed(); };
    ops.reads = [](const void* s) { return in(s).reads(); };
    ops.remember_first = [](void* s, const Vector<RowRange>& ranges) { in(s).remember_first(ranges); };
  }
};
template <class R>
inline constexpr RetrievalOps retrieval_ops_of = RetrievalFunctions<R>::table();

}  // namespace detail

/// A retrieval chosen at run time, for each lane: `options.chosen.entries = {AnyRetrieval::of<PageBounds<half>>(pages)}`. What it gives is
/// what the chosen one gives, bit for bit; by default every query reads every row. A call through a table of functions per query and lane,
/// and some per commit. Memory beside that of the chosen one: its State, under indices.
struct AnyRetrieval {
  using Ops = detail::RetrievalOps;
  static constexpr std::string_view name = "any_retrieval";

  template <Retrieval R>
  [[nodiscard]] static detail::Choice<Ops> of(const typename R::Options& options = {}) {
    return {&detail::retrieval_ops_of<R>, std::make_shared<const typename R::Options>(options)};
  }
  struct Options {
    detail::Choices<Ops> chosen{{of<ReadAll>()}, {}};
    static void fields(auto&, auto&&) {}
  };

  /// The State of one lane.
  class State : public detail::ChosenState<Ops> {
   public:
    using detail::ChosenState<Ops>::ChosenState;
    [[nodiscard]] bool retrieves() const noexcept { return ops().retrieves; }
    [[nodiscard]] bool remembers() const { return ops().remembers != nullptr && ops().remembers(options()); }
    [[nodiscard]] std::size_t indexed() const { return ops().indexed(inner()); }
    [[nodiscard]] Reads reads() const { return ops().reads(inner()); }
    void remember_first(const Vector<RowRange>& ranges) { ops().remember_first(inner(), ranges); }
  };

  static void validate(const Options& options, const Shape& shape) {
    options.chosen.validate("retrieval", shape);
    for (const auto& entry : options.chosen.entries) { entry.ops->validate(entry.options.get(), shape); }
  }
  static bool retrieves(const Options& options, const Site& site) noexcept { return options.chosen.at(site).ops->retrieves; }
  static std::string_view name_of(const Options& options, const Site& site) noexcept { return options.chosen.at(site).ops->name; }
  static float largest_key_of(const Options& options, const Site& site) noexcept { return options.chosen.at(site).ops->largest_key; }
  static bool reads_all(const Options& options, const Site& site) { return ask(options, site, &Ops::reads_all); }
  static bool wants_last_query(const Options& options, const Site& site) { return ask(options, site, &Ops::wants_last_query); }
  static bool renumbers(const Options& options, const Site& site) { return ask(options, site, &Ops::renumbers); }
  static std::size_t bytes_for(const Options& options, const Site& site, std::size_t rows) {
    const auto& choice = options.chosen.at(site);
    return choice.ops->bytes_for(choice.options.get(), site, rows);
  }
  static std::size_t rows_read(const Options& options, const Site& site, std::size_t rows) {
    const auto& choice = options.chosen.at(site);
    return choice.ops->rows_read != nullptr ? choice.ops->rows_read(choice.options.get(), site, rows) : rows;
  }
  static State state(const Options& options, const Site& site, const Memory& memory) { return {options.chosen.at(site), site, memory}; }

  static void make_room_to_refresh(const Options&, State& state, std::size_t rows, Vector<float>& scratch) {
    if (state.ops().make_room_to_refresh != nullptr) { state.ops().make_room_to_refresh(state.options(), state.inner(), rows, scratch); }
  }
  /// Also for a retrieval of which nothing is known.
  static bool grows_at(const Options&, const State& state, std::size_t rows) {
    const Ops& ops = state.ops();
    return ops.grows_at != nullptr ? ops.grows_at(state.options(), state.inner(), rows) : ops.make_room_to_refresh == nullptr;
  }
  static void refresh(const Options&, State& state, const RowTable& table, bool end_of_prompt, std::size_t padding, Ops::ReadKey read,
                      Vector<float>& scratch) {
    state.ops().refresh(state.options(), state.inner(), table, end_of_prompt, padding, read, scratch);
  }
  static void select(const Options&, const State& state, const Retrieving& retrieving, Vector<RowRange>& ranges) {
    state.ops().select(state.options(), state.inner(), retrieving, ranges);
  }
  static bool select(const Options&, const State& state, const Retrieving& retrieving, const Memo& before, Memo& after,
                     Vector<RowRange>& ranges) {
    return state.ops().select_remembering(state.options(), state.inner(), retrieving, before, after, ranges);
  }

 private:
  static bool ask(const Options& options, const Site& site, bool (*Ops::*question)(const void*, const Site&)) {
    const auto& choice = options.chosen.at(site);
    return (choice.ops->*question)(choice.options.get(), site);
  }
};

}  // namespace kvcompress
