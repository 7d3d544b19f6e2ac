// include/kvcompress/cache.hpp - KVCache<Policy>: one sequence, all its lanes; phases, positions, lifecycle, memory.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvcompress/attention/attend.hpp"
#include "kvcompress/attention/executor.hpp"
#include "kvcompress/cache/byte_budget.hpp"
#include "kvcompress/cache/bytes.hpp"
#include "kvcompress/cache/changes.hpp"
#include "kvcompress/cache/checks.hpp"
#include "kvcompress/cache/composition.hpp"
#include "kvcompress/cache/layer.hpp"
#include "kvcompress/cache/observe.hpp"
#include "kvcompress/cache/open_rows.hpp"
#include "kvcompress/cache/own_numbers.hpp"
#include "kvcompress/cache/queries.hpp"
#include "kvcompress/cache/refusals.hpp"
#include "kvcompress/cache/share_rows.hpp"
#include "kvcompress/cache/truncation.hpp"
#include "kvcompress/core/shared.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {
template <class P>
struct Persistence;
}

/// A range of KV heads; by default all of them. first < last <= KV heads.
struct HeadRange {
  std::size_t first = 0;
  std::size_t last = static_cast<std::size_t>(-1);
};

enum class Angle;
struct ReadInto;

/// The key-value cache of one sequence, compressed as `P` says.
///
/// Layers may have shapes of their own, sliding windows among them, and read the rows of others: see Shape.
///
/// Per layer: append and attend the prompt (in one piece or in chunks), end_prompt, then append and attend token by token. Until
/// end_prompt nothing is evicted or encoded: the prompt's outputs are exact and do not depend on its chunks. Later, rows are
/// compressed when they are committed: by commit, or by the next append. Rows since the last commit can be truncated. A cache can be saved and
/// loaded in any phase: see kvcompress/persistence.hpp.
///
/// Errors: every function checks its arguments first and raises an Error that names argument, value and bound; the cache is then
/// unchanged, and so it is when memory or the slow tier fails half-way, but for scratch and spare room. Rows that attend chose may be at hand
/// already, which changes no later result. Keys, values, queries and queries times the scale are finite and at most 2^50 (1.1e15) in
/// magnitude, and at most what a row is held in (half: 65504; keys before their rotary embedding two thirds of it): then every output is finite.
/// Threads: different caches are independent. On one cache, attend may run at the same time for disjoint ranges of KV heads, each call with a
/// Workspace of its own; everything else needs the cache to itself.
template <class P>
class KVCache {
  static_assert(detail::Composition<P>::works);

 public:
  using Policy = P;
  using Eviction = typename detail::Axes<P>::Eviction;
  using Storage = typename detail::Axes<P>::Storage;
  using Retrieval = typename detail::Axes<P>::Retrieval;
  using Keys = typename Storage::Keys;
  using Values = typename Storage::Values;
  using Options = PolicyOptions<P>;

  explicit KVCache(const Shape& shape, const Options& options = {}, const Memory& memory = {});
  /// A deep copy: shares nothing with `other`.
  KVCache(const KVCache& other);
  KVCache(KVCache&&) noexcept = default;
  KVCache& operator=(const KVCache& other) { return *this = KVCache(other); }
  KVCache& operator=(KVCache&&) noexcept = default;
  ~KVCache() = default;

  /// The shape and the options, of which the cache keeps what they point to: pointers in them are valid as long as it, or a copy, is.
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const Options& options() const noexcept { return options_; }
  /// Tokens that a layer has seen: one more than the newest position.
  [[nodiscard]] std::size_t tokens(std::size_t layer = 0) const {
    detail::check_layer(shape_, "tokens", layer);
    return at(layer).next;
  }

