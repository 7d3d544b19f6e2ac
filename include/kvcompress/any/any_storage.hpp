// include/kvcompress/any/any_storage.hpp - how rows are held, chosen at run time, for keys and values apart and for each lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcompress/any/any_store.hpp"
#include "kvcompress/any/store_ops_of.hpp"
#include "kvcompress/core/shared_numbers.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A storage whose stores are chosen at run time: KVCache<P> executes it where P::Storage is AnyStorage. Keys and values may be held in
/// different ways, and lanes in others than their neighbours. Lanes that one of their stores encodes together must be held alike.
struct AnyStorage {
  using Keys = AnyKeys;
  using Values = AnyValues;
  using Choices = detail::Choices<detail::StoreOps>;
  using Choice = detail::Choice<detail::StoreOps>;

  /// What is chosen; f16 where nothing is.
  struct Options {
    Choices keys{{keys_of<ExactStorage<half>>()}, {}};
    Choices values{{values_of<ExactStorage<half>>()}, {}};
  };

  /// The keys, the values of storage S.
  template <class S>
  static Choice keys_of(const typename S::Options& options = {}) {
    return {&detail::key_ops_of<S>, std::make_shared<const typename S::Options>(options)};
  }
  template <class S>
  static Choice values_of(const typename S::Options& options = {}) {
    return {&detail::value_ops_of<S>, std::make_shared<const typename S::Options>(options)};
  }
  /// Both, in every lane.
  template <class S>
  static Options all_of(const typename S::Options& options = {}) {
    const auto shared = std::make_shared<const typename S::Options>(options);
    return {{{{&detail::key_ops_of<S>, shared}}, {}}, {{{&detail::value_ops_of<S>, shared}}, {}}};
  }

  static const Choice& keys_at(const Options& options, const Site& site) noexcept { return options.keys.at(site); }
  static const Choice& values_at(const Options& options, const Site& site) noexcept { return options.values.at(site); }

  static void validate(const Options& options) {
    for (const Choices* half : {&options.keys, &options.values}) {
      const char* name = half == &options.keys ? "keys" : "values";
      require(!half->entries.empty(), ErrorCode::option, "storage: ", name, " has no entry, must have at least one");
      for (const Choice& entry : half->entries) {
        require(entry.ops != nullptr && entry.options != nullptr, ErrorCode::option, "storage: an entry of ", name,
                " is empty, must be a store and its options");
        require((half == &options.keys ? entry.ops->scores != nullptr : entry.ops->accumulate != nullptr), ErrorCode::option,
                "storage: an entry of ", name, " cannot hold ", name, ", must be a store of ", name);
        entry.ops->validate(entry.options.get());
      }
    }
  }
  static void validate_shape(const Options& options, const Shape& shape);
  static RowRange layers_with(const Options& options, const Shape& shape, std::size_t layer) {
    const Site site{layer, 0, shape};
    for (const Choice* choice : {&keys_at(options, site), &values_at(options, site)}) {
      if (choice->ops->facts.scope == Scope::group) { return choice->ops->layers_with(choice->options.get(), shape, layer); }
    }
    return {layer, layer + 1};
  }
  static Scope scope_at(const Options& options, const Shape& shape, std::size_t layer) noexcept {
    Scope widest = Scope::lane;
    for (std::size_t head = 0; head < heads_apart(options, shape, layer); ++head) {
      const Site site{layer, head, shape};
      widest = std::max({widest, keys_at(options, site).ops->facts.scope, values_at(options, site).ops->facts.scope});
    }
    return widest;
  }
  static bool held_alike(const Options& options, const Shape& shape, std::size_t layer) noexcept {
    const Site first{layer, 0, shape};
    for (std::size_t head = 1; head < heads_apart(options, shape, layer); ++head) {
      if (!same_entries(options, first, {layer, head, shape})) { return false; }
    }
    return true;
  }
  static bool needs_retrieval_at(const Options& options, const Site& site) noexcept {
    return keys_at(options, site).ops->needs_retrieval || values_at(options, site).ops->needs_retrieval;
  }
  static bool accumulates_fast_at(const Options& options, const Site& site) noexcept {
    const Choice& keys = keys_at(options, site);
    const Choice& values = values_at(options, site);
    return keys.ops->fast(keys.options.get()) || values.ops->fast(values.options.get());
  }
  static bool needs_retrieval_of(const Options& options) noexcept {
    const auto needs = [](const Choice& entry) { return entry.ops->needs_retrieval; };
    return std::any_of(options.keys.entries.begin(), options.keys.entries.end(), needs) ||
           std::any_of(options.values.entries.begin(), options.values.entries.end(), needs);
  }
  /// Copies of the numbers that options point to, which they point to afterwards.
  static std::vector<SharedNumbers<float>> own_numbers(Options& options, const Shape& shape, const Memory& memory);

