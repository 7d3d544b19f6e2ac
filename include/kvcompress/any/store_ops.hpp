// include/kvcompress/any/store_ops.hpp - a store of keys or values as a table of functions.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "kvcompress/any/erased.hpp"
#include "kvcompress/concepts/store_facts.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

class Reader;
class Writer;

namespace detail {

/// Stores that are encoded or counted together, `count` of them: at(context, i) is the i-th one's value.
struct StoresTogether {
  std::size_t count;
  const void* context;
  void* (*at)(const void* context, std::size_t index);
  bool (*shared)(const void* context, std::size_t index);  ///< null where nobody asks
};

/// A store of keys or values, and the half of a storage that it is: see concepts/storage.hpp for what each function does. `store` is the
/// value, `options` are the storage's, `members` pointers to values, in memory that the function may write to. What a store need not have is
/// null where it has none.
struct StoreOps {
  using Members = std::span<void*>;

  Holding holding;
  StoreFacts facts;

  // The storage.
  const void* storage;  ///< an address for each: tells whether two tables are of one storage
  bool needs_retrieval;
  bool (*fast)(const void* options) noexcept;  ///< whether products with codes are added up in 8 bits
  void (*validate)(const void* options);
  void (*validate_shape)(const void* options, const Shape& shape);
  RowRange (*layers_with)(const void* options, const Shape& shape, std::size_t layer);
  std::size_t (*bytes_for)(const void* options, std::size_t rows, std::size_t dim, const Shape& shape, std::size_t at_hand);
  std::size_t (*most_bytes)(const void* options, const MostRows& rows, std::size_t dim, const Shape& shape, std::size_t at_hand);
  std::size_t (*start_count)(const void* options, const Shape& shape);
  const float* (*start)(const void* options);
  std::shared_ptr<const void> (*with_start)(const void* options, const float* start);
  void (*describe_to)(Writer& writer, std::string_view prefix);
  void (*describe_from)(Reader& reader, std::string_view prefix);
  void (*describe_options_to)(const void* options, Writer& writer, std::string_view prefix);
  void (*describe_options_from)(const void* options, Reader& reader, std::string_view prefix);

  // Rows.
  void (*make)(void* room, const void* options, const Site& site, std::size_t dim, const Memory& memory);
  std::size_t (*rows)(const void* store) noexcept;
  std::size_t (*settled)(const void* store) noexcept;
  void (*make_room)(void* store, std::size_t more);
  void (*append)(void* store, const float* row);
  void (*move)(void* store, std::size_t from, std::size_t to);
  void (*resize)(void* store, std::size_t rows);
  void (*reserve)(void* store, std::size_t rows);
  void (*unshare)(void* store);
  void (*account)(const void* store, MemoryReport& report) noexcept;
  void (*make_writable)(void* store, std::size_t first, std::size_t last);
  void (*prepare_to_write)(void* store, std::size_t row);
  void (*write)(void* store, std::size_t row, const float* x) noexcept;
  void (*take_room)(void* store, void* from) noexcept;
  void (*hold)(void* store) noexcept;
  void (*release)(void* store) noexcept;
  void (*own_recent)(void* store);
  void (*keep_recent)(void* store) noexcept;
  void (*hold_at_most)(void* store, std::size_t rows) noexcept;
  void (*unshare_together)(const StoresTogether& stores);
  void (*account_together)(const StoresTogether& stores, MemoryReport& report) noexcept;

  // Attention.
  std::size_t (*scratch_floats)(const void* store, std::size_t dim, std::size_t queries) noexcept;
  void (*scores)(const void* store, RowRange range, const RowTable& table, Rotation& rotation, const float* queries,
                 std::size_t query_stride, std::size_t query_count, float* logits, std::size_t logit_stride, float* scratch) noexcept;
  void (*read_key)(const void* store, std::size_t row, const RowTable& table, Rotation& rotation, float* out) noexcept;
  void (*accumulate)(const void* store, RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count,
                     float* out, std::size_t out_stride, float* scratch) noexcept;
  void (*read_value)(const void* store, std::size_t row, float* out);
  void (*frame_queries)(const void* store, float* queries, std::size_t stride, std::size_t count) noexcept;
  void (*unframe_outputs)(const void* store, float* outputs, std::size_t stride, std::size_t count) noexcept;
  void (*fetch)(const void* store, std::size_t row) noexcept;
  std::size_t (*prepare_keys)(void* store, std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation,
                              Vector<float>& scratch);
  std::size_t (*prepare_values)(void* store, std::span<const RowRange> ranges);

  // Commits.
  void (*settle)(Members members, const Settling& settling);
  void (*prepare_to_settle)(Members members, const Settling& settling);
  void (*make_room_to_settle)(void* store, std::size_t more, Vector<float>& scratch);
  void (*encode_aside)(Members members, const Settling& settling);
  void (*take_aside)(Members members) noexcept;
  void (*forget_aside)(void* store) noexcept;
  bool (*encodes_at)(const void* store, std::size_t rows) noexcept;
  std::size_t (*rows_at_once)(const void* store) noexcept;
  RowRange (*block_at)(const void* store, std::size_t row) noexcept;
  void (*erase_block)(void* store, std::size_t first) noexcept;
  void (*prepare_to_compact)(Members members, const RowTable& table, Vector<float>& scratch);
  void (*compact)(Members members, const RowTable& table, Vector<float>& scratch);

  // Saving.
  bool (*alike)(const void* store, const void* other) noexcept;
  void (*save)(const void* store, Writer& writer, std::size_t rows);
  void (*load)(void* store, Reader& reader, std::size_t rows);
};

}  // namespace detail
}  // namespace kvcompress
