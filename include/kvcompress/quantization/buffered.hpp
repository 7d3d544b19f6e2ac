// include/kvcompress/quantization/buffered.hpp - encoded rows behind a window of recent exact ones: a store for keys or values.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/concepts/codec.hpp"
#include "kvcompress/quantization/exact.hpp"
#include "kvcompress/quantization/frame.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A rule says how many of so many exact rows are due, how many stay at most, and how many more there may be before it is asked.
///
/// KIVI's rule for keys: when `residual` rows are there, all of them are encoded (so 0 to residual - 1 exact rows remain).
struct FlushAll {
  static constexpr std::string_view name = "all when full";
  static constexpr std::size_t more(std::size_t row_multiple) noexcept { return row_multiple; }
  static constexpr std::size_t most(std::size_t residual) noexcept { return residual; }
  static constexpr std::size_t due(std::size_t exact, std::size_t residual) noexcept { return exact / residual * residual; }
};
/// KIVI's rule for values: the newest `residual` rows stay exact, older ones are encoded one by one.
struct FlushOldest {
  static constexpr std::string_view name = "one by one";
  static constexpr std::size_t more(std::size_t row_multiple) noexcept { return row_multiple; }
  static constexpr std::size_t most(std::size_t residual) noexcept { return residual; }
  static constexpr std::size_t due(std::size_t exact, std::size_t residual) noexcept { return exact > residual ? exact - residual : 0; }
};

/// The newest `residual` to residual + 15 rows stay exact; older ones are encoded 16 at a time, a whole strip of codes.
struct FlushStrips {
  static constexpr std::string_view name = "16 by 16";
  static constexpr std::size_t more(std::size_t /*row_multiple*/) noexcept { return 16; }
  static constexpr std::size_t most(std::size_t residual) noexcept { return residual + 15; }
  static constexpr std::size_t due(std::size_t exact, std::size_t residual) noexcept {
    return exact > residual ? (exact - residual) / 16 * 16 : 0;
  }
};

/// Two tiers: nothing is due for being old, but what a fate made colder (see Fate::colder), in whole multiples of Body::row_multiple. Such rows were
/// moved before the other exact ones; keys and values share the border up to that multiple.
struct FlushColder {
  static constexpr std::string_view name = "when colder";
  static constexpr bool by_fate = true;
  static constexpr std::size_t more(std::size_t row_multiple) noexcept { return row_multiple; }
  static constexpr std::size_t most(std::size_t /*residual*/) noexcept { return static_cast<std::size_t>(-1); }
  static constexpr std::size_t due(std::size_t /*exact*/, std::size_t /*residual*/) noexcept { return 0; }
};

/// Rows [0, settled()) as `Body` encodes them, the newer ones exact in Body::exact_type, all of them in the frame: rows are brought into it when
/// they come, queries once per block of queries, and weighted sums back once per block. New rows are exact until `settle()` finds
/// them due by `Rule`. Encoded rows keep their place; exact ones move freely.
template <Codec Body, class Rule, class Frame = Plain>
class Buffered {
  using Tail = Exact<typename Body::exact_type, 8>;  // few rows: small blocks, so that little of them is spare
  static constexpr bool holds_keys = requires(const Body body, RowRange range, const float* queries, std::size_t n, float* logits) {
    body.scores(range, queries, n, n, logits, n, logits);
  };
  static constexpr bool holds_values = requires(const Body body, RowRange range, const float* weights, std::size_t n, float* out) {
    body.accumulate(range, weights, n, n, out, n, out);
  };

 public:
  using exact_type = typename Body::exact_type;
  static constexpr std::size_t row_multiple = Body::row_multiple;
  static constexpr bool tiers = requires { requires Rule::by_fate; };  ///< a fate says what is encoded
  static constexpr bool writes_encoded = !Frame::changes && requires(Body body, const float* x) { body.write(std::size_t{}, x); };

  /// `options.residual`: exact rows, in `Body::row_multiple`s, at least one.
  Buffered(const auto& options, const Site& site, std::size_t dim, const Memory& memory)
      : residual_(options.residual), dim_(dim), frame_(frame_of(options, site, dim)), body_(options, dim, memory), tail_(dim, memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return body_.rows() + tail_.rows(); }
  /// Rows are encoded this many at a time: row_multiple, or what the options say.
  [[nodiscard]] std::size_t rows_at_once() const noexcept {
    if constexpr (requires { body_.rows_at_once(); }) {
      return body_.rows_at_once();
    } else {
      return row_multiple;
    }
  }
  [[nodiscard]] std::size_t settled() const noexcept { return body_.rows(); }
  [[nodiscard]] const Body& body() const noexcept { return body_; }

  void make_room(std::size_t more) { tail_.make_room(more); }
  void append(const float* row) {
    if constexpr (Frame::changes) {
      tail_.append_pieces([&](auto&& put) { frame_.row(row, put); });
    } else {
      tail_.append(row);
    }
  }
  /// Row `from` overwrites row `to`; both exact.
  void move(std::size_t from, std::size_t to) { tail_.move(from - settled(), to - settled()); }
  /// Forgets the rows from `rows` on, which must not be encoded.
  void resize(std::size_t rows) noexcept { tail_.resize(rows - settled()); }
  /// Forgets everything.
  void clear() noexcept {
    body_.resize(0);
    tail_.resize(0);
  }

