// include/kvcompress/cache/fingerprint.hpp - what a saved cache and the one that loads it must agree on, by name and value.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/any/erased.hpp"
#include "kvcompress/cache/facts.hpp"
#include "kvcompress/cache/lane.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

inline void describe_shape_of_layer(const Shape& shape, const auto& fact) {
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
  if (rope.magnitude != 1.0) { fact("rope.magnitude", rope.magnitude); }
  if (shape.window != 0) { fact("window", shape.window); }
  if (shape.store_of != Shape::own_rows) { fact("store_of", shape.store_of); }
}
inline void describe_shape(const Shape& shape, auto& archive) {
  const Facts fact(archive, "shape.");
  fact("layers", shape.layers);
  for (std::size_t layer = 0; shape.each != nullptr && layer < shape.layers; ++layer) {
    fact("each[].layer", layer);
    describe_shape_of_layer(shape.each[layer], fact);
  }
  if (shape.each == nullptr) { describe_shape_of_layer(shape, fact); }
}

/// What a part that is chosen at run time says in a fingerprint: facts about its type, and its options. In tables of functions as `saving`; null of
/// one that cannot be saved.
struct Saving {
  void (*facts_to)(const void* options, const Facts<Writer>& fact) = nullptr;
  void (*facts_from)(const void* options, const Facts<Reader>& fact) = nullptr;
  void (*options_to)(const void* options, Writer& archive, std::string_view prefix) = nullptr;
  void (*options_from)(const void* options, Reader& archive, std::string_view prefix) = nullptr;

  void facts(const void* values, const Facts<Writer>& fact) const { facts_to(values, fact); }
  void facts(const void* values, const Facts<Reader>& fact) const { facts_from(values, fact); }
  void options(const void* values, Writer& archive, std::string_view prefix) const { options_to(values, archive, prefix); }
  void options(const void* values, Reader& archive, std::string_view prefix) const { options_from(values, archive, prefix); }
};
/// The facts of an eviction or a retrieval: those of its describe(fact), or describe(options, fact), if it has one.
template <class Part>
void describe_facts([[maybe_unused]] const typename Part::Options& options, [[maybe_unused]] const auto& fact) {
  if constexpr (requires { Part::describe(options, fact); }) {
    Part::describe(options, fact);
  } else if constexpr (requires { Part::describe(fact); }) {
    Part::describe(fact);
  }
}
template <class Part>
inline constexpr Saving saving_of = [] {
  constexpr auto facts = [](const void* values, const auto& fact) {
    describe_facts<Part>(*static_cast<const typename Part::Options*>(values), fact);
  };
  constexpr auto options = [](const void* values, auto& archive, std::string_view prefix) {
    describe_options(*static_cast<const typename Part::Options*>(values), archive, prefix);
  };
  return Saving{facts, facts, options, options};
}();

inline void check_saved(bool holds, const char* verb, std::string_view part) {
  require(holds, ErrorCode::option, verb, ": ", part,
          " does not say how it is saved; saving a KVCache of it does not compile, and says what is missing");
}

/// Calls work(choice, path) for every part that is chosen for some lane; all but the first have their number behind the path.
template <class Ops>
void for_choices(const Choices<Ops>& chosen, std::string_view path, auto&& work) {
  for (std::size_t entry = 0; entry < chosen.entries.size(); ++entry) {
    Sentence numbered;
    numbered.add(path);
    if (entry > 0) {
      numbered.add("[");
      numbered.add(entry);
      numbered.add("]");
    }
    work(chosen.entries[entry], numbered);
  }
}

/// The name of an eviction or a retrieval and its facts; for those that are chosen lane by lane, of each.
template <class Part>
void describe_part(const typename Part::Options& options, auto& archive, std::string_view axis) {
  if constexpr (ChosenPerLane<Part>) {
    for_choices(options.chosen, axis, [&](const auto& choice, Sentence path) {
      check_saved(choice.ops->write != nullptr, "save or load", choice.ops->name);
      archive.same(path.c_str(), choice.ops->name);
      path.add(".");
      choice.ops->saving.facts(choice.options.get(), Facts(archive, path.c_str()));
    });
  } else {
    archive.same(axis, Part::name);
    Sentence prefix;
    prefix.add(axis);
    prefix.add(".");
    describe_facts<Part>(options, Facts(archive, prefix.c_str()));
  }
}
/// The options of an axis ("options.retrieval"); where they are chosen lane by lane, those of each choice, and which lane has which.
template <class Part>
void describe_axis_options(const typename Part::Options& options, auto& archive, std::string_view axis) {
  if constexpr (ChosenPerLane<Part>) {
    for_choices(options.chosen, axis, [&](const auto& choice, Sentence path) {
      path.add(".");
      choice.ops->saving.options(choice.options.get(), archive, path.c_str());
    });
    const Facts fact(archive, axis);
    for (const std::size_t entry : options.chosen.of_lane) { fact(".of_lane[]", entry); }
  } else {
    Sentence prefix;
    prefix.add(axis);
    prefix.add(".");
    describe_options(options, archive, prefix.c_str());
  }
}

template <class P>
void describe(const Shape& shape, const PolicyOptions<P>& options, auto& archive) {
  using Storage = typename Axes<P>::Storage;
  describe_part<typename Axes<P>::Eviction>(options.eviction, archive, "policy.eviction");
  describe_part<typename Axes<P>::Retrieval>(options.retrieval, archive, "policy.retrieval");
  if constexpr (requires { Storage::describe(options.storage, archive); }) {
    Storage::describe(options.storage, archive);
  } else {
    Storage::Keys::describe(Facts(archive, "policy.keys."));
    Storage::Values::describe(Facts(archive, "policy.values."));
  }
  describe_shape(shape, archive);
  describe_axis_options<typename Axes<P>::Eviction>(options.eviction, archive, "options.eviction");
  if constexpr (requires { Storage::describe_options(options.storage, archive); }) {
    Storage::describe_options(options.storage, archive);
  } else {
    describe_options(options.storage, archive, "options.storage.");
  }
  describe_axis_options<typename Axes<P>::Retrieval>(options.retrieval, archive, "options.retrieval");
  archive.same("options.speculation", options.speculation);
}

}  // namespace kvcompress::detail
