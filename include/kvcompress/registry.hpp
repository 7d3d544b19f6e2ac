// include/kvcompress/registry.hpp - policies by name: "h2o:budget=256,recent=128+kivi2:residual=64" becomes a cache.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcompress/any_cache.hpp"
#include "kvcompress/registry/settings.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// The names of a policy's parts by axis; empty where an axis is left open. A part that brings several axes stands at each of them.
struct PartNames {
  std::string eviction;
  std::string storage;
  std::string retrieval;

  /// Calls visit(options) for those of the options whose axis the part `name` brings.
  template <class Options>
  void for_axes_of(const std::string& name, Options& options, auto&& visit) const {
    if (eviction == name) { visit(options.eviction); }
    if (storage == name) { visit(options.storage); }
    if (retrieval == name) { visit(options.retrieval); }
  }
  friend bool operator==(const PartNames&, const PartNames&) = default;
};

/// Sets the options that a part's settings name; raises an Error that lists them if there is no such one.
template <class P>
void apply_settings(const PartNames& names, const PartSpec& part, PolicyOptions<P>& options) {
  for (const PartSpec::Setting& setting : part.settings) {
    bool found = false;
    std::string known;
    names.for_axes_of(part.name, options, [&](auto& axis) {
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

}  // namespace detail

/// What one name stands for.
struct PartInfo {
  std::string name;
  std::string kind;      ///< "eviction", "storage", "retrieval", or several joined by " and "
  std::string defaults;  ///< "key=value,..." of every option
};

/// Policies by name; standard_registry.hpp has all of the library's. A name is an eviction, a storage, a retrieval, or several joined by '+';
/// no eviction keeps all, no storage is f16 ("full"), no retrieval reads all. An option means the same in every combination. A text with ','
/// or '+' in it cannot be a value.
class Registry {
 public:
  /// Adds policy P under the names of its parts, "" for an axis that none of them brings (its storage always has a name). A part that brings
  /// two axes has its name at both: add<ShadowKV<>>("", "shadowkv", "shadowkv"). A policy of your own works like the library's.
  template <class P>
  void add(std::string_view eviction, std::string_view storage, std::string_view retrieval = "") {
    using Axes = detail::Axes<P>;
    const detail::PartNames names{std::string(eviction), std::string(storage), std::string(retrieval)};
    check_names(names);
    note<P>(names, names.eviction, 0);
    note<P>(names, names.storage, 1);
    note<P>(names, names.retrieval, 2);
    constexpr bool needs_retrieval = requires { Axes::Storage::needs_retrieval; };
    const auto make = [](const detail::PartNames& known, std::span<const PartSpec> parts, const Shape& shape, const Memory& memory) {
      PolicyOptions<P> options{};
      for (const PartSpec& part : parts) { detail::apply_settings<P>(known, part, options); }
      return AnyCache::of<P>(shape, options, memory);
    };
    entries_.push_back({names, Axes::Eviction::decides, Axes::Eviction::scope, Axes::Eviction::observes,
                        detail::storage_scope<typename Axes::Storage>(), needs_retrieval, make});
  }
  /// Makes the cache that `policy` names; raises an Error that names an unknown part, option or value and what there is instead, or says why
  /// parts do not go together.
  [[nodiscard]] std::unique_ptr<AnyCache> make(std::string_view policy, const Shape& shape, const Memory& memory = {}) const {
    std::vector<PartSpec> parts = parse_policy(policy);
    detail::PartNames names;
    for (PartSpec& part : parts) {
      if (part.name == "full") { part.name = "f16"; }
      if (part.name == "streaming_llm") { part.name = "streaming"; }
      const std::array<bool, 3> axes = axes_of(part.name);
      if (axes[0]) { take(policy, names.eviction, part.name, "evictions"); }
      if (axes[1]) { take(policy, names.storage, part.name, "storages"); }
      if (axes[2]) { take(policy, names.retrieval, part.name, "retrievals"); }
    }
    if (names.storage.empty()) { names.storage = "f16"; }
    for (const Entry& entry : entries_) {
      if (entry.names == names) { return entry.make(names, parts, shape, memory); }
    }
    refuse(policy, names);
  }
  [[nodiscard]] const std::vector<PartInfo>& parts() const noexcept { return parts_; }
  /// The names of everything that can be made, without settings.
  [[nodiscard]] std::vector<std::string> policies() const {
    std::vector<std::string> all;
    for (const Entry& entry : entries_) { all.push_back(name_of(entry.names)); }
    return all;
  }

 private:
  struct Entry {
    detail::PartNames names;
    Decides decides;
    Scope decides_for;
    Observes observes;
    Scope encodes;
    bool needs_retrieval;
    std::unique_ptr<AnyCache> (*make)(const detail::PartNames&, std::span<const PartSpec>, const Shape&, const Memory&);
  };

  /// A name that make could not find, or would find elsewhere.
  void check_names(const detail::PartNames& names) const {
    require(!names.storage.empty(), ErrorCode::option, "registry: the storage's name is empty, must be the name of a part");
    for (const std::string* name : {&names.eviction, &names.storage, &names.retrieval}) {
      require(name->find_first_of("+:,=") == std::string::npos, ErrorCode::option, "registry: the name \"", *name,
              "\" is given, must be without any of + : , =");
      require(*name != "full", ErrorCode::option, "registry: the name \"full\" is given, must be another one: it means f16");
    }
    for (const Entry& entry : entries_) {
      require(entry.names != names, ErrorCode::option, "registry: ", name_of(names), " is given a second time, must be added once");
    }
  }
  /// Remembers a part: evictions first, then what has a storage, then retrievals.
  template <class P>
  void note(const detail::PartNames& names, const std::string& name, int axis) {
    const auto known = [&](const PartInfo& part) { return part.name == name; };
    if (name.empty() || std::any_of(parts_.begin(), parts_.end(), known)) { return; }
    PartInfo part{name, "", ""};
    for (const auto& [of, kind] : {std::pair{&names.eviction, "eviction"}, {&names.storage, "storage"}, {&names.retrieval, "retrieval"}}) {
      if (*of == name) { part.kind += std::string(part.kind.empty() ? "" : " and ") + kind; }
    }
    PolicyOptions<P> options{};
    names.for_axes_of(name, options, [&](auto& of) {
      of.fields(of, [&](const char* key, auto& field) {
        const std::string setting = std::string(key) + "=";
        require(("," + part.defaults).find("," + setting) == std::string::npos, ErrorCode::option, "registry: ", name,
                " has two options named \"", key, "\"");
        part.defaults += (part.defaults.empty() ? "" : ",") + setting + detail::show_setting(field);
      });
    });
    std::size_t& end = ends_[static_cast<std::size_t>(axis)];
    parts_.insert(parts_.begin() + static_cast<std::ptrdiff_t>(end), std::move(part));
    for (std::size_t later = static_cast<std::size_t>(axis); later < ends_.size(); ++later) { ++ends_[later]; }
  }
  /// Whether a part is an eviction, a storage, a retrieval.
  [[nodiscard]] std::array<bool, 3> axes_of(const std::string& name) const {
    std::array<bool, 3> axes{};
    for (const Entry& entry : entries_) {
      axes[0] = axes[0] || entry.names.eviction == name;
      axes[1] = axes[1] || entry.names.storage == name;
      axes[2] = axes[2] || entry.names.retrieval == name;
    }
    if (axes == std::array<bool, 3>{}) {
      std::string known;
      for (const PartInfo& part : parts_) { known += ", " + part.name; }
      fail(ErrorCode::option, "\"", name, "\" is no part of a policy, must be one of full", known);
    }
    return axes;
  }
  void take(std::string_view policy, std::string& axis, const std::string& name, const char* kind) const {
    const auto with_kind = [&](const std::string& part) {
      for (const PartInfo& info : parts_) {
        if (info.name == part && info.kind.find(' ') != std::string::npos) { return part + " (" + info.kind + ")"; }
      }
      return part;
    };
    require(axis.empty(), ErrorCode::option, "policy \"", policy, "\" names two ", kind, ": ", with_kind(axis), " and ", with_kind(name));
    axis = name;
  }
  [[nodiscard]] static std::string name_of(const detail::PartNames& names) {
    std::string name = names.eviction;
    const bool storage = names.storage != "f16" || (names.eviction.empty() && names.retrieval.empty());
    if (storage) { name += (name.empty() ? "" : "+") + names.storage; }
    if (names.retrieval != names.storage && !names.retrieval.empty()) { name += (name.empty() ? "" : "+") + names.retrieval; }
    return name;
  }
  /// Says why KVCache takes no such policy (see there), or else what is registered.
  [[noreturn]] void refuse(std::string_view policy, const detail::PartNames& names) const {
    const auto entry_with = [&](std::string detail::PartNames::*axis) {
      return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.names.*axis == names.*axis; });
    };
    const auto evicts = entry_with(&detail::PartNames::eviction);
    const auto holds = entry_with(&detail::PartNames::storage);
    if (evicts != entries_.end() && holds != entries_.end()) {
      require(evicts->decides != Decides::every_commit || evicts->decides_for >= holds->encodes, ErrorCode::option, "policy \"", policy,
              "\": ", names.eviction, " chooses other rows in every lane at every commit, but ", names.storage,
              " encodes lanes together, which must hold the same rows");
      require(evicts->observes != Observes::every_query || names.retrieval.empty(), ErrorCode::option, "policy \"", policy,
              "\": ", names.eviction, " observes the probabilities of every row for every query, but with ", names.retrieval,
              " a query reads only some of the rows");
      require(!holds->needs_retrieval || !names.retrieval.empty(), ErrorCode::option, "policy \"", policy, "\": ", names.storage,
              " must know which rows a query reads before it reads them, so it needs a retrieval");
    }
    const auto axis = names.retrieval.empty() ? &detail::PartNames::storage : &detail::PartNames::retrieval;
    std::string known;
    for (const Entry& entry : entries_) {
      if (entry.names.*axis == names.*axis) { known += (known.empty() ? "" : ", ") + name_of(entry.names); }
    }
    fail(ErrorCode::option, "policy \"", policy, "\" combines parts that are not registered together", known.empty() ? "" : "; there is ",
         known);
  }

  std::vector<Entry> entries_;
  std::vector<PartInfo> parts_;
  std::array<std::size_t, 3> ends_{};  // of the evictions, storages and retrievals in parts_
};

}  // namespace kvcompress