  void make_writable(std::size_t first, std::size_t last) { tail_.make_writable(first - settled(), last - settled()); }
  void prepare_to_write(std::size_t row) {
    if (row >= settled()) { return tail_.prepare_to_write(row - settled()); }
    if constexpr (writes_encoded) { body_.prepare_to_write(row); }
  }
  /// Row `row` becomes `x`; an encoded one only where writes_encoded says so.
  void write(std::size_t row, const float* x) noexcept {
    if constexpr (Frame::changes) {
      tail_.write_pieces(row - settled(), [&](auto&& put) { frame_.row(x, put); });
    } else if (row >= settled()) {
      tail_.write(row - settled(), x);
    } else if constexpr (writes_encoded) {
      body_.write(row, x);
    }
  }
  void take_room(Buffered& from) noexcept {
    body_.take_room(from.body_);
    tail_.take_room(from.tail_);
  }
  void hold() noexcept {
    body_.hold();
    tail_.hold();
  }
  void release() noexcept {
    body_.release();
    tail_.release();
  }

  /// Afterwards settle cannot fail, also with up to `more` other exact rows. The scratch grows to one block of rows.
  void make_room_to_settle(std::size_t more, Vector<float>& scratch) {
    const std::size_t due = Rule::due(tail_.rows() + more, residual_);
    if (due == 0) { return; }
    body_.make_room(due);
    scratch.resize(std::max(scratch.size(), std::min(due, Body::block_rows) * dim_));
  }
  /// Encodes what is due. The scratch grows to one block of rows.
  static void settle(std::span<Buffered* const> members, const Settling& settling) {
    for (Buffered* member : members) {
      if constexpr (tiers) {
        const std::size_t border = std::max(settling.cold, member->settled());
        const std::size_t multiple = member->rows_at_once();
        member->encode_oldest((border - member->settled()) / multiple * multiple, settling.scratch);
      } else {
        member->settle(settling.scratch);
      }
    }
  }
  void settle(Vector<float>& scratch) { encode_oldest(Rule::due(tail_.rows(), residual_), scratch); }
  /// Encodes so many exact rows, a multiple of rows_at_once().
  void encode_oldest(std::size_t due, Vector<float>& scratch) {
    constexpr std::size_t block_rows = Body::block_rows;
    while (due > 0) {
      const std::size_t count = std::min(due, block_rows);
      scratch.resize(std::max(scratch.size(), count * dim_));
      for (std::size_t r = 0; r < count; ++r) { tail_.read(r, scratch.data() + r * dim_); }
      body_.append(scratch.data(), count);
      tail_.pop_front(count);
      due -= count;
    }
  }
  /// Whether a commit that finds `rows` rows would encode some.
  [[nodiscard]] bool encodes_at(std::size_t rows) const noexcept { return Rule::due(rows - settled(), residual_) > 0; }
  /// The rows that share a block with an encoded row; the last block may not be full.
  [[nodiscard]] static constexpr RowRange block_at(std::size_t row) noexcept {
    const std::size_t first = row / Body::block_rows * Body::block_rows;
    return {first, first + Body::block_rows};
  }
  /// Removes a whole block of dead rows without touching the others.
  void erase_block(std::size_t first) noexcept { body_.erase_block(first); }

  /// Afterwards compact cannot fail.
  static void prepare_to_compact(std::span<Buffered* const> members, const RowTable& /*table*/, Vector<float>& scratch) {
    for (Buffered* member : members) {
      member->unshare();
      if constexpr (Body::row_multiple > 1) {
        member->tail_.make_room(member->rows_at_once());
        scratch.resize(std::max(scratch.size(), member->rows_at_once() * member->dim_));
      }
    }
  }
  /// Removes the dead rows of `table`, keeping the order. Codes of values are copied; keys are decoded and encoded anew in groups of
  /// live rows, and what does not fill a group joins the exact rows.
  static void compact(std::span<Buffered* const> members, const RowTable& table, Vector<float>& scratch) {
    for (Buffered* member : members) { member->compact(table, scratch); }
  }
  void compact(const RowTable& table, Vector<float>& scratch) {
    if constexpr (Body::row_multiple == 1) {
      tail_.compact(table, settled(), nullptr, 0);
      std::size_t kept = 0;
      for (std::size_t r = 0; r < body_.rows(); ++r) {
        if (!table.alive(r)) { continue; }
        if (kept != r) { body_.move(r, kept); }
        ++kept;
      }
      body_.resize(kept);
    } else {
      rebuild(table, scratch);
    }
  }