  /// Adds rows to a layer: keys (tokens, kv_heads, key width) and values (tokens, kv_heads, value width) for consecutive positions from
  /// `first_position`, by default the next one. Commits what was left open, unless the layer's prompt is.
  void append(std::size_t layer, const Rows& keys, const Rows& values) {
    check_owner("append", layer);
    append(layer, keys, values, at(layer).next);
  }
  void append(std::size_t layer, const Rows& keys, const Rows& values, Position first_position);
  /// The same at a position per row, none older than the next one. After a prompt they need not ascend, and rows may share one: a tree of
  /// drafts, in any order. Such a step is attended with AttendOptions::among_open, which says what each draft sees of the others, and goes on
  /// once keep_open has said which of them are accepted. Where keys come unrotated each is rotated to its position.
  void append(std::size_t layer, const Rows& keys, const Rows& values, std::span<const Position> positions);
  /// Of the rows since the last commit only these stay, the accepted drafts: their numbers, from 0, ascending, at ascending positions; none:
  /// all are forgotten. What a policy observed of the others is forgotten too, if there were at most Options::speculation queries.
  void keep_open(std::size_t layer, std::span<const std::size_t> rows);

  /// Attention of the newest tokens: queries (tokens, query_heads, key width) belong to the last `queries.tokens()` rows since the last
  /// commit; out (tokens, query_heads, value width) receives the result. With `heads`, only the query heads of those KV heads are read
  /// and written. `ws` must have been made for this shape. The policy observes the queries as AttendOptions::record says, so each must be
  /// attended once, but for those that it does not see.
  void attend(std::size_t layer, const Rows& queries, const Output& out, const AttendOptions& options = {}, HeadRange heads = {}) {
    attend(layer, queries, out, workspace_, options, heads);
  }
  void attend(std::size_t layer, const Rows& queries, const Output& out, Workspace& ws, const AttendOptions& options = {},
              HeadRange heads = {});

  /// The same with the caller's threads: executor(tasks, run) calls run(task, worker) once for every task < tasks, with a worker number
  /// below workspaces.size() that no other call uses at that time (see SerialExecutor). A task is a KV head or, for one token, 4096 rows of it.
  /// The result is the same for any executor. One that leaves tasks out or numbers workers otherwise is an Error, raised when it returns:
  /// then some outputs are missing, and what the policy observes is not all there.
  template <class Executor>
  void attend(std::size_t layer, const Rows& queries, const Output& out, std::span<Workspace> workspaces, Executor&& executor,
              const AttendOptions& options = {});

  /// For an engine with its own attention: shows the policy queries (tokens, query_heads, key width) at `positions`, as attend would.
  /// `log_sum_exp`, if the engine has it: that of every query's logits over the rows it may see, and of what else the options name,
  /// (tokens, query_heads), -infinity where it
  /// sees none; it saves a pass over the logits, and policies that observe the last queries of a prompt do without it. One that makes a
  /// probability larger than 1 is an Error, beyond rounding: 5 %, 1 % of the logit, and for a row that is encoded what its code may add to it.
  ///
  /// Where other caches hold rows of the same sequence, each is shown every query with the log-sum-exp over the rows of all of them, or, for a
  /// policy that observes the last queries of a prompt, with the others' parts as AttendOptions::partials: then a query may be newer than
  /// every row here, and no row need be open. What a policy has seen of its rows is then what one cache's policy sees of them.
  /// A policy that observes nothing learns from it what is padding (see end_prompt), if it evicts or retrieves, and else nothing.
  void observe(std::size_t layer, const Rows& queries, std::span<const Position> positions, const AttendOptions& options = {},
               const float* log_sum_exp = nullptr);

  /// Which rows a query of one token (1, query_heads, key width) reads, placed as attend places it: those that the retrieval chooses, also in
  /// layers that it reads in full, and what is not indexed; all rows in a first prompt or without a retrieval. attend obeys the plan, until rows
  /// move (AttendOptions::plan): a draft's view of the cache, or what an engine with pages must bring.
  void select(std::size_t layer, const Rows& queries, Plan& plan, const AttendOptions& options = {});
  /// A plan that names no row yet, for the layer's rows as they lie: see Plan::read.
  [[nodiscard]] Plan plan(std::size_t layer);

