// include/kvcompress/concepts/codec.hpp - how rows become codes: what Buffered needs to make a store of keys or values of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows of `dim` numbers as codes, in blocks, with attention on the codes. `Buffered<C, Rule, Frame>` adds the recent exact rows, the rule by which
/// they are encoded, and the frame they lie in, and is a store (see concepts/storage.hpp). Rows come in order; none changes but by move or replace.
///
/// | required                   | what it does
/// | C(options, dim, memory)    | no rows yet
/// | exact_type                 | what recent rows are held in: float, half or bfloat16
/// | row_multiple               | rows are encoded this many at a time: 1 where a row is independent of the others
/// | block_rows                 | rows of a block, a multiple of row_multiple
/// | rows_at_once(), rows_at_once(options) | where options say how many are encoded at a time, a multiple of row_multiple
/// | rows()                     | how many there are
/// | append(rows, count)        | encodes `count` of them, a multiple of row_multiple, one behind the other
/// | read(row, out)             | decodes one
/// | resize(n), erase_block(first) | the first n rows stay; the whole block from row `first` on goes
/// | make_room(n), reserve(n)   | n more rows cannot fail; n rows in all will need no allocation
/// | hold(), release(), take_room(other), hold_at_most(n), unshare() | as stores do
/// | scratch_floats(dim, queries) | what attention needs beside
/// | bytes_for(rows, dim, options), most_bytes(rows, dim, options) | what so many rows take, and can take at most
/// | account(report), describe(fact), persist(self, archive, rows) | bytes held; what it is called in files; saving and loading
///
/// | one of                     |
/// | scores(range, queries, stride, count, logits, logit stride, scratch) | sets logits, of keys
/// | accumulate(range, weights, stride, count, out, out stride, scratch) | adds weighted sums, of values
///
/// | one of                     |
/// | move(from, to)             | code by code, without loss, where row_multiple is 1
/// | replace(first, rows)       | encodes row_multiple rows in the place of others
///
/// A query's results have the same bits whatever other queries share the call, and a row's codes whatever rows are encoded beside it.
template <class C>
concept Codec = std::copy_constructible<C> && std::movable<C> &&
    requires(C codec, const C held, std::size_t n, const float* rows, float* out, MemoryReport& report) {
  typename C::exact_type;
  requires C::block_rows % C::row_multiple == 0;
  { held.rows() }
  noexcept->std::same_as<std::size_t>;
  codec.append(rows, n);
  { held.read(n, out) }
  noexcept;
  { codec.resize(n) }
  noexcept;
  { codec.erase_block(n) }
  noexcept;
  codec.make_room(n);
  codec.reserve(n);
  codec.unshare();
  { codec.hold() }
  noexcept;
  { codec.release() }
  noexcept;
  { codec.take_room(codec) }
  noexcept;
  { codec.hold_at_most(n) }
  noexcept;
  { held.scratch_floats(n, n) }
  noexcept->std::same_as<std::size_t>;
  { held.account(report) }
  noexcept;
} &&(
    requires(C codec, std::size_t n) { codec.move(n, n); } ||
    requires(C codec, std::size_t n, const float* rows) { codec.replace(n, rows); }) &&
    (
        requires(const C held, RowRange range, const float* queries, std::size_t n, float* logits) {
          held.scores(range, queries, n, n, logits, n, logits);
        } ||
        requires(const C held, RowRange range, const float* weights, std::size_t n, float* out) {
          held.accumulate(range, weights, n, n, out, n, out);
        });

}  // namespace kvcompress