  static void describe(const Options& options, auto& archive);
  static void describe_options(const Options& options, auto& archive);

 private:
  static std::size_t heads_apart(const Options& options, const Shape& shape, std::size_t layer) noexcept {
    return options.keys.of_lane.empty() && options.values.of_lane.empty() ? 1 : shape.of(layer).kv_heads;
  }
  static bool same_entries(const Options& options, const Site& a, const Site& b) noexcept {
    return options.keys.entry_of(a) == options.keys.entry_of(b) && options.values.entry_of(a) == options.values.entry_of(b);
  }
  /// Both halves are of one storage, with the same options.
  static bool is_whole(const Choice& keys, const Choice& values) noexcept {
    return keys.ops->storage == values.ops->storage && keys.options == values.options;
  }
  static void check_lane(const Options& options, const Site& site);
};

inline void AnyStorage::validate_shape(const Options& options, const Shape& shape) {
  const std::size_t lanes = shape.lanes();
  for (const Choices* half : {&options.keys, &options.values}) {
    const char* name = half == &options.keys ? "keys" : "values";
    require(half->of_lane.empty() || half->of_lane.size() == lanes, ErrorCode::option, "storage: ", name, " names the entries of ",
            half->of_lane.size(), " lanes, must be of none or of all ", lanes);
    for (const std::uint16_t entry : half->of_lane) {
      require(entry < half->entries.size(), ErrorCode::option, "storage: an entry of ", name, " is ", entry, ", must be less than ",
              half->entries.size());
    }
    for (const Choice& entry : half->entries) {
      if (entry.ops->validate_shape != nullptr) { entry.ops->validate_shape(entry.options.get(), shape); }
    }
  }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; head < shape.of(layer).kv_heads; ++head) { check_lane(options, {layer, head, shape}); }
  }
}

inline void AnyStorage::check_lane(const Options& options, const Site& site) {
  const Shape& shape = site.model;
  const Choice& keys = keys_at(options, site);
  const Choice& values = values_at(options, site);
  require(!values.ops->facts.in_keys || is_whole(keys, values), ErrorCode::option, "storage: the values of layer ", site.layer,
          ", KV head ", site.kv_head, " are held in their keys, which must be those of the same storage");
  const Scope scope = scope_at(options, shape, site.layer);
  require(scope == Scope::lane || same_entries(options, site, {site.layer, 0, shape}), ErrorCode::option, "storage: KV head ", site.kv_head,
          " of layer ", site.layer, " is held otherwise than KV head 0, must be held alike: the lanes of the layer are encoded together");
  if (scope != Scope::group) { return; }
  const RowRange group = layers_with(options, shape, site.layer);
  for (std::size_t other = group.first; other < group.last; ++other) {
    if (site.kv_head >= shape.of(other).kv_heads) { continue; }  // another sentence says that
    require(same_entries(options, site, {other, site.kv_head, shape}), ErrorCode::option, "storage: layer ", other,
            " is held otherwise than layer ", site.layer, ", must be held alike: they are encoded together");
  }
  if (keys.ops->facts.scope == Scope::group && values.ops->facts.scope == Scope::group) {
    const RowRange other = values.ops->layers_with(values.options.get(), shape, site.layer);
    require(other.first == group.first && other.last == group.last, ErrorCode::option, "storage: the values of layer ", site.layer,
            " are encoded together with those of layers ", other.first, " to ", other.last - 1,
            ", must be with those that its keys are: ", group.first, " to ", group.last - 1);
  }
}