  /// Ends the layer's open step: the policy evicts, then rows that are due are encoded.
  void commit(std::size_t layer);
  /// Opens another prompt, as a chat's next turn: commits what was left open; rows appended from then on stay exact, and nothing is evicted
  /// or encoded, until end_prompt, with the same result for any chunks. The first prompt of a layer is open from the start.
  void begin_prompt(std::size_t layer);
  /// The commit that closes a prompt. May come again, for a later prompt given in one append, or in several after begin_prompt. Needs at least
  /// one query since the last commit in every lane, shown by attend or observe, if the policy decides by the prompt's attention. Queries that
  /// were shown with Record::kept since the last end_prompt count here, those of rows that truncate has removed, too.
  ///
  /// Padding: rows before the smallest AttendOptions::start of all queries of the first prompt, which none of them saw. A policy that evicts
  /// drops them here, before it decides: they are no sinks, count in no budget and vote for nothing. The others keep them.
  void end_prompt(std::size_t layer);

  /// Says what the tokens from `first` on are: a kind each, 0 (text) to 127, of whatever meaning, and at which of their positions, ascending, a sentence
  /// or something else ends that belongs together. Optional, once per token, in any phase, before its rows come or after; a part that needs it
  /// (Sentences) refuses to end a prompt whose tokens it does not know. `first` is at most the number of tokens described so far. A byte per token,
  /// beside a budget in bytes. truncate forgets it, shift moves it, remove leaves it.
  void describe(Position first, std::span<const std::uint8_t> kinds, std::span<const Position> boundaries = {});

  /// Forgets all rows at positions >= position. Exact down to the last commit; below it, where nothing is evicted, as far as rows are exact:
  /// drafts that came token by token, each committed by the next one, can be taken back while they have not become codes. What was encoded
  /// meanwhile stays so: values of older rows, as many as there were drafts.
  /// Queries that a policy has observed can be taken back if there are at most Options::speculation of them.
  void truncate(Position position);
  /// Removes the rows at positions [first, last) that are still there; positions of other rows stay. Needs everything committed, and layers
  /// that are encoded together at the same token.
  void remove(Position first, Position last);
  /// Overwrites the rows at these positions, each of which must be there, in place: keys and values as for append, at these positions
  /// (diffusion and edits). Attention from then on sees the new rows; what attended before is not done anew. Needs rows that are exact still,
  /// and not indexed by a retrieval, in stores of lanes, and a policy that evicts nothing.
  void write(std::size_t layer, std::span<const Position> positions, const Rows& keys, const Rows& values);
  /// Moves the rows at positions [first, last) that are still there by `delta` positions, in all layers, as an engine does that makes room in
  /// a full context: remove(4, 100), then shift(100, tokens(), -96). Attention sees them there from then on; their keys are not touched, however
  /// they are held (a query is turned for them instead, exactly), so nothing is lost; 4 bytes per row. Positions stay in order: no row is
  /// passed. If the newest row moves, the next position moves with it. Needs everything committed, and a retrieval whose index does not
  /// depend on positions.
  void shift(Position first, Position last, std::int64_t delta);
  /// Back to an empty cache; memory goes back to the handle, but for what reserve asked for.
  void clear();
  /// Another cache with the same contents. Both share rows, positions and scores until one of them writes (copy-on-write). Of a cache with
  /// reserved room only rows are shared, but for the most recent: it keeps its room, and the fork takes as much when it first writes to a
  /// layer.
  [[nodiscard]] KVCache fork() const { return KVCache(*this, Sharing{}); }

  /// Takes memory for `tokens` rows per lane now, so that decoding up to there allocates nothing (workspaces of your own: reserve them
  /// too, if the policy observes every query). Before the first row
  /// it also lays a lane's blocks side by side, with allocators that serve requests in order: these are read faster.
  void reserve(std::size_t tokens);

  /// What `tokens` rows in every lane take: blocks, positions and policy state; rows that an eviction drops do not count.
  [[nodiscard]] static std::size_t bytes_for(const Shape& shape, std::size_t tokens, const Options& options = {});
  /// Bytes taken from the memory handle, by purpose; the total is what the handle gave (blocks shared with forks count in each).
  [[nodiscard]] MemoryReport memory() const noexcept;
  /// Bits held (everything but scratch) per number that the tokens seen would take uncompressed.
  [[nodiscard]] double bits_per_value() const noexcept;

  /// Bytes that attention has read from the slow tier so far.
  [[nodiscard]] std::size_t fetched() const noexcept {
    std::size_t bytes = 0;
    for (const Shared<Layer>& l : layers_) {
      for (const Lane& lane : l.read().lanes) { bytes += lane.fetched; }
    }
    return bytes;
  }

