// include/kvcompress/quantization/gear/store.hpp - segments behind a buffer of recent exact rows: GEAR's stores for keys and values.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "kvcompress/concepts.hpp"
#include "kvcompress/quantization/exact.hpp"
#include "kvcompress/quantization/gear/encoder.hpp"
#include "kvcompress/quantization/gear/options.hpp"
#include "kvcompress/quantization/gear/segment_list.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows [0, settled()) in segments, the newer ones exact in Codes::Scale, at most buffer - 1 of them after a commit. A segment never changes:
/// appending leaves it alone, copies share it. With `Vectors` = layer all lanes of a layer are encoded at once.
///
/// Cost: 4 * sweeps * dim * rank FLOP per row and encoding. Memory: see Gear.
template <class Codes, class Backbone, Scope Vectors>
class GearStore {
  using Segment = gear::Segment<Codes>;
  using List = gear::SegmentList<Segment>;
  using Tail = Exact<typename Codes::Scale, 8>;
  using Options = GearOptions<Backbone::buffer>;

 public:
  using exact_type = typename Codes::Scale;
  using Members = std::span<GearStore* const>;
  static constexpr Scope scope = Vectors;
  static constexpr std::size_t row_multiple = Backbone::row_multiple;

  GearStore(const Options& options, const Site& /*site*/, std::size_t dim, const Memory& memory)
      : options_(options), dim_(dim), list_(memory), fresh_(memory), tail_(dim, memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return settled() + tail_.rows(); }
  [[nodiscard]] std::size_t settled() const noexcept { return list_.rows(); }
  [[nodiscard]] const List& body() const noexcept { return list_; }

  void make_room(std::size_t more) { tail_.make_room(more); }
  void append(const float* row) { tail_.append(row); }
  /// Row `from` overwrites row `to`; both exact.
  void move(std::size_t from, std::size_t to) { tail_.move(from - settled(), to - settled()); }
  /// Forgets the rows from `rows` on, which must not be encoded.
  void resize(std::size_t rows) noexcept { tail_.resize(rows - settled()); }
  /// Forgets everything.
  void clear() noexcept {
    list_.clear();
    tail_.resize(0);
  }

  void make_writable(std::size_t first, std::size_t last) { tail_.make_writable(first - settled(), last - settled()); }
  /// Exact rows only.
  void prepare_to_write(std::size_t row) { tail_.prepare_to_write(row - settled()); }
  void write(std::size_t row, const float* x) noexcept { tail_.write(row - settled(), x); }
  void take_room(GearStore& from) noexcept { tail_.take_room(from.tail_); }
  void hold() noexcept { tail_.hold(); }
  void release() noexcept { tail_.release(); }

  /// Encodes what is due: at the end of a prompt all rows but the last (rows mod buffer) as one segment, later every full buffer.
  static void settle(Members members, const Settling& settling) {
    encode_aside(members, settling);
    take_aside(members);
  }
  /// The same in two steps: all lanes make their segments aside, which may fail; then all take them, which cannot, or forget them.
  static void encode_aside(Members members, const Settling& settling) {
    GearStore& first = *members.front();
    const Options& options = first.options_;
    const std::size_t due = (std::min(settling.rows, first.rows()) - first.settled()) / options.buffer * options.buffer;
    if (due == 0) { return; }
    Aside aside{members};
    const std::size_t each = settling.end_of_prompt ? due : options.buffer;
    const std::size_t heads = settling.shape.kv_heads;
    for (std::size_t done = 0; done < due; done += each) {
      const auto read = [&](std::size_t lane, std::size_t row, float* out) { members[lane]->tail_.read(done + row, out); };
      encode(members, each, settling.end_of_prompt ? gear::Origin::prompt : gear::Origin::buffer, heads, settling.scratch, read);
    }
    const std::size_t kept =
        options.merge > 1 && !settling.end_of_prompt ? merge_all(members, heads, settling.scratch) : first.list_.size();
    for (GearStore* member : members) { member->list_.make_room(member->fresh_.size()); }
    for (GearStore* member : members) {
      member->kept_ = kept;
      member->due_ = due;
    }
    aside.done = true;
    if (settling.end_of_prompt) { Vector<float>(settling.scratch.get_allocator()).swap(settling.scratch); }  // long; decoding needs little
  }
  static void take_aside(Members members) noexcept {
    for (GearStore* member : members) {
      if (member->due_ == 0) { continue; }
      member->list_.replace_from(member->kept_, member->fresh_);
      member->tail_.pop_front(std::exchange(member->due_, 0));
    }
  }
  void forget_aside() noexcept {
    fresh_.clear();
    due_ = 0;
  }
  /// Whether a commit that finds `rows` rows would encode some.
  [[nodiscard]] bool encodes_at(std::size_t rows) const noexcept { return rows >= settled() + options_.buffer; }

