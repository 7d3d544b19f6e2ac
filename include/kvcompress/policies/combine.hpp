// include/kvcompress/policies/combine.hpp - composition: each axis of a policy comes from the one part that names it.
// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include "kvcompress/concepts/store_facts.hpp"
#include "kvcompress/eviction/keep_all.hpp"
#include "kvcompress/quantization/exact.hpp"
#include "kvcompress/retrieval/read_all.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Keys and values kept as they are, in T.
template <class T>
struct ExactStorage {
  using Keys = Exact<T>;
  using Values = Exact<T>;
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  static void validate(const Options&) noexcept {}
};

/// A part of a policy: a type that names an eviction (`using Eviction = ...`), a storage (`using Storage = ...`), a retrieval
/// (`using Retrieval = ...`), or several of them.
template <class P>
concept PolicyPart = requires {
  typename P::Eviction;
}
|| requires { typename P::Storage; }
|| requires { typename P::Retrieval; };

namespace detail {

template <class P>
concept NamesEviction = requires {
  typename P::Eviction;
};
template <class P>
concept NamesStorage = requires {
  typename P::Storage;
};
template <class P>
concept NamesRetrieval = requires {
  typename P::Retrieval;
};

struct Nothing {};

template <class... Parts>
struct EvictionOf : Nothing {};
template <class First, class... Rest>
struct EvictionOf<First, Rest...> : EvictionOf<Rest...> {};
template <NamesEviction First, class... Rest>
struct EvictionOf<First, Rest...> {
  using Eviction = typename First::Eviction;
};

template <class... Parts>
struct StorageOf : Nothing {};
template <class First, class... Rest>
struct StorageOf<First, Rest...> : StorageOf<Rest...> {};
template <NamesStorage First, class... Rest>
struct StorageOf<First, Rest...> {
  using Storage = typename First::Storage;
};

template <class... Parts>
struct RetrievalOf : Nothing {};
template <class First, class... Rest>
struct RetrievalOf<First, Rest...> : RetrievalOf<Rest...> {};
template <NamesRetrieval First, class... Rest>
struct RetrievalOf<First, Rest...> {
  using Retrieval = typename First::Retrieval;
};

/// A policy with every axis named: what a part leaves open is keep all, f16 and read all.
template <class Policy>
struct Axes {
  template <class P>
  static auto eviction() {
    if constexpr (NamesEviction<P>) {
      return std::type_identity<typename P::Eviction>{};
    } else {
      return std::type_identity<KeepAll>{};
    }
  }
  template <class P>
  static auto storage() {
    if constexpr (NamesStorage<P>) {
      return std::type_identity<typename P::Storage>{};
    } else {
      return std::type_identity<ExactStorage<half>>{};
    }
  }
  template <class P>
  static auto retrieval() {
    if constexpr (NamesRetrieval<P>) {
      return std::type_identity<typename P::Retrieval>{};
    } else {
      return std::type_identity<ReadAll>{};
    }
  }
  using Eviction = typename decltype(eviction<Policy>())::type;
  using Storage = typename decltype(storage<Policy>())::type;
  using Retrieval = typename decltype(retrieval<Policy>())::type;
};

}  // namespace detail

/// Several parts as one policy: `Combine<SnapKV, Kivi<4>>`. An axis that two parts name does not compile; an axis that no part names
/// is the default (keep all, f16, read all).
template <PolicyPart... Parts>
struct Combine : detail::EvictionOf<Parts...>, detail::StorageOf<Parts...>, detail::RetrievalOf<Parts...> {
  static_assert((std::size_t{detail::NamesEviction<Parts>} + ... + 0U) <= 1,
                "kvcompress::Combine: two of the parts name an eviction; a policy has one");
  static_assert((std::size_t{detail::NamesStorage<Parts>} + ... + 0U) <= 1,
                "kvcompress::Combine: two of the parts name a storage; a policy has one");
  static_assert((std::size_t{detail::NamesRetrieval<Parts>} + ... + 0U) <= 1,
                "kvcompress::Combine: two of the parts name a retrieval (ShadowKV brings its own); a policy has one");
};

/// A policy that KVCache executes: an eviction, a storage and a retrieval that model their concepts.
template <class P>
concept Policy = PolicyPart<P> && Eviction<typename detail::Axes<P>::Eviction> && Storage<typename detail::Axes<P>::Storage> &&
    Retrieval<typename detail::Axes<P>::Retrieval>;

/// What a user sets: the options of each axis.
template <class P>
struct PolicyOptions {
  typename detail::Axes<P>::Eviction::Options eviction{};
  typename detail::Axes<P>::Storage::Options storage{};
  typename detail::Axes<P>::Retrieval::Options retrieval{};
  /// Queries after the last commit whose observations can be taken back by truncate (speculative decoding).
  std::size_t speculation = 0;
};

}  // namespace kvcompress