  /// Positions that a lane still holds, ascending.
  [[nodiscard]] std::vector<Position> kept(std::size_t layer, std::size_t kv_head) const;
  /// Inspection of one lane: which row holds which position, the stores, the policy's state; valid until the next verb that is not const.
  /// What they return checks no row number.
  [[nodiscard]] const RowTable& table(std::size_t layer, std::size_t kv_head) const {
    detail::check_lane(shape_, "table", layer, kv_head);
    return at(layer).table(kv_head);
  }
  [[nodiscard]] const Keys& keys(std::size_t layer, std::size_t kv_head) const { return lane("keys", layer, kv_head).keys; }
  [[nodiscard]] const Values& values(std::size_t layer, std::size_t kv_head) const { return lane("values", layer, kv_head).values; }
  [[nodiscard]] const typename Eviction::State& state(std::size_t layer, std::size_t kv_head) const {
    return lane("state", layer, kv_head).state;
  }
  [[nodiscard]] const typename Retrieval::State& index(std::size_t layer, std::size_t kv_head) const {
    return lane("index", layer, kv_head).index;
  }
  /// Decodes one row of a lane: its key, rotated to its position, and its value. Rows in a slow tier are fetched, which may fail.
  void read(std::size_t layer, std::size_t kv_head, std::size_t row, float* key, float* value);
  /// The same of rows [first, last) of a lane, in the order in which they are held, with their positions: see ReadInto. Cost: a row is
  /// decoded by itself, with no regard to its neighbours; for debugging and for moving rows elsewhere, not for attention.
  void read_rows(std::size_t layer, std::size_t kv_head, RowRange rows, const ReadInto& into);

 private:
  friend struct detail::Persistence<P>;
  using Lane = detail::Lane<P>;
  using Layer = detail::Layer<P>;
  struct Sharing {};
  KVCache(const KVCache& other, Sharing);

  /// What a row is held in, or an index of the keys, has a largest number.
  [[nodiscard]] float largest_key(std::size_t layer) const noexcept { return std::min(detail::largest_number, at(layer).largest_key); }
  [[nodiscard]] float largest_value(std::size_t layer) const noexcept { return std::min(detail::largest_number, at(layer).largest_value); }

  static const Shape& checked(const Shape& shape, const Options& options);
  void check_shift(std::size_t layer, Position first, Position last, std::int64_t delta) const;
  [[nodiscard]] Site site(std::size_t layer, std::size_t kv_head) const noexcept { return {layer, kv_head, shape_}; }
  /// Raises an Error unless the layer has rows of its own.
  void check_owner(const char* verb, std::size_t layer) const;
  /// Whether it is the last layer that reads its rows: a step of these ends when it ends there.
  [[nodiscard]] bool ends_steps(std::size_t layer) const noexcept { return shape_.last_reader(shape_.store(layer)) == layer; }
  /// Raises an Error if the layer's open rows are a tree of drafts.
  void check_branches(const char* verb, std::size_t layer) const;
  /// Raises an Error if the layer's prompt has ended and waits for others to be encoded.
  void check_waits(const char* verb, std::size_t layer) const;
  /// The layer that has the rows which `layer` reads.
  [[nodiscard]] const Layer& at(std::size_t layer) const noexcept { return layers_[shape_.store(layer)].read(); }
  [[nodiscard]] const Lane& lane(const char* verb, std::size_t layer, std::size_t kv_head) const {
    detail::check_lane(shape_, verb, layer, kv_head);
    return at(layer).lanes[kv_head];
  }
  [[nodiscard]] std::size_t heads_of(const char* verb, std::size_t layer) const {
    detail::check_layer(shape_, verb, layer);
    return shape_.of(layer).kv_heads;
  }
  /// For observations of open rows: no fork shares a layer that has them (see the constructor above).
  [[nodiscard]] Layer& writable(std::size_t layer) noexcept { return layers_[layer].write_in_place(); }
  void reserve_scratch(std::size_t rows);

  // ------------------------------------------------------------------ rows

  /// The rows of an append, which is checked. `ranks`: of their positions, where several rows may share one.
  void append_at(std::size_t layer, const Rows& keys, const Rows& values, const detail::RowPlaces& places, std::span<const Position> ranks);
  void append_row(Lane& lane, const Rows& keys, const Rows& values, std::size_t token, std::size_t layer, std::size_t head,
                  Position position);