  /// The rows that can only leave together with an encoded row: those of its segment.
  [[nodiscard]] RowRange block_at(std::size_t row) const noexcept { return list_.range(list_.index_of(row)); }
  /// Removes the segment that starts at row `first`.
  void erase_block(std::size_t first) noexcept { list_.drop(list_.index_of(first), 1); }

  /// Removing the dead rows of `table`, in two steps: encodes the live rows of segments with dead rows anew, aside, from what they decode to;
  /// then, which cannot fail, takes these segments. Rows too few for a segment join the next one, and at the end the exact rows.
  static void prepare_to_compact(Members members, const RowTable& table, Vector<float>& scratch) {
    if constexpr (Vectors == Scope::lane) {
      for (GearStore* const& member : members) { prepare_all(Members(&member, 1), table, scratch); }
    } else {
      prepare_all(members, table, scratch);
    }
  }
  static void compact(Members members, const RowTable& table, Vector<float>& scratch) {
    for (GearStore* member : members) { member->compact_this(table, scratch); }
  }

  void read(std::size_t row, float* out) const noexcept {
    if (row >= settled()) { return tail_.read(row - settled(), out); }
    const std::size_t index = list_.index_of(row);
    list_[index].read_sparse(row - list_.rows_before(index), out);
    list_[index].add_low_rank(row - list_.rows_before(index), out);
  }
  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* scratch) const noexcept requires(Codes::keys) {
    split(range, [&](const auto& part, RowRange rows, std::size_t offset) {
      if constexpr (is_exact<decltype(part)>) {
        part.scores(rows, queries, query_stride, query_count, logits + offset, logit_stride, scratch);
      } else {
        part.scores(options_.accumulation, rows, queries, query_stride, query_count, logits + offset, logit_stride, scratch);
      }
    });
  }
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept requires(!Codes::keys) {
    split(range, [&](const auto& part, RowRange rows, std::size_t offset) {
      if constexpr (is_exact<decltype(part)>) {
        part.accumulate(rows, weights + offset, weight_stride, query_count, out, out_stride, scratch);
      } else {
        part.accumulate(options_.accumulation, rows, weights + offset, weight_stride, query_count, out, out_stride, scratch);
      }
    });
  }
  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept {
    return Segment::scratch_floats(dim, queries);
  }

  /// Bytes of `rows` rows: as many exact as may be, the others in segments of one buffer, which is the dearest way to hold them.
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const Options& options) noexcept {
    const std::size_t exact = std::min(rows, options.buffer);
    const std::size_t count = (rows - exact + options.buffer - 1) / options.buffer;
    const std::size_t share = static_cast<std::size_t>(std::min(options.sparsity, 1.0) * static_cast<double>(options.buffer * dim));
    const std::size_t rank = std::min({options.decode_rank, options.buffer, dim});
    return count * (Segment::bytes_for({options.buffer, dim, rank, share}) + 2 * sizeof(void*)) + Tail::bytes_for(exact, dim, options);
  }
  /// Of segments of any length, but for the first of at least one buffer: many short ones, or a long one with more outliers.
  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const Options& options, const Shape& shape,
                                              std::size_t at_hand) noexcept {
    if (rows.all() < options.buffer) { return Tail::most_bytes(rows, dim, options, shape, at_hand); }  // nothing is ever due
    const std::size_t rank = std::min(std::max(options.prompt_rank, options.decode_rank), dim);
    const auto segment = [&](std::size_t length) {
      auto outliers = static_cast<std::size_t>(std::min(options.sparsity, 1.0) * static_cast<double>(length * dim)) + 1;
      if (options.official_simulation) {
        outliers =
            std::min(length * dim, static_cast<std::size_t>(options.sparsity * static_cast<double>(shape.kv_heads * dim * dim)) + dim);
      }
      return Segment::bytes_for({length, dim, rank, outliers}) + Segment::Common::bytes_for(0);
    };
    const std::size_t count = rows.all() / options.buffer + 1;
    return std::max(count * segment(options.buffer), segment(rows.all())) + segment(options.buffer) + 4 * (count + 1) * List::entry_bytes +
           Tail::most_bytes_of_recent(2 * (options.buffer + row_multiple), dim);
  }
  /// Room for the exact rows and the table of segments. Segments themselves are allocated when they are made: their sizes differ.
  void reserve(std::size_t rows) {
    list_.make_room(rows / options_.buffer);
    tail_.reserve(std::min(rows, options_.buffer + row_multiple));
  }
  /// The memory of the recent rows stays here when they are encoded: under a budget the next ones need no allocation.
  void keep_recent() noexcept { tail_.keep(options_.buffer + row_multiple); }
  /// Under a budget in bytes: memory for the exact rows of a lane of `rows` rows and the next one stays, and no more.
  void hold_at_most(std::size_t rows) noexcept {
    rows < options_.buffer ? tail_.hold_at_most(rows) : tail_.hold_recent_at_most(2 * (options_.buffer + row_multiple));
  }
  void unshare() {
    list_.unshare();
    tail_.unshare();
  }
  void own_recent() { tail_.unshare(); }
  static void describe(auto&& fact) {
    fact("form", Codes::keys ? "gear keys" : "gear values");
    fact("bits", std::bit_width(static_cast<unsigned>(Codes::Quantizer::largest_code)));
    fact("group", Backbone::group);
    fact("vectors", Vectors == Scope::lane ? "head" : "layer");
    fact("scales", number_name<exact_type>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    List::persist(self.list_, archive, rows, self.dim_, row_multiple);
    Tail::persist(self.tail_, archive, rows - self.settled());
  }
  /// Whether another store has segments of the same rows, as stores that are encoded or evicted together must.
  [[nodiscard]] bool alike(const GearStore& other) const noexcept { return list_.same_rows(other.list_); }
  void account(MemoryReport& report) const noexcept {
    list_.account(report);
    fresh_.account(report);
    tail_.account(report);
  }

 private:
  template <class Part>
  static constexpr bool is_exact = std::is_same_v<std::remove_cvref_t<Part>, Tail>;

  /// Forgets what was made aside if the rest of it fails.
  struct Aside {
    Members members;
    bool done = false;
    ~Aside() {
      for (GearStore* member : members) {
        if (!done) { member->fresh_.clear(); }
      }
    }
  };

  /// Makes one segment of `rows` rows in every member, aside.
  static void encode(Members members, std::size_t rows, gear::Origin origin, std::size_t heads, Vector<float>& scratch, auto&& read) {
    GearStore& first = *members.front();
    const Options& options = first.options_;
    const std::size_t dim = first.dim_;
    const std::size_t length = Codes::keys ? rows : members.size() * dim;
    std::size_t per_side = gear::outliers_per_side(options.sparsity, length);
    if (options.official_simulation) {  // of key channels as many as of value tokens, computed in this order
      const auto numbers = static_cast<std::size_t>(static_cast<double>(heads * rows * dim) * options.sparsity);
      per_side = static_cast<std::size_t>(static_cast<double>(numbers) / static_cast<double>(rows) / 2.0);
    }
    const bool prompt = origin == gear::Origin::prompt;
    const gear::Job job{.lanes = members.size(),
                        .rows = rows,
                        .dim = dim,
                        .rank = std::min({prompt ? options.prompt_rank : options.decode_rank, rows, dim}),
                        .outliers_per_side = per_side,
                        .sweeps = options.sweeps,
                        .seed = options.seed,
                        .start = prompt ? options.start : nullptr,
                        .start_rank = options.prompt_rank,
                        .round_to_half = options.official_simulation && options.sparsity > 0.0,
                        .origin = origin};
    const Memory memory = first.list_.memory();
    for (GearStore* member : members) { member->fresh_.make_room(1); }
    const auto take = [&](std::size_t lane, Segment* segment) { members[lane]->fresh_.add(segment); };
    gear::Encoder<Codes, Backbone>(job, scratch).run(memory, read, take);
  }

  /// Where `merge` segments of one buffer each stand at the end, decodes them and encodes them as one, aside. Returns how many segments of the
  /// list stay. What that adds to the error of a row is at most the error of encoding the decoded rows (triangle inequality).
  static std::size_t merge_all(Members members, std::size_t heads, Vector<float>& scratch) {
    GearStore& first = *members.front();
    const std::size_t merge = first.options_.merge;
    std::size_t kept = first.list_.size();
    while (kept > 0 && first.list_[kept - 1].origin() == gear::Origin::buffer) { --kept; }
    const std::size_t old = first.list_.size() - kept;
    const std::size_t made = first.fresh_.size();
    if (old + made < merge) { return first.list_.size(); }
    for (GearStore* member : members) {  // all of the run, oldest first
      List run(member->list_.memory());
      run.make_room(old + made);
      for (std::size_t i = 0; i < old; ++i) { run.add_shared(member->list_, kept + i); }
      for (std::size_t i = 0; i < made; ++i) { run.add_shared(member->fresh_, i); }
      member->fresh_ = std::move(run);
    }
    std::size_t done = 0;
    for (; old + made - done >= merge; done += merge) {
      const std::size_t before = first.fresh_.rows_before(done);
      const auto read = [&](std::size_t lane, std::size_t row, float* out) { read_from(members[lane]->fresh_, before + row, out); };
      encode(members, first.fresh_.rows_before(done + merge) - before, gear::Origin::merged, heads, scratch, read);
    }
    for (GearStore* member : members) {  // now [run][merged]: the merged ones come first, then the rest of the run
      List result(member->list_.memory());
      result.make_room(member->fresh_.size() - done);
      for (std::size_t i = old + made; i < member->fresh_.size(); ++i) { result.add_shared(member->fresh_, i); }
      for (std::size_t i = done; i < old + made; ++i) { result.add_shared(member->fresh_, i); }
      member->fresh_ = std::move(result);
    }
    return kept;
  }

  static void prepare_all(Members members, const RowTable& table, Vector<float>& scratch) {
    GearStore& first = *members.front();
    const List& list = first.list_;
    Vector<std::uint32_t> live(Allocator<std::uint32_t>(list.memory()));  // rows that stay
    live.reserve(table.live_in(0, list.rows()));
    Aside aside{members};
    std::size_t done = 0;  // of `live`
    for (std::size_t index = 0; index < list.size(); ++index) {
      const RowRange range = list.range(index);
      const bool whole = live.size() == done && table.live_in(range.first, range.last) == range.size();
      for (std::size_t row = range.first; row < range.last; ++row) {
        if (table.alive(row)) { live.push_back(static_cast<std::uint32_t>(row)); }
      }
      const std::size_t waiting = live.size() - done;
      const std::size_t count = waiting < first.options_.buffer && !whole ? 0 : waiting / row_multiple * row_multiple;
      if (count == 0) { continue; }
      if (whole) {
        for (GearStore* member : members) {
          member->fresh_.make_room(1);
          member->fresh_.add_shared(member->list_, index);
        }
      } else {
        const auto read = [&](std::size_t lane, std::size_t row, float* out) { read_from(members[lane]->list_, live[done + row], out); };
        encode(members, count, list[index].origin(), members.size(), scratch, read);
      }
      done += count;
    }
    const std::size_t rest = live.size() - done;
    for (GearStore* member : members) {
      member->tail_.unshare();
      member->tail_.make_room(rest);
    }
    scratch.resize(std::max(scratch.size(), rest * first.dim_));
    aside.done = true;
  }
  void compact_this(const RowTable& table, Vector<float>& scratch) noexcept {
    const std::size_t encoded = settled();
    std::size_t skip = fresh_.rows();
    std::size_t rest = 0;
    for (std::size_t row = 0; row < encoded; ++row) {
      if (!table.alive(row)) { continue; }
      if (skip > 0) {
        --skip;
      } else {
        read_from(list_, row, scratch.data() + rest++ * dim_);
      }
    }
    list_.clear();
    std::swap(list_, fresh_);
    tail_.compact(table, encoded, scratch.data(), rest);
  }

  static void read_from(const List& list, std::size_t row, float* out) noexcept {
    const std::size_t index = list.index_of(row);
    list[index].read_sparse(row - list.rows_before(index), out);
    list[index].add_low_rank(row - list.rows_before(index), out);
  }
  /// Calls part(store, rows in it, offset in the range) for every segment that the range meets, and the exact rows.
  template <class Part>
  void split(RowRange range, Part&& part) const noexcept {
    const std::size_t border = settled();
    if (range.first < border) {
      for (std::size_t index = list_.index_of(range.first); index < list_.size() && list_.rows_before(index) < range.last; ++index) {
        const RowRange own = list_.range(index);
        const std::size_t first = std::max(range.first, own.first);
        part(list_[index], RowRange{first - own.first, std::min(range.last, own.last) - own.first}, first - range.first);
      }
    }
    if (range.last > border) {
      const std::size_t first = std::max(range.first, border);
      part(tail_, RowRange{first - border, range.last - border}, first - range.first);
    }
  }

  Options options_;
  std::size_t dim_;
  List list_;
  List fresh_;            // made and not yet taken; empty between calls, but for prepare_to_compact
  std::size_t kept_ = 0;  // segments that stay before those of fresh_
  std::size_t due_ = 0;   // exact rows that fresh_ encodes
  Tail tail_;
};

/// Over what the outliers of a value token run, and its group under Kcvt: all heads of the layer side by side, or one head. Of a head only is
/// right where heads hold different rows.
enum class ValueVectors { layer, head };

template <int Bits, class Backbone = Kcvt, class Scale = half>
using GearKeys = GearStore<gear::KeyCodes<Bits, Backbone, Scale>, Backbone, Scope::lane>;
template <int Bits, class Backbone = Kcvt, ValueVectors Vectors = ValueVectors::layer, class Scale = half>
using GearValues =
    GearStore<gear::ValueCodes<Bits, Backbone, Scale>, Backbone, Vectors == ValueVectors::layer ? Scope::layer : Scope::lane>;

}  // namespace kvcompress
