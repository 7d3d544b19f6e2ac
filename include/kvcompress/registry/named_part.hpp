// include/kvcompress/registry/named_part.hpp - a part of a policy under its name: its options as text, and what is chosen for a lane by it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/any/any_fate.hpp"
#include "kvcompress/any/any_parts.hpp"
#include "kvcompress/registry/settings.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What one name stands for.
struct PartInfo {
  std::string name;
  /// "eviction", "storage", "retrieval", or several joined by " and "; "allocator", "selector", "agreement" or "fate" of what stands behind an
  /// eviction.
  std::string kind;
  std::string defaults;  ///< "key=value,..." of every option

  [[nodiscard]] bool stands_behind_eviction() const noexcept {
    return kind == "allocator" || kind == "selector" || kind == "agreement" || kind == "fate";
  }
};

namespace detail {

/// What a part chooses for the lanes that have it, and what rules ask of it. Null of the axes that it does not name.
struct PartChoices {
  Choice<AnyEviction::Ops> eviction{};
  AnyStorage::Choice keys{};
  AnyStorage::Choice values{};
  Choice<AnyRetrieval::Ops> retrieval{};
  Choice<DisposerOps> fate{};
  Needs needs{Decides::never, Observes::nothing, Scope::group};
  bool needs_retrieval = false;
  bool retrieves = false;
};

/// What stands in a name beside an eviction: replaces its parts, or says what becomes of the rows that go; null or false where nothing does.
struct BesideEviction {
  Choice<AnyAllocator::Ops> allocator{};
  Choice<AnySelector::Ops> selector{};
  bool in_layer = false;
  Choice<DisposerOps> fate{};
  [[nodiscard]] bool replaces() const noexcept { return allocator.ops != nullptr || selector.ops != nullptr || in_layer; }
};

/// Whether other parts may stand beside eviction E, which is made of parts or says what it is as one that is.
template <class E>
concept TakesParts = made_of_parts<E> || requires(const typename E::Options options) {
  E::parts_of(options);
};

/// The options of a part, at first their defaults, and their names.
struct OptionsByName {
  std::shared_ptr<void> values;
  NamedOptions names;
};
/// Those of all axes that part P names; of an eviction without the parts that others replace.
template <class P>
OptionsByName options_by_name([[maybe_unused]] const BesideEviction& beside) {
  const auto options = std::make_shared<PolicyOptions<P>>();
  OptionsByName all{options, {}};
  if constexpr (NamesEviction<P>) {
    if constexpr (made_of_parts<typename P::Eviction>) {
      auto& eviction = options->eviction;
      eviction.own_fields(eviction, all.names.visitor());
      all.names.list(eviction.scorer);
      if (beside.allocator.ops == nullptr) { all.names.list(eviction.allocator); }
      if (beside.selector.ops == nullptr) { all.names.list(eviction.selector); }
    } else {
      all.names.list(options->eviction);
    }
  }
  if constexpr (NamesStorage<P>) { all.names.list(options->storage); }
  if constexpr (NamesRetrieval<P>) { all.names.list(options->retrieval); }
  return all;
}

/// An eviction with what stands beside it.
template <class E>
Choice<AnyEviction::Ops> chosen_eviction(const typename E::Options& options, [[maybe_unused]] const BesideEviction& beside) {
  if constexpr (made_of_parts<E>) {
    auto parts = AtRunTime<E>::options(options);
    if (beside.allocator.ops != nullptr) { parts.allocator.chosen = beside.allocator; }
    if (beside.selector.ops != nullptr) { parts.selector.chosen = beside.selector; }
    if (beside.in_layer) { parts.selector.agrees = Scope::layer; }
    return AnyEviction::of<typename AtRunTime<E>::Eviction>(parts);
  } else if constexpr (TakesParts<E>) {
    return beside.replaces() ? chosen_eviction<typename E::Parts>(E::parts_of(options), beside) : AnyEviction::of<E>(options);
  } else {
    return AnyEviction::of<E>(options);
  }
}
template <class P>
PartChoices choices_of(const void* values, const BesideEviction& beside) {
  const auto& options = *static_cast<const PolicyOptions<P>*>(values);
  PartChoices chosen;
  if constexpr (NamesEviction<P>) {
    chosen.eviction = chosen_eviction<typename P::Eviction>(options.eviction, beside);
    if (beside.fate.ops != nullptr) { chosen.eviction = AnyDisposed::of(chosen.eviction, beside.fate); }
    chosen.needs = chosen.eviction.ops->needs;
  }
  if constexpr (NamesStorage<P>) {
    using Storage = typename P::Storage;
    auto storage = AnyStorage::all_of<Storage>(options.storage);
    chosen.keys = std::move(storage.keys.entries.front());
    chosen.values = std::move(storage.values.entries.front());
    chosen.needs_retrieval = requires { Storage::needs_retrieval; };
  }
  if constexpr (NamesRetrieval<P>) {
    chosen.retrieval = AnyRetrieval::of<typename P::Retrieval>(options.retrieval);
    chosen.retrieves = chosen.retrieval.ops->retrieves;
  }
  return chosen;
}

/// How a part is chosen by text.
struct Choosing {
  OptionsByName (*options)(const BesideEviction& beside);
  PartChoices (*choices)(const void* options, const BesideEviction& beside);