  void read_one(std::size_t layer, std::size_t kv_head, std::size_t row, Angle angle, float* key, float* value);

  // ------------------------------------------------------------------ queries

  AttendOptions check_attend(std::size_t layer, const Rows& queries, const Output& out, const AttendOptions& options, HeadRange heads,
                             Workspace& ws) const;
  /// No query of a layer sees further than its window.
  [[nodiscard]] AttendOptions within_window(std::size_t layer, AttendOptions options) const noexcept;
  /// What an option needs of the policy.
  void check_alibi(const char* verb, std::size_t layer, const AttendOptions& options) const;
  /// Raises an Error unless the queries have rows of their own, or a place behind all rows.
  void check_place(const char* verb, std::size_t layer, std::size_t tokens, const AttendOptions& options) const;
  void check_query_position(const char* verb, std::size_t layer, std::size_t tokens, const AttendOptions& options) const;
  /// Raises an Error for a plan whose rows have moved, and where the policy cannot see what it must.
  void check_record(const char* verb, std::size_t layer, const AttendOptions& options) const;
  /// Attention of some heads. Fails, if at all, only where rows are chosen and fetched: then what is at hand of them may have changed, but
  /// nothing that later attention depends on.
  void attend_heads(std::size_t layer, const Rows& queries, const Output& out, Workspace& ws, const AttendOptions& options,
                    HeadRange heads);
  /// Whether queries read only some rows: after a first prompt, which has no index yet.
  [[nodiscard]] bool chooses(std::size_t layer, std::size_t head) const noexcept {
    return at(layer).prompt_tokens > 0 && (prepares(at(layer).lanes[head]) || !Retrieval::reads_all(options_.retrieval, site(layer, head)));
  }
  /// Whether values must be fetched before they are read: in all lanes of any cache of P, in this lane.
  static constexpr bool must_prepare = Prepares<Values> && !detail::ChosenStore<Values>;
  static bool prepares(const Lane& lane) noexcept { return detail::facts_of(lane.values).prepares; }
  /// Whether threads may share the rows of one token: every head reads all of them.
  [[nodiscard]] bool shares_rows(std::size_t layer) const noexcept;
  /// Afterwards some heads attend without failing half-way through what the policy sees of them.
  void make_room_to_attend(std::size_t layer, std::size_t tokens, const AttendOptions& options, HeadRange heads, Workspace& ws);
  /// Notes what the queries said of padding and keeps those that the policy will want at the end of the prompt. Cannot fail, once there is
  /// room.
  void remember(std::size_t layer, const Rows& queries, const AttendOptions& options, HeadRange heads, Workspace& ws) noexcept;

  void note_queries(std::size_t layer, std::size_t head, const AttendOptions& options, const Workspace& ws) noexcept;

  // ------------------------------------------------------------------ commits

  /// The eviction's budgets in rows, which follow from the tokens of the prompt that are no padding.
  void settle_budget(Layer& l, std::size_t layer) const;
  [[nodiscard]] detail::Changes<P> changes() noexcept {
    scratch_.tokens = tokens_ ? &tokens_->read() : nullptr;
    return {shape_, options_, memory_, layers_, workspace_, scratch_, reserved_};
  }

  Shape shape_;
  Options options_;
  Memory memory_;
  detail::OwnNumbers<P> numbers_;  // what shape_ and options_ point to
  MostRows most_;                  // that a budget in bytes allows
  Vector<Shared<Layer>> layers_;
  Vector<detail::PlanMark> marks_;  // of every layer
  Workspace workspace_;
  detail::CommitScratch<P> scratch_;
  std::optional<Shared<Tokens>> tokens_;  // what describe has said
  Vector<float> row_;                     // one key, one value, the widest there are
  std::size_t reserved_ = 0;
};

}  // namespace kvcompress

#include "kvcompress/cache/appending.hpp"
#include "kvcompress/cache/attending.hpp"
#include "kvcompress/cache/read_back.hpp"
#include "kvcompress/cache/verbs.hpp"
#include "kvcompress/cache/write_rows.hpp"