  void read(std::size_t row, float* out) const noexcept {
    row < settled() ? body_.read(row, out) : tail_.read(row - settled(), out);
    if constexpr (Frame::changes) { frame_.outputs(out, dim_, 1); }
  }
  /// Brings queries into the frame; brings weighted sums of values out of it.
  void frame_queries(float* queries, std::size_t stride, std::size_t count) const noexcept requires(Frame::changes&& holds_keys) {
    frame_.queries(queries, stride, count);
  }
  void unframe_outputs(float* outputs, std::size_t stride, std::size_t count) const noexcept requires(Frame::changes&& holds_values) {
    frame_.outputs(outputs, stride, count);
  }
  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* scratch) const noexcept requires(holds_keys) {
    split(range, [&](const auto& part, RowRange rows, std::size_t offset) {
      part.scores(rows, queries, query_stride, query_count, logits + offset, logit_stride, scratch);
    });
  }
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept requires(holds_values) {
    split(range, [&](const auto& part, RowRange rows, std::size_t offset) {
      part.accumulate(rows, weights + offset, weight_stride, query_count, out, out_stride, scratch);
    });
  }
  [[nodiscard]] std::size_t scratch_floats(std::size_t dim, std::size_t queries) const noexcept {
    return body_.scratch_floats(dim, queries);
  }

  /// Bytes of the blocks that hold `rows` rows, as many of them exact as may be.
  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    const std::size_t exact = std::min<std::size_t>(rows, Rule::most(options.residual));
    return Body::bytes_for(rows - exact, dim, options) + Tail::bytes_for(exact, dim, options);
  }
  [[nodiscard]] static constexpr std::size_t most_bytes(const MostRows& rows, std::size_t dim, const auto& options, const Shape& shape,
                                                        std::size_t at_hand) noexcept {
    if (rows.all() < options.residual) { return Tail::most_bytes(rows, dim, options, shape, at_hand); }  // nothing is ever due
    return Body::most_bytes(rows.all(), dim, options) + Tail::most_bytes_of_recent(most_exact(options.residual, multiple_of(options)), dim);
  }
  void reserve(std::size_t rows) {
    body_.reserve(rows);
    tail_.reserve(tiers ? rows : std::min(rows, residual_ + Rule::more(rows_at_once())));
  }
  /// The memory of the recent rows stays here when they are encoded: under a budget the next ones need no allocation.
  void keep_recent() noexcept { tail_.keep(residual_ + Rule::more(rows_at_once())); }
  /// Under a budget in bytes: memory for a lane of `rows` rows and the next one stays, and no more.
  void hold_at_most(std::size_t rows) noexcept {
    if (rows < residual_) { return tail_.hold_at_most(rows); }
    body_.hold_at_most(rows);
    tail_.hold_recent_at_most(most_exact(residual_, rows_at_once()));
  }
  void unshare() {
    body_.unshare();
    tail_.unshare();
  }
  void own_recent() {
    body_.make_room(0);
    tail_.unshare();
  }
  static void describe(auto&& fact) {
    Body::describe(fact);
    fact("flush", Rule::name);
    if constexpr (Frame::changes) { fact("frame", Frame::name); }
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    std::size_t encoded = self.settled();
    archive.number(encoded);
    archive.check(encoded <= rows, "there are more encoded rows than rows");
    Body::persist(self.body_, archive, encoded);
    Tail::persist(self.tail_, archive, rows - encoded);
  }
  void account(MemoryReport& report) const noexcept {
    body_.account(report);
    tail_.account(report);
  }

 private:
  static Frame frame_of(const auto& options, const Site& site, std::size_t dim) noexcept {
    if constexpr (requires { Frame(options, site, dim); }) {
      return Frame(options, site, dim);
    } else if constexpr (requires { Frame(options, dim); }) {
      return Frame(options, dim);
    } else {
      return Frame(dim);
    }
  }
  /// Exact rows, of which a rebuild may leave some more.
  static constexpr std::size_t most_exact(std::size_t residual, std::size_t multiple) noexcept {
    return residual + multiple + Rule::more(multiple);
  }
  static constexpr std::size_t multiple_of(const auto& options) noexcept {
    if constexpr (requires { Body::rows_at_once(options); }) {
      return Body::rows_at_once(options);
    } else {
      return row_multiple;
    }
  }
  template <class Part>
  void split(RowRange range, Part&& part) const noexcept {
    const std::size_t border = settled();
    if (range.first < border) { part(body_, RowRange{range.first, std::min(range.last, border)}, std::size_t{0}); }
    if (range.last > border) {
      const std::size_t first = std::max(range.first, border);
      part(tail_, RowRange{first - border, range.last - border}, first - range.first);
    }
  }
  /// In place: a group is written only after as many live rows, hence at least as many rows, have been read.
  void rebuild(const RowTable& table, Vector<float>& scratch) {
    std::size_t written = 0;
    std::size_t waiting = 0;
    for (std::size_t r = 0; r < body_.rows(); ++r) {
      if (!table.alive(r)) { continue; }
      body_.read(r, scratch.data() + waiting * dim_);
      if (++waiting == rows_at_once()) {
        body_.replace(written, scratch.data());
        written += waiting;
        waiting = 0;
      }
    }
    tail_.compact(table, settled(), scratch.data(), waiting);
    body_.resize(written);
  }

  std::size_t residual_;
  std::size_t dim_;
  [[no_unique_address]] Frame frame_;
  Body body_;
  Tail tail_;
};

}  // namespace kvcompress