  [[nodiscard]] PartChoices operator()(const PartSpec& spec, const BesideEviction& beside) const {
    const OptionsByName all = options(beside);
    apply_settings(spec, all.names);
    return choices(all.values.get(), beside);
  }
};
template <class P>
inline constexpr Choosing choosing_of{&options_by_name<P>, &choices_of<P>};

/// A part that is registered.
struct NamedPart {
  PartInfo info;
  std::array<bool, 3> axes;  // eviction, storage, retrieval
  const Choosing* choose;
  const Choosing* choose_for_heads;  // its form for layers whose KV heads differ; or null
  bool takes_parts;                  // allocators and selectors may stand beside it

  [[nodiscard]] std::size_t first_axis() const noexcept {
    return static_cast<std::size_t>(std::find(axes.begin(), axes.end(), true) - axes.begin());
  }
  [[nodiscard]] bool overlaps(const NamedPart& other) const noexcept {
    return (axes[0] && other.axes[0]) || (axes[1] && other.axes[1]) || (axes[2] && other.axes[2]);
  }
};

/// P; `ForHeads` is void, or the form of P for layers whose KV heads differ.
template <class P, class ForHeads>
NamedPart unnamed_part() {
  NamedPart part{{}, {NamesEviction<P>, NamesStorage<P>, NamesRetrieval<P>}, &choosing_of<P>, nullptr, false};
  if constexpr (!std::is_void_v<ForHeads>) { part.choose_for_heads = &choosing_of<ForHeads>; }
  if constexpr (NamesEviction<P> && !NamesStorage<P> && !NamesRetrieval<P>) { part.takes_parts = TakesParts<typename P::Eviction>; }
  return part;
}
/// A part under its name.
inline NamedPart named_part(std::string_view name, NamedPart part) {
  constexpr std::array kinds{"eviction", "storage", "retrieval"};
  part.info.name = name;
  for (std::size_t axis = 0; axis < kinds.size(); ++axis) {
    if (part.axes[axis]) { part.info.kind += std::string(part.info.kind.empty() ? "" : " and ") + kinds[axis]; }
  }
  part.info.defaults = defaults_of(name, part.choose->options({}).names);
  return part;
}

/// An allocator, a selector or an agreement that is registered, to stand beside evictions that are made of parts, or a fate, beside any.
struct NamedBeside {
  PartInfo info;
  OptionsByName (*options)();
  void (*choose)(const void* options, BesideEviction& beside);
};
template <class Options>
OptionsByName part_by_name() {
  const auto options = std::make_shared<Options>();
  OptionsByName all{options, {}};
  all.names.list(*options);
  return all;
}
template <BudgetAllocator A>
void choose_allocator(const void* options, BesideEviction& beside) {
  beside.allocator = AnyAllocator::of<A>(options_of<A>(options));
}
template <Selector X>
void choose_selector(const void* options, BesideEviction& beside) {
  beside.selector = AnySelector::of<X>(options_of<X>(options));
}
template <Disposer D>
void choose_fate(const void* options, BesideEviction& beside) {
  beside.fate = {&disposer_ops_of<D>, std::make_shared<const typename D::Options>(*static_cast<const typename D::Options*>(options))};
}
inline NamedBeside named_beside(std::string_view name, const char* kind, OptionsByName (*options)(),
                                void (*choose)(const void*, BesideEviction&)) {
  return {{std::string(name), kind, defaults_of(name, options().names)}, options, choose};
}

}  // namespace detail
}  // namespace kvcompress
