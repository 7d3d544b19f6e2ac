// include/kvcompress/registry/named_part.hpp - a part of a policy under its name: its options as text, and what is chosen for a lane by it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/any/any_fate.hpp"
#include "kvcompress/registry/settings.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What one name stands for.
struct PartInfo {
  std::string name;
  std::string kind;      ///< "eviction", "storage", "retrieval", or several joined by " and "; or "fate"
  std::string defaults;  ///< "key=value,..." of every option
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

/// Calls visit(options) for the axes that part P names.
template <class P>
void for_axes_of(PolicyOptions<P>& options, auto&& visit) {
  if constexpr (NamesEviction<P>) { visit(options.eviction); }
  if constexpr (NamesStorage<P>) { visit(options.storage); }
  if constexpr (NamesRetrieval<P>) { visit(options.retrieval); }
}

/// Sets the options that a part's settings name; raises an Error that lists them if there is no such one. for_options(visit) calls visit(options) for
/// those of each axis.
void apply_settings(const PartSpec& part, auto&& for_options) {
  for (const PartSpec::Setting& setting : part.settings) {
    bool found = false;
    std::string known;
    for_options([&](auto& axis) {
      axis.fields(axis, [&](const char* name, auto& field) {
        known += std::string(known.empty() ? "" : ", ") + name;
        if (setting.key == name) {
          read_setting(part.name + ":" + setting.key, setting.value, field);
          found = true;
        }
      });
    });
    require(found, ErrorCode::option, part.name, " has no option \"", setting.key, "\", must be ",
            known.empty() ? "without options" : "one of " + known);
  }
}

template <class P>
PartChoices choose_part(const PartSpec& spec) {
  PolicyOptions<P> options{};
  apply_settings(spec, [&](auto&& visit) { for_axes_of<P>(options, visit); });
  PartChoices chosen;
  if constexpr (NamesEviction<P>) {
    chosen.eviction = AnyEviction::of<typename P::Eviction>(options.eviction);
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

/// A part that is registered.
struct NamedPart {
  PartInfo info;
  std::array<bool, 3> axes;  // eviction, storage, retrieval
  PartChoices (*choose)(const PartSpec& spec);
  PartChoices (*choose_for_heads)(const PartSpec& spec);  // its form for layers whose KV heads differ; or null

  [[nodiscard]] std::size_t first_axis() const noexcept {
    return static_cast<std::size_t>(std::find(axes.begin(), axes.end(), true) - axes.begin());
  }
  [[nodiscard]] bool overlaps(const NamedPart& other) const noexcept {
    return (axes[0] && other.axes[0]) || (axes[1] && other.axes[1]) || (axes[2] && other.axes[2]);
  }
};

/// Adds the options of one axis, with their values, to what is told of a part.
void list_defaults(auto&& options, PartInfo& info) {
  options.fields(options, [&](const char* key, auto& field) {
    const std::string setting = std::string(key) + "=";
    require(("," + info.defaults).find("," + setting) == std::string::npos, ErrorCode::option, "registry: ", info.name,
            " has two options named \"", key, "\"");
    info.defaults += (info.defaults.empty() ? "" : ",") + setting + show_setting(field);
  });
}

/// P under a name; `ForHeads` is void, or the form of P for layers whose KV heads differ.
template <class P, class ForHeads>
NamedPart named_part(std::string_view name) {
  NamedPart part{{std::string(name), "", ""}, {NamesEviction<P>, NamesStorage<P>, NamesRetrieval<P>}, &choose_part<P>, nullptr};
  if constexpr (!std::is_void_v<ForHeads>) { part.choose_for_heads = &choose_part<ForHeads>; }
  constexpr std::array kinds{"eviction", "storage", "retrieval"};
  for (std::size_t axis = 0; axis < kinds.size(); ++axis) {
    if (part.axes[axis]) { part.info.kind += std::string(part.info.kind.empty() ? "" : " and ") + kinds[axis]; }
  }
  PolicyOptions<P> options{};
  for_axes_of<P>(options, [&](auto& of) { list_defaults(of, part.info); });
  return part;
}

template <Disposer D>
PartChoices choose_fate(const PartSpec& spec) {
  typename D::Options options{};
  apply_settings(spec, [&](auto&& visit) { visit(options); });
  PartChoices chosen;
  chosen.fate = {&disposer_ops_of<D>, std::make_shared<const typename D::Options>(options)};
  return chosen;
}
/// What becomes of rows that go, under a name: no axis of a policy, but a part of its eviction.
template <Disposer D>
NamedPart named_fate(std::string_view name) {
  NamedPart part{{std::string(name), "fate", ""}, {}, &choose_fate<D>, nullptr};
  list_defaults(typename D::Options{}, part.info);
  return part;
}

}  // namespace detail
}  // namespace kvcompress
