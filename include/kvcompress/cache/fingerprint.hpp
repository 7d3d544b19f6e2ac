// include/kvcompress/cache/fingerprint.hpp - what a saved cache and the one that loads it must agree on, by name and value.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/cache/facts.hpp"
#include "kvcompress/cache/lane.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

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

template <class P>
void describe(const Shape& shape, const PolicyOptions<P>& options, auto& archive) {
  using Storage = typename Axes<P>::Storage;
  const Facts fact(archive, "policy.");
  fact("eviction", Axes<P>::Eviction::name);
  fact("retrieval", Axes<P>::Retrieval::name);
  const Facts of_retrieval(archive, "policy.retrieval.");
  if constexpr (requires { Axes<P>::Retrieval::describe(of_retrieval); }) { Axes<P>::Retrieval::describe(of_retrieval); }
  if constexpr (requires { Storage::describe(options.storage, archive); }) {
    Storage::describe(options.storage, archive);
  } else {
    Storage::Keys::describe(Facts(archive, "policy.keys."));
    Storage::Values::describe(Facts(archive, "policy.values."));
  }
  describe_shape(shape, archive);
  describe_options(options.eviction, archive, "options.eviction.");
  if constexpr (requires { Storage::describe_options(options.storage, archive); }) {
    Storage::describe_options(options.storage, archive);
  } else {
    describe_options(options.storage, archive, "options.storage.");
  }
  describe_options(options.retrieval, archive, "options.retrieval.");
  archive.same("options.speculation", options.speculation);
}

}  // namespace kvcompress::detail
