// include/kvcompress/cache/fingerprint.hpp - what a saved cache and the one that loads it must agree on, by name and value.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "kvcompress/cache/lane.hpp"
#include "kvcompress/core/archive.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Names facts to an archive below a prefix: "shape." + "layers".
template <class Archive>
class Facts {
 public:
  Facts(Archive& archive, std::string_view prefix) noexcept : archive_(archive) { prefix_.add(prefix); }

  template <class T>
  void operator()(std::string_view name, const T& value) const {
    Sentence full = prefix_;
    full.add(name);
    const std::string_view path(full.c_str());
    if constexpr (requires { names_of(value); }) {
      archive_.same(path, std::string_view(names_of(value)[static_cast<std::size_t>(value)]));
    } else if constexpr (std::is_enum_v<T>) {
      archive_.same(path, static_cast<std::size_t>(value));
    } else if constexpr (std::floating_point<T>) {
      archive_.same(path, static_cast<double>(value));
    } else if constexpr (std::integral<T>) {
      archive_.same(path, value);
    } else if constexpr (ListsFields<T>) {
      full.add(".");
      T::fields(value, Facts(archive_, full.c_str()));
    } else {
      archive_.same(path, std::string_view(value));
    }
  }

 private:
  Archive& archive_;
  Sentence prefix_;
};

inline void describe_shape(const Shape& shape, auto& archive) {
  const Facts fact(archive, "shape.");
  fact("layers", shape.layers);
  fact("query_heads", shape.query_heads);
  fact("kv_heads", shape.kv_heads);
  fact("key_width", shape.key_width());
  fact("value_width", shape.value_width());
  fact("keys", shape.keys);
  const Rope& rope = shape.rope;
  fact("rope.theta", rope.theta);
  fact("rope.pairing", rope.pairing);
  fact("rope.rotary_dim", rope.rotary_dim);
  fact("rope.scale", rope.scale);
  fact("rope.frequency_factors", rope.frequency_factors != nullptr);
  const std::size_t pairs = (rope.rotary_dim != 0 ? rope.rotary_dim : shape.key_width()) / 2;
  for (std::size_t i = 0; i < pairs && rope.frequency_factors != nullptr; ++i) {
    fact("rope.frequency_factors[]", rope.frequency_factors[i]);
  }
}

/// Options that a policy's name cannot set, where there are such, beside those that it can. A text says where something lies, which may differ.
inline void describe_options(const auto& options, auto& archive, std::string_view prefix) {
  const Facts fact(archive, prefix);
  const auto field = [&](std::string_view name, const auto& value) {
    if constexpr (!std::convertible_to<decltype(value), std::string_view>) { fact(name, value); }
  };
  options.fields(options, field);
  if constexpr (requires { options.unnamed_fields(options, field); }) { options.unnamed_fields(options, field); }
}

template <class P>
void describe(const Shape& shape, const PolicyOptions<P>& options, auto& archive) {
  using Storage = typename Axes<P>::Storage;
  const Facts fact(archive, "policy.");
  fact("eviction", Axes<P>::Eviction::name);
  const Facts of_eviction(archive, "policy.eviction.");
  if constexpr (requires { Axes<P>::Eviction::describe(of_eviction); }) { Axes<P>::Eviction::describe(of_eviction); }
  fact("retrieval", Axes<P>::Retrieval::name);
  const Facts of_retrieval(archive, "policy.retrieval.");
  if constexpr (requires { Axes<P>::Retrieval::describe(of_retrieval); }) { Axes<P>::Retrieval::describe(of_retrieval); }
  Storage::Keys::describe(Facts(archive, "policy.keys."));
  Storage::Values::describe(Facts(archive, "policy.values."));
  describe_shape(shape, archive);
  describe_options(options.eviction, archive, "options.eviction.");
  describe_options(options.storage, archive, "options.storage.");
  describe_options(options.retrieval, archive, "options.retrieval.");
  archive.same("options.speculation", options.speculation);
}

}  // namespace kvcompress::detail