inline std::vector<SharedNumbers<float>> AnyStorage::own_numbers(Options& options, const Shape& shape, const Memory& memory) {
  std::vector<SharedNumbers<float>> all;
  std::vector<std::pair<Choice, std::shared_ptr<const void>>> owned;  // what had them, and its options with the copies
  for (Choices* half : {&options.keys, &options.values}) {
    for (Choice& entry : half->entries) {
      if (entry.ops->start == nullptr || entry.ops->start(entry.options.get()) == nullptr) { continue; }
      const auto known = std::find_if(owned.begin(), owned.end(), [&](const auto& one) { return is_whole(one.first, entry); });
      if (known == owned.end()) {
        const void* from = entry.options.get();
        all.emplace_back(entry.ops->start(from), entry.ops->start_count(from, shape), memory);
        owned.emplace_back(entry, entry.ops->with_start(from, all.back().data()));
        entry.options = owned.back().second;
      } else {
        entry.options = known->second;
      }
    }
  }
  return all;
}

namespace detail {

/// Calls the function for this archive.
inline void describe_store(const StoreOps& ops, Writer& writer, std::string_view prefix) { ops.describe_to(writer, prefix); }
inline void describe_store(const StoreOps& ops, Reader& reader, std::string_view prefix) { ops.describe_from(reader, prefix); }
inline void describe_options_of(const Choice<StoreOps>& one, Writer& writer, std::string_view prefix) {
  one.ops->describe_options_to(one.options.get(), writer, prefix);
}
inline void describe_options_of(const Choice<StoreOps>& one, Reader& reader, std::string_view prefix) {
  one.ops->describe_options_from(one.options.get(), reader, prefix);
}
/// "policy.keys.", or "policy.keys[2]." of several.
inline Sentence prefix_of(const char* path, std::size_t entry, std::size_t entries) {
  Sentence prefix;
  prefix.add(path);
  if (entries > 1) {
    prefix.add("[");
    prefix.add(entry);
    prefix.add("]");
  }
  prefix.add(".");
  return prefix;
}

}  // namespace detail

/// The same facts as the storage itself names, where all lanes have the same one.
inline void AnyStorage::describe(const Options& options, auto& archive) {
  for (const Choices* half : {&options.keys, &options.values}) {
    const char* path = half == &options.keys ? "policy.keys" : "policy.values";
    for (std::size_t i = 0; i < half->entries.size(); ++i) {
      const Choice& entry = half->entries[i];
      require(entry.ops->describe_to != nullptr, ErrorCode::option, path,
              ": a store does not say how it is saved: it must provide describe(fact) and persist(self, archive, rows)");
      detail::describe_store(*entry.ops, archive, detail::prefix_of(path, i, half->entries.size()).c_str());
    }
    for (const std::uint16_t entry : half->of_lane) {
      if (half->entries.size() > 1) { archive.same(half == &options.keys ? "policy.keys.of_lane[]" : "policy.values.of_lane[]", entry); }
    }
  }
}
inline void AnyStorage::describe_options(const Options& options, auto& archive) {
  if (options.keys.entries.size() == 1 && options.values.entries.size() == 1 &&
      is_whole(options.keys.entries.front(), options.values.entries.front())) {
    return detail::describe_options_of(options.keys.entries.front(), archive, "options.storage.");
  }
  for (const Choices* half : {&options.keys, &options.values}) {
    const char* path = half == &options.keys ? "options.storage.keys" : "options.storage.values";
    for (std::size_t i = 0; i < half->entries.size(); ++i) {
      detail::describe_options_of(half->entries[i], archive, detail::prefix_of(path, i, half->entries.size()).c_str());
    }
  }
}

}  // namespace kvcompress
