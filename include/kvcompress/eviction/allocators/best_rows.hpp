// include/kvcompress/eviction/allocators/best_rows.hpp - KVzip's budgets: the rows of all layers and heads compete for the places of all.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/eviction/allocators/composites.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The best rows of the whole model stay, wherever they are: Composites whose rows compete by themselves. Rows that stay anyway are counted first.
///
/// Source: "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction"; NVIDIA/kvpress@8bb29b9c3078:kvzip_press.py.
struct BestRows {
  static constexpr std::string_view name = "best_rows";
  static constexpr Scope sees = Scope::model;
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  static void allocate(const Options&, const Allocation& allocation, std::span<std::size_t> budgets) {
    Composites::allocate({.structured = false}, allocation, budgets);
  }
};

}  // namespace kvcompress
