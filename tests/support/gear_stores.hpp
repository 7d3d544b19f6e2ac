// tests/support/gear_stores.hpp - GEAR's stores of one layer without a cache around them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kvcompress/attention/rope.hpp"
#include "kvcompress/policies/gear.hpp"
#include "kvcompress/reference/attention.hpp"

namespace kvcompress::test {

/// The stores of all heads, keys or values, and what settling them takes.
template <class Store>
struct GearLayer {
  template <class Options>
  GearLayer(std::size_t heads, std::size_t dim, const Options& options, const Memory& from = {})
      : shape{.query_heads = heads, .kv_heads = heads, .head_dim = dim}, memory(from), rotation(shape, {}),
        scratch(Allocator<float>(from)) {
    for (std::size_t h = 0; h < heads; ++h) {
      Options own = options;
      own.accumulation = Accumulation::exact;  // the other modes have tests of their own
      if (options.start != nullptr && Store::scope == Scope::lane) { own.start = options.start + h * dim * options.prompt_rank; }
      stores.emplace_back(own, Site{0, h, shape}, dim, memory);
    }
  }

  /// Appends the rows [first, last) of each head.
  void append(const std::vector<reference::Matrix>& heads, std::size_t first, std::size_t last) {
    std::vector<float> row(shape.head_dim);
    for (std::size_t h = 0; h < stores.size(); ++h) {
      for (std::size_t t = first; t < last; ++t) {
        for (std::size_t c = 0; c < row.size(); ++c) {
          row[c] = static_cast<float>(heads[h](static_cast<reference::Index>(t), static_cast<reference::Index>(c)));
        }
        stores[h].append(row.data());
      }
    }
  }
  void settle(bool end_of_prompt) {
    const RowTable table(false, {});
    const Settling settling{.shape = shape,
                            .table = table,
                            .rotation = rotation,
                            .scratch = scratch,
                            .memory = memory,
                            .end_of_prompt = end_of_prompt,
                            .layer = 0,
                            .rows = stores.front().rows(),
                            .reads = {}};
    with_members([&](std::span<Store* const> members) { Store::settle(members, settling); });
  }
  void compact(const RowTable& table) {
    with_members([&](std::span<Store* const> members) {
      Store::prepare_to_compact(members, table, scratch);
      Store::compact(members, table, scratch);
    });
  }
  /// A prompt, encoded.
  void encode(const std::vector<reference::Matrix>& heads) {
    append(heads, 0, static_cast<std::size_t>(heads.front().rows()));
    settle(true);
  }

  [[nodiscard]] reference::Matrix decoded(std::size_t head) const {
    return rows_of(stores[head].rows(), [&](std::size_t row, float* out) { stores[head].read(row, out); });
  }
  /// Encoded rows without their low-rank part.
  [[nodiscard]] reference::Matrix sparse(std::size_t head) const {
    const auto& body = stores[head].body();
    return rows_of(body.rows(), [&](std::size_t row, float* out) {
      const std::size_t index = body.index_of(row);
      body[index].read_sparse(row - body.rows_before(index), out);
    });
  }

  Shape shape;
  Memory memory;
  Rotation rotation;
  Vector<float> scratch;
  std::vector<Store> stores;

 private:
  /// Calls call(members) for every set of stores that settle together.
  void with_members(auto&& call) {
    std::vector<Store*> members;
    for (Store& store : stores) { members.push_back(&store); }
    if constexpr (Store::scope == Scope::layer) {
      call(std::span<Store* const>(members));
    } else {
      for (std::size_t h = 0; h < members.size(); ++h) { call(std::span<Store* const>(members).subspan(h, 1)); }
    }
  }
  [[nodiscard]] reference::Matrix rows_of(std::size_t count, auto&& read) const {
    std::vector<float> row(shape.head_dim);
    reference::Matrix out(static_cast<reference::Index>(count), static_cast<reference::Index>(row.size()));
    for (std::size_t t = 0; t < count; ++t) {
      read(t, row.data());
      for (std::size_t c = 0; c < row.size(); ++c) {
        out(static_cast<reference::Index>(t), static_cast<reference::Index>(c)) = static_cast<double>(row[c]);
      }
    }
    return out;
  }
};

}  // namespace kvcompress::test
