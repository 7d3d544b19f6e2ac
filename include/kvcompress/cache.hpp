// include/kvcompress/cache.hpp - KVCache<Policy>: one sequence, all its lanes; phases, positions, lifecycle, memory.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
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
#include "kvcompress/cache/own_numbers.hpp"
#include "kvcompress/cache/queries.hpp"
#include "kvcompress/cache/share_rows.hpp"
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

/// The key-value cache of one sequence, compressed as `P` says.
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

  explicit KVCache(const Shape& shape, const Options& options = {}, const Memory& memory = {})
      : shape_(checked(shape, options)), options_(options), memory_((memory.validate(), memory)), numbers_(shape_, options_, memory),
        most_(detail::rows_within_budget<P>(shape_, options_, numbers_.bytes())), layers_(Allocator<Shared<Layer>>(memory)),
        workspace_(shape_, memory), scratch_(memory), row_(Allocator<float>(memory)) {
    layers_.reserve(shape.layers);
    for (std::size_t l = 0; l < shape.layers; ++l) { layers_.emplace_back(memory, shape_, l, options_, most_, memory_); }
    row_.resize(shape_.key_width() + shape_.value_width());
  }
  /// A deep copy: shares nothing with `other`.
  KVCache(const KVCache& other) : KVCache(other, Sharing{}) {
    for (Shared<Layer>& layer : layers_) { static_cast<void>(layer.write()); }
    detail::unshare<P>(shape_, options_, layers_);
    if (reserved_ > 0) { reserve(reserved_); }
  }
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
    detail::check_layer(shape_, "append", layer);
    append(layer, keys, values, at(layer).next);
  }
  void append(std::size_t layer, const Rows& keys, const Rows& values, Position first_position) {
    detail::check_layer(shape_, "append", layer);
    detail::check_rows(shape_, keys, values, first_position, at(layer).next, largest_key(layer), largest_value(layer), row_.data());
    check_waits("append", layer);
    changes().commit_and(layer, keys.tokens(), first_position, [&](Layer& l) {
      for (std::size_t t = 0; t < keys.tokens(); ++t) {
        const Position position = first_position + static_cast<Position>(t);
        for (std::size_t head = 0; head < shape_.kv_heads; ++head) { append_row(l.lanes[head], keys, values, t, head, position); }
        for (RowTable& table : l.tables) { table.append(position); }
      }
      l.note_appended(first_position, first_position + static_cast<Position>(keys.tokens()));
      l.next = first_position + static_cast<Position>(keys.tokens());
      l.open += keys.tokens();
    });
  }

  /// Attention of the newest tokens: queries (tokens, query_heads, key width) belong to the last `queries.tokens()` rows since the last
  /// commit; out (tokens, query_heads, value width) receives the result. With `heads`, only the query heads of those KV heads are read
  /// and written. `ws` must have been made for this shape. Records what the policy observes, so a query must be attended once.
  void attend(std::size_t layer, const Rows& queries, const Output& out, const AttendOptions& options = {}, HeadRange heads = {}) {
    attend(layer, queries, out, workspace_, options, heads);
  }
  void attend(std::size_t layer, const Rows& queries, const Output& out, Workspace& ws, const AttendOptions& options = {},
              HeadRange heads = {}) {
    if (heads.last == HeadRange{}.last) { heads.last = shape_.kv_heads; }
    const AttendOptions how = check_attend(layer, queries, out, options, heads, ws);
    make_room_to_attend(layer, queries.tokens(), how, heads, ws);
    attend_heads(layer, queries, out, ws, how, heads);
    remember(layer, queries, how, heads, ws);
  }

  /// The same with the caller's threads: executor(tasks, run) calls run(task, worker) once for every task < tasks, with a worker number
  /// below workspaces.size() that no other call uses at that time (see SerialExecutor). A task is a KV head or, for one token, 4096 rows of it.
  /// The result is the same for any executor. One that leaves tasks out or numbers workers otherwise is an Error, raised when it returns:
  /// then some outputs are missing, and what the policy observes is not all there.
  template <class Executor>
  void attend(std::size_t layer, const Rows& queries, const Output& out, std::span<Workspace> workspaces, Executor&& executor,
              const AttendOptions& options = {}) {
    require(!workspaces.empty(), ErrorCode::input, "attend: workspaces is empty, must have one per worker");
    if constexpr (requires { executor.operator bool(); }) {
      require(static_cast<bool>(executor), ErrorCode::input, "attend: executor is empty, must be a function");
    }
    const HeadRange all{0, shape_.kv_heads};
    const AttendOptions how = check_attend(layer, queries, out, options, all, workspaces.front());
    for (const Workspace& ws : workspaces) { ws.check("attend", shape_, workspace_); }
    if constexpr (!detail::must_retrieve<P> && !detail::must_see_queries<P> && !must_prepare) {
      if (queries.tokens() == 1 && shares_rows(layer)) {
        make_room_to_attend(layer, 1, how, all, workspaces.front());
        detail::share_rows<P>(shape_, at(layer), queries, out, workspaces, executor, how);
        return remember(layer, queries, how, all, workspaces.front());
      }
    }
    for (Workspace& ws : workspaces) { make_room_to_attend(layer, queries.tokens(), how, all, ws); }
    detail::run_tasks(executor, shape_.kv_heads, workspaces.size(), [&](std::size_t head, std::size_t worker) {
      attend_heads(layer, queries, out, workspaces[worker], how, {head, head + 1});
    });
    remember(layer, queries, how, all, workspaces.front());
  }

  /// For an engine with its own attention: shows the policy queries (tokens, query_heads, key width) at `positions`, as attend would.
  /// `log_sum_exp`, if the engine has it: that of every query's logits over the rows it may see, and of what else the options name,
  /// (tokens, query_heads), -infinity where it
  /// sees none; it saves a pass over the logits, and policies that observe the last queries of a prompt do without it. One that makes a
  /// probability larger than 1 is an Error, beyond rounding: 5 %, 1 % of the logit, and for a row that is encoded what its code may add to it.
  /// A policy that observes nothing learns from it what is padding (see end_prompt), if it evicts or retrieves, and else nothing.
  void observe(std::size_t layer, const Rows& queries, std::span<const Position> positions, const AttendOptions& options = {},
               const float* log_sum_exp = nullptr) {
    detail::check_layer(shape_, "observe", layer);
    const AttendOptions how = detail::checked("observe", options);
    detail::check_beside(shape_, "observe", queries.tokens(), how);
    detail::check_queries(shape_, queries, 0, shape_.kv_heads, how.scale, row_.data());
    const Layer& l = at(layer);
    require(l.open > 0, ErrorCode::phase, "observe(layer = ", layer, ") before append: no rows since the last commit");
    detail::check_positions(positions, queries.tokens(), l.next);
    detail::check_log_sum_exp(shape_, queries.tokens(), log_sum_exp);
    std::optional<detail::Seen<P>> before;
    if (detail::may_see_queries<P> && log_sum_exp != nullptr) { before.emplace(writable(layer), scratch_); }
    for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
      detail::make_room_to_observe<P>(site(layer, head), options_, writable(layer), queries.tokens(), how, false, workspace_);
    }
    for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
      workspace_.positions.assign(positions.begin(), positions.end());
      note_queries(layer, head, how, workspace_);
      if (detail::sees_queries<P>(options_, site(layer, head), l.in_prompt)) {
        if constexpr (detail::may_see_queries<P>) {
          const TooLikely wrong = detail::see<P>(shape_, options_, writable(layer), head, false, nullptr,
                                                 detail::query_loader(shape_, queries, head, workspace_), how,
                                                 log_sum_exp != nullptr ? log_sum_exp + head * shape_.group() : nullptr, workspace_);
          if (wrong.found) {
            before->put_back();
            fail(ErrorCode::input, "observe: log_sum_exp is ", wrong.log_sum_exp, " at token ", wrong.token, ", head ",
                 head * shape_.group() + wrong.head, ", must be at least the query's largest logit, ", wrong.logit);
          }
        }
      }
      if (l.in_prompt) { detail::show_queries<P>(shape_, options_, writable(layer).lanes[head], queries, head, l.next, workspace_); }
      if (const std::size_t window = detail::query_window<P>(options_, site(layer, head)); window > 0) {
        detail::remember<P>(shape_, window, writable(layer).lanes[head], queries, head, how, workspace_);
      }
    }
    if (before) { before->keep(); }
  }

  /// Ends the layer's open step: the policy evicts, then rows that are due are encoded.
  void commit(std::size_t layer) {
    detail::check_layer(shape_, "commit", layer);
    require(!at(layer).in_prompt, ErrorCode::phase, "commit(layer = ", layer, ") before end_prompt(layer)");
    if (at(layer).open > 0) {
      changes().commit_and(layer, 0, 0, [](Layer&) {});
    }
  }
  /// Opens another prompt, as a chat's next turn: commits what was left open; rows appended from then on stay exact, and nothing is evicted
  /// or encoded, until end_prompt, with the same result for any chunks. The first prompt of a layer is open from the start.
  void begin_prompt(std::size_t layer) {
    detail::check_layer(shape_, "begin_prompt", layer);
    require(!at(layer).in_prompt, ErrorCode::phase, "begin_prompt(layer = ", layer, ") while its prompt is open: end_prompt(layer) first");
    check_waits("begin_prompt", layer);
    changes().commit_and(layer, 0, 0, [](Layer& l) { l.in_prompt = true; });
  }
  /// The commit that closes a prompt. May come again, for a later prompt given in one append, or in several after begin_prompt. Needs at least
  /// one query since the last commit in every lane, shown by attend or observe, if the policy decides by the prompt's attention.
  ///
  /// Padding: rows before the smallest AttendOptions::start of all queries of the first prompt, which none of them saw. A policy that evicts
  /// drops them here, before it decides: they are no sinks, count in no budget and vote for nothing. The others keep them.
  void end_prompt(std::size_t layer) {
    detail::check_layer(shape_, "end_prompt", layer);
    require(at(layer).open > 0, ErrorCode::phase, "end_prompt(layer = ", layer, ") without rows since the last commit");
    const RowRange group = detail::layers_with<P>(options_, shape_, layer);
    for (std::size_t other = group.first; other < group.last; ++other) {
      if (at(other).waiting) { at(layer).check_prompt_of(at(other), layer, other); }
    }
    for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
      const Lane& lane = at(layer).lanes[head];
      const bool sees = detail::needs<P>(lane.state).queries || detail::sees_queries<P>(options_, site(layer, head), true);
      require(!sees || !lane.shown.none(), ErrorCode::phase, "end_prompt(layer = ", layer,
              ") before attend or observe: ", detail::eviction_name<P>(options_, site(layer, head)),
              " needs the queries of the prompt, of every KV head");
      require(detail::query_window<P>(options_, site(layer, head)) == 0 || !lane.last.positions().empty(), ErrorCode::phase,
              "end_prompt(layer = ", layer, ") before attend or observe: ",
              detail::window_of<P>(options_, site(layer, head)) > 0 ? detail::eviction_name<P>(options_, site(layer, head))
                                                                    : detail::retrieval_name<P>(options_, site(layer, head)),
              " needs the last queries of the prompt");
    }
    Vector<Shared<Layer>> after(layers_);
    Layer& l = after[layer].write();
    l.prompt_tokens = l.next;
    settle_budget(l, layer);
    changes().commit(after).run(layer, true);
    changes().take(after);
    scratch_.shrink(reserved_);
  }

  /// Forgets all rows at positions >= position. Exact down to the last commit; below it only for a cache that neither evicts nor encodes.
  /// Queries that a policy has observed can be taken back if there are at most Options::speculation of them.
  void truncate(Position position) {
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) { at(layer).check_truncate(position, layer, options_.speculation); }
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {  // what may fail comes first
      if (at(layer).next > position) { static_cast<void>(changes().own(layer)); }
    }
    for (Shared<Layer>& shared : layers_) {
      if (shared.read().next > position) { shared.write_in_place().truncate(position, shape_); }
    }
  }
  /// Removes the rows at positions [first, last) that are still there; positions of other rows stay. Needs everything committed, and layers
  /// that are encoded together at the same token.
  void remove(Position first, Position last) {
    require(first <= last, ErrorCode::position, "remove: first is ", first, ", must be at most last = ", last);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      require(at(layer).open == 0, ErrorCode::phase, "remove with ", at(layer).open, " uncommitted rows in layer ", layer,
              ": commit first");
      const std::size_t first_layer = detail::layers_with<P>(options_, shape_, layer).first;
      require(at(layer).next == at(first_layer).next, ErrorCode::phase, "remove: layer ", layer, " has seen ", at(layer).next,
              " tokens, must have seen as many as layer ", first_layer, ", which is encoded together with it: ", at(first_layer).next);
    }
    Vector<Shared<Layer>> after(layers_);
    for (Shared<Layer>& shared : after) {
      if (!shared.read().mark(first, last, true, scratch_)) { continue; }
      Layer& l = shared.write();
      for (std::size_t unit = l.tables.size(); unit-- > 0;) { l.evict(unit, l.drops(unit, scratch_), scratch_, true); }
      l.refresh_indices(options_, workspace_.rotation, false, scratch_.rows);
    }
    changes().take(after);
  }
  /// Moves the rows at positions [first, last) that are still there by `delta` positions, in all layers, as an engine does that makes room in
  /// a full context: remove(4, 100), then shift(100, tokens(), -96). Attention sees them there from then on; their keys are not touched, however
  /// they are held (a query is turned for them instead, exactly), so nothing is lost; 4 bytes per row. Positions stay in order: no row is
  /// passed. If the newest row moves, the next position moves with it. Needs everything committed, and a retrieval whose index does not
  /// depend on positions.
  void shift(Position first, Position last, std::int64_t delta) {
    require(first <= last, ErrorCode::position, "shift: first is ", first, ", must be at most last = ", last);
    require(delta >= -std::int64_t{first}, ErrorCode::position, "shift: delta is ", delta, ", must be at least ", -std::int64_t{first});
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) { check_shift(layer, first, last, delta); }
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      for (RowTable& table : changes().own(layer).tables) { table.prepare_to_shift(); }
    }
    for (Shared<Layer>& layer : layers_) { layer.write_in_place().shift(first, last, delta); }
  }
  /// Back to an empty cache; memory goes back to the handle, but for what reserve asked for.
  void clear() {
    KVCache empty(shape_, options_, memory_);
    if (reserved_ > 0) { empty.reserve(reserved_); }
    *this = std::move(empty);
  }
  /// Another cache with the same contents. Both share rows, positions and scores until one of them writes (copy-on-write). Of a cache with
  /// reserved room only rows are shared, but for the most recent: it keeps its room, and the fork takes as much when it first writes to a
  /// layer.
  [[nodiscard]] KVCache fork() const { return KVCache(*this, Sharing{}); }

  /// Takes memory for `tokens` rows per lane now, so that decoding up to there allocates nothing (workspaces of your own: reserve them
  /// too, if the policy observes every query). Before the first row
  /// it also lays a lane's blocks side by side, with allocators that serve requests in order: these are read faster.
  void reserve(std::size_t tokens) {
    detail::check_row_count("reserve", tokens);
    const std::size_t rows = std::max(reserved_, tokens);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) { detail::Changes<P>::reserve(changes().own(layer), rows); }
    reserve_scratch(rows);
    reserved_ = rows;
  }

  /// What `tokens` rows in every lane take: blocks, positions and policy state; rows that an eviction drops do not count.
  [[nodiscard]] static std::size_t bytes_for(const Shape& shape, std::size_t tokens, const Options& options = {}) {
    detail::check_row_count("bytes_for", tokens);
    const auto lane = [&](const Site& of) { return detail::lane_bytes<P>(of, options, tokens); };
    const std::size_t bytes = detail::sum_over_lanes<P>(checked(shape, options), lane);
    require(bytes < static_cast<std::size_t>(-1), ErrorCode::shape, "bytes_for: tokens is ", tokens,
            ", must need less than 2^64 bytes: a lane needs ", lane(Site{0, 0, shape}), " and there are ", shape.layers * shape.kv_heads);
    return bytes;
  }
  /// Bytes taken from the memory handle, by purpose; the total is what the handle gave (blocks shared with forks count in each).
  [[nodiscard]] MemoryReport memory() const noexcept {
    MemoryReport report;
    report.add(&MemoryReport::indices, layers_);
    numbers_.account(report);
    workspace_.account(report);
    scratch_.account(report);
    report.add(&MemoryReport::scratch, row_);
    detail::account<P>(shape_, options_, layers_, report);
    return report;
  }
  /// Bits held (everything but scratch) per number that the tokens seen would take uncompressed.
  [[nodiscard]] double bits_per_value() const noexcept {
    double values = 0.0;
    for (const Shared<Layer>& l : layers_) {
      values += static_cast<double>(l.read().next) * static_cast<double>(shape_.values_per_token() / shape_.layers);
    }
    const MemoryReport report = memory();
    return values == 0.0 ? 0.0 : 8.0 * static_cast<double>(report.total() - report.scratch) / values;
  }

  /// Bytes that attention has read from the slow tier so far.
  [[nodiscard]] std::size_t fetched() const noexcept {
    std::size_t bytes = 0;
    for (const Shared<Layer>& l : layers_) {
      for (const Lane& lane : l.read().lanes) { bytes += lane.fetched; }
    }
    return bytes;
  }

  /// Positions that a lane still holds, ascending.
  [[nodiscard]] std::vector<Position> kept(std::size_t layer, std::size_t kv_head) const {
    detail::check_lane(shape_, "kept", layer, kv_head);
    const RowTable& table = at(layer).table(kv_head);
    std::vector<Position> positions;
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (table.alive(row)) { positions.push_back(table.position(row)); }
    }
    std::sort(positions.begin(), positions.end(), [](Position a, Position b) { return a < b; });  // not std::less: see core/abi.hpp
    return positions;
  }
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
  void read(std::size_t layer, std::size_t kv_head, std::size_t row, float* key, float* value) {
    const Lane& from = lane("read", layer, kv_head);
    const RowTable& rows = at(layer).table(kv_head);
    require(row < rows.rows(), ErrorCode::shape, "read: row is ", row, ", must be less than ", rows.rows());
    require(key != nullptr, ErrorCode::input, "read: key is null, must have room for ", shape_.key_width(), " numbers");
    require(value != nullptr, ErrorCode::input, "read: value is null, must have room for ", shape_.value_width(), " numbers");
    const bool in_keys = detail::facts_of(from.values).in_keys;
    if (!in_keys) { from.values.read(row, value); }  // first: it may fail
    from.read_key(row, rows, workspace_.rotation, key);
    if (rows.turned(row) != rows.position(row) && rows.alive(row)) {
      workspace_.rotation.turn_by(std::int64_t{rows.position(row)} - std::int64_t{rows.turned(row)});
      workspace_.rotation.apply(key);
    }
    if (in_keys) { std::copy_n(key, shape_.value_width(), value); }
  }

 private:
  friend struct detail::Persistence<P>;
  using Lane = detail::Lane<P>;
  using Layer = detail::Layer<P>;
  struct Sharing {};
  KVCache(const KVCache& other, Sharing)
      : shape_(other.shape_), options_(other.options_), memory_(other.memory_), numbers_(other.numbers_), most_(other.most_),
        layers_(other.layers_), workspace_(other.shape_, other.memory_), scratch_(other.memory_), row_(other.row_),
        reserved_(other.reserved_) {
    const auto attend_writes = [](const Lane& lane) { return lane.notes_queries(); };
    for (Shared<Layer>& layer : layers_) {  // attend writes observations and fetched rows without asking; room belongs to one cache
      const auto& lanes = layer.read().lanes;
      if (reserved_ > 0 || (layer.read().open > 0 && std::any_of(lanes.begin(), lanes.end(), attend_writes))) {
        static_cast<void>(layer.write());
      }
      if (reserved_ > 0) {
        for (Lane& lane : layer.write().lanes) { lane.own_recent(); }
      }
    }
    if (reserved_ > 0) { reserve_scratch(reserved_); }
  }

  /// What a row is held in, or an index of the keys, has a largest number.
  [[nodiscard]] float largest_key(std::size_t layer) const noexcept {
    return std::min(largest_of(layer, &Lane::keys), detail::largest_indexed_key<P>(options_, shape_, layer));
  }
  [[nodiscard]] float largest_value(std::size_t layer) const noexcept { return largest_of(layer, &Lane::values); }
  template <class S>
  [[nodiscard]] float largest_of(std::size_t layer, S Lane::*store) const noexcept {
    float most = std::min(detail::largest_number, largest<typename S::exact_type>);
    if constexpr (detail::ChosenStore<S>) {
      for (const Lane& lane : at(layer).lanes) { most = std::min(most, detail::facts_of(lane.*store).largest); }
    }
    return most;
  }

  static const Shape& checked(const Shape& shape, const Options& options) {
    shape.validate();
    Eviction::validate(options.eviction, shape);
    Storage::validate(options.storage);
    if constexpr (requires { Storage::validate_shape(options.storage, shape); }) { Storage::validate_shape(options.storage, shape); }
    Retrieval::validate(options.retrieval, shape);
    check_bounds("speculation", options.speculation);
    if constexpr (ValuesInKeys<Values>) {
      detail::for_lanes(shape, [&](const Site& of) {
        const bool in_keys = detail::facts_of_made_from<Values>(values_at<Storage>(options.storage, of)).in_keys;
        require(!in_keys || !detail::renumbers<P>(options, of) || shape.rope.theta == 0.0, ErrorCode::option,
                detail::eviction_name<P>(options, of),
                ": in_cache_positions is true, must be false where rows hold keys and values at once: they cannot be turned");
      });
    }
    detail::check_lanes<P>(shape, options);
    return shape;
  }
  void check_shift(std::size_t layer, Position first, Position last, std::int64_t delta) const {
    const Layer& l = at(layer);
    require(l.open == 0 && !l.waiting, ErrorCode::phase, "shift with ", l.open, " uncommitted rows in layer ", layer,
            l.waiting ? ", whose prompt has ended and is not encoded: end_prompt of the other layers first" : ": commit first");
    require(std::int64_t{std::min(last, l.next)} + delta < std::int64_t{no_position}, ErrorCode::position, "shift: delta is ", delta,
            ", must leave positions below ", no_position);
    require(last >= l.next || std::int64_t{last} + delta <= std::int64_t{l.next}, ErrorCode::position, "shift: delta is ", delta,
            ", must be at most ", std::int64_t{l.next} - std::int64_t{last}, ": the rows must stay before the next token of layer ", layer);
    for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
      require(!detail::facts_of(l.lanes[head].values).in_keys, ErrorCode::option,
              "shift: the rows hold keys and values at once, which cannot be turned");
      require(Retrieval::renumbers(options_.retrieval, site(layer, head)), ErrorCode::option, "shift with ",
              detail::retrieval_name<P>(options_, site(layer, head)), ", whose index is made at the original positions");
      require(l.table(head).can_shift(first, last, delta), ErrorCode::position, "shift: the rows at positions [", first, ", ", last,
              ") move by ", delta, ", must pass no row of layer ", layer, ", KV head ", head, ": remove it first");
    }
  }
  [[nodiscard]] Site site(std::size_t layer, std::size_t kv_head) const noexcept { return {layer, kv_head, shape_}; }
  /// Raises an Error if the layer's prompt has ended and waits for others to be encoded.
  void check_waits(const char* verb, std::size_t layer) const {
    if (!at(layer).waiting) { return; }
    const RowRange group = detail::layers_with<P>(options_, shape_, layer);
    fail(ErrorCode::phase, verb, "(layer = ", layer,
         ") before end_prompt of all the layers that are encoded together with it: ", group.first, " to ", group.last - 1);
  }
  /// Floats of one token's queries that share a KV head.
  [[nodiscard]] std::size_t query_width() const noexcept { return shape_.group() * shape_.key_width(); }
  [[nodiscard]] const Layer& at(std::size_t layer) const noexcept { return layers_[layer].read(); }
  [[nodiscard]] const Lane& lane(const char* verb, std::size_t layer, std::size_t kv_head) const {
    detail::check_lane(shape_, verb, layer, kv_head);
    return at(layer).lanes[kv_head];
  }
  /// For observations of open rows: no fork shares a layer that has them (see the constructor above).
  [[nodiscard]] Layer& writable(std::size_t layer) noexcept { return layers_[layer].write_in_place(); }
  void reserve_scratch(std::size_t rows) {
    std::size_t tables = 0;  // of a layer that evicts
    bool observes = false;
    for (const Shared<Layer>& layer : layers_) {
      if (layer.read().decides()) { tables = std::max(tables, layer.read().tables.size()); }
      for (const Lane& lane : layer.read().lanes) {
        const Observes what = detail::needs<P>(lane.state).observes;
        observes = observes || what == Observes::every_query || what == Observes::last_queries;
      }
    }
    if (tables > 0) { scratch_.reserve(tables, shape_.kv_heads, rows); }
    if (observes) { workspace_.reserve(shape_, rows); }
  }

  // ------------------------------------------------------------------ rows

  void append_row(Lane& lane, const Rows& keys, const Rows& values, std::size_t token, std::size_t head, Position position) {
    const float* key = keys.row(token, head, row_.data());
    const float* value = values.row(token, head, row_.data() + shape_.key_width());
    if (shape_.keys == KeyForm::unrotated) {
      if (key != row_.data()) { std::copy_n(key, shape_.key_width(), row_.data()); }
      workspace_.rotation.turn_by(position);
      workspace_.rotation.apply(row_.data());
      key = row_.data();
    }
    lane.keys.append(key);
    lane.values.append(value);
    lane.state.resize(lane.keys.rows());
    if constexpr (ObservesRows<Eviction>) {
      Eviction::observe_row(options_.eviction, lane.state, lane.keys.rows() - 1, std::span<const float>(key, shape_.key_width()),
                            std::span<const float>(value, shape_.value_width()));
    }
  }

  // ------------------------------------------------------------------ queries

  AttendOptions check_attend(std::size_t layer, const Rows& queries, const Output& out, const AttendOptions& options, HeadRange heads,
                             Workspace& ws) const {
    detail::check_layer(shape_, "attend", layer);
    const AttendOptions how = detail::checked("attend", options);
    detail::check_beside(shape_, "attend", queries.tokens(), how);
    ws.check("attend", shape_, workspace_);
    detail::check_queries(shape_, queries, heads.first, heads.last, how.scale, Workspace::ensure(ws.queries, shape_.key_width()));
    const std::size_t open = at(layer).open;
    require(open > 0, ErrorCode::phase, "attend(layer = ", layer, ") before append: no rows since the last commit");
    require(queries.tokens() <= open, ErrorCode::phase, "attend: queries.tokens() is ", queries.tokens(), ", must be at most the ", open,
            " rows since the last commit");
    detail::check_output(shape_, out, queries.tokens());
    return how;
  }
  /// Attention of some heads. Fails, if at all, only where rows are chosen and fetched: then what is at hand of them may have changed, but
  /// nothing that later attention depends on.
  void attend_heads(std::size_t layer, const Rows& queries, const Output& out, Workspace& ws, const AttendOptions& options,
                    HeadRange heads) {
    const Layer& l = at(layer);
    for (std::size_t head = heads.first; head < heads.last; ++head) {
      detail::place_queries(l.table(head), queries.tokens(), ws);
      const Lane& lane = l.lanes[head];
      const LaneAttention attention(shape_, lane.keys, &lane.value_store(), l.table(head), options, {head * shape_.group()});
      const auto load = detail::query_loader(shape_, queries, head, ws);
      const auto store = detail::output_storer(shape_, head, out, options);
      if constexpr (detail::may_retrieve<P>) {
        if (chooses(layer, head)) {
          const auto choose = [&](const float* group, std::size_t stride, std::int64_t shift, const Visible& visible, std::size_t rows) {
            return detail::choose<P>(shape_, options_, writable(layer), layer, head, group, stride, shift, visible, options.soft_cap, rows,
                                     ws);
          };
          attention.run(
              ws.positions, ws.limits, false, ws, false, load, store, [](auto&&...) {}, choose);
          continue;
        }
      }
      attention.run(ws.positions, ws.limits, false, ws, detail::sees_queries<P>(options_, site(layer, head), l.in_prompt), load, store,
                    [&](std::size_t t, std::size_t h, std::span<const float> probabilities) {
        if constexpr (detail::may_see_queries<P>) {
          detail::record<P>(shape_, options_, writable(layer), head, ws.positions[t], h, probabilities);
        }
      });
    }
  }
  /// Whether queries read only some rows: after a first prompt, which has no index yet.
  [[nodiscard]] bool chooses(std::size_t layer, std::size_t head) const noexcept {
    return at(layer).prompt_tokens > 0 && (prepares(at(layer).lanes[head]) || !Retrieval::reads_all(options_.retrieval, site(layer, head)));
  }
  /// Whether values must be fetched before they are read: in all lanes of any cache of P, in this lane.
  static constexpr bool must_prepare = Prepares<Values> && !detail::ChosenStore<Values>;
  static bool prepares(const Lane& lane) noexcept { return detail::facts_of(lane.values).prepares; }
  /// Whether threads may share the rows of one token: every head reads all of them.
  [[nodiscard]] bool shares_rows(std::size_t layer) const noexcept {
    const auto& lanes = at(layer).lanes;
    return std::none_of(lanes.begin(), lanes.end(), [&](const Lane& lane) {
      const Observes observes = detail::needs<P>(lane.state).observes;
      return prepares(lane) || detail::retrieves<P>(lane.index) || observes == Observes::every_query || observes == Observes::last_queries;
    });
  }
  /// Afterwards some heads attend without failing half-way through what the policy sees of them.
  void make_room_to_attend(std::size_t layer, std::size_t tokens, const AttendOptions& options, HeadRange heads, Workspace& ws) {
    for (std::size_t head = heads.first; head < heads.last; ++head) {
      detail::make_room_to_observe<P>(site(layer, head), options_, writable(layer), tokens, options, true, ws);
    }
  }
  /// Notes what the queries said of padding and keeps those that the policy will want at the end of the prompt. Cannot fail, once there is
  /// room.
  void remember(std::size_t layer, const Rows& queries, const AttendOptions& options, HeadRange heads, Workspace& ws) noexcept {
    if (!detail::may_note_queries<P>) { return; }
    for (std::size_t head = heads.first; head < heads.last; ++head) {
      if (!at(layer).lanes[head].notes_queries()) { continue; }
      detail::place_queries(at(layer).table(head), queries.tokens(), ws);
      note_queries(layer, head, options, ws);
      if (at(layer).in_prompt) {
        detail::show_queries<P>(shape_, options_, writable(layer).lanes[head], queries, head, at(layer).next, ws);
      }
      const std::size_t window = detail::query_window<P>(options_, site(layer, head));
      if (window == 0) { continue; }
      Lane& lane = writable(layer).lanes[head];
      detail::remember<P>(shape_, window, lane, queries, head, options, ws);
      if constexpr (detail::may_retrieve<P>) {  // what it fetched decides what it keeps
        if (chooses(layer, head) && Retrieval::wants_last_query(options_.retrieval, site(layer, head))) {
          lane.observed_end = at(layer).next;
        }
      }
    }
  }

  void note_queries(std::size_t layer, std::size_t head, const AttendOptions& options, const Workspace& ws) noexcept {
    if constexpr (detail::may_note_queries<P>) {
      if (!at(layer).lanes[head].notes_queries()) { return; }
      Layer& l = writable(layer);
      l.lanes[head].shown.add(ws.positions.front(), options.start, l.prompt_tokens == 0);
    }
  }

  // ------------------------------------------------------------------ commits

  /// The eviction's budgets in rows, which follow from the tokens of the prompt that are no padding.
  void settle_budget(Layer& l, std::size_t layer) const {
    const std::size_t tokens = l.prompt_tokens - std::min<std::size_t>(l.prompt_tokens, l.start());
    for (std::size_t unit = 0; unit < l.budgets.size(); ++unit) {
      const Budget* const budget = detail::budget_of<P>(options_, site(layer, unit));
      if (budget == nullptr) { continue; }
      l.budgets[unit] = budget->resolve(tokens, shape_.layers * shape_.kv_heads, [this](std::size_t) { return most_.live; });
    }
  }
  [[nodiscard]] detail::Changes<P> changes() noexcept { return {shape_, options_, memory_, layers_, workspace_, scratch_, reserved_}; }

  Shape shape_;
  Options options_;
  Memory memory_;
  detail::OwnNumbers<P> numbers_;  // what shape_ and options_ point to
  MostRows most_;                  // that a budget in bytes allows
  Vector<Shared<Layer>> layers_;
  Workspace workspace_;
  detail::CommitScratch<P> scratch_;
  Vector<float> row_;  // one key, one value
  std::size_t reserved_ = 0;
};

}  // namespace kvcompress
