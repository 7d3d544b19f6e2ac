// include/kvcompress/cache/attending.hpp - how KVCache attends, and what the policy sees of it.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

template <class P>
void KVCache<P>::attend(std::size_t layer, const Rows& queries, const Output& out, Workspace& ws, const AttendOptions& options,
                        HeadRange heads) {
  if (heads.last == HeadRange{}.last) { heads.last = heads_of("attend", layer); }
  const AttendOptions how = check_attend(layer, queries, out, options, heads, ws);
  const std::size_t store = shape_.store(layer);
  ws.serve(store);
  make_room_to_attend(store, queries.tokens(), how, heads, ws);
  attend_heads(store, queries, out, ws, how, heads);
  remember(layer, queries, how, heads, ws);
}

template <class P>
template <class Executor>
void KVCache<P>::attend(std::size_t layer, const Rows& queries, const Output& out, std::span<Workspace> workspaces, Executor&& executor,
                        const AttendOptions& options) {
  require(!workspaces.empty(), ErrorCode::input, "attend: workspaces is empty, must have one per worker");
  if constexpr (requires { executor.operator bool(); }) {
    require(static_cast<bool>(executor), ErrorCode::input, "attend: executor is empty, must be a function");
  }
  const HeadRange all{0, heads_of("attend", layer)};
  const AttendOptions how = check_attend(layer, queries, out, options, all, workspaces.front());
  for (const Workspace& ws : workspaces) { ws.check("attend", shape_, workspace_); }
  const std::size_t store = shape_.store(layer);
  for (Workspace& ws : workspaces) { ws.serve(store); }
  if constexpr (!detail::must_retrieve<P> && !detail::must_see_queries<P> && !must_prepare) {
    if (queries.tokens() == 1 && how.record != Record::kept && how.plan == nullptr && shares_rows(store)) {
      make_room_to_attend(store, 1, how, all, workspaces.front());
      detail::share_rows<P>(shape_.of(store), at(store), queries, out, workspaces, executor, how);
      return remember(layer, queries, how, all, workspaces.front());
    }
  }
  for (Workspace& ws : workspaces) { make_room_to_attend(store, queries.tokens(), how, all, ws); }
  detail::run_tasks(executor, all.last, workspaces.size(), [&](std::size_t head, std::size_t worker) {
    attend_heads(store, queries, out, workspaces[worker], how, {head, head + 1});
  });
  remember(layer, queries, how, all, workspaces.front());
}

template <class P>
void KVCache<P>::observe(std::size_t layer, const Rows& queries, std::span<const Position> positions, const AttendOptions& options,
                         const float* log_sum_exp) {
  detail::check_layer(shape_, "observe", layer);
  const Shape& shape = shape_.of(layer);
  const AttendOptions how = within_window(layer, detail::checked("observe", options));
  detail::check_beside(shape, "observe", queries.tokens(), how);
  check_alibi("observe", layer, how);
  check_record("observe", layer, how);
  detail::check_queries(shape, queries, 0, shape.kv_heads, how.scale, row_.data());
  const bool elsewhere = log_sum_exp != nullptr || !how.partials.empty();  // other caches have rows of theirs, or the queries' own
  if (elsewhere && at(layer).open == 0) { static_cast<void>(changes().own(shape_.store(layer))); }
  const Layer& l = at(layer);
  require(l.open > 0 || (elsewhere && l.next > 0), ErrorCode::phase, "observe(layer = ", layer,
          ") before append: no rows since the last commit");
  require(!l.branches && how.among_open.empty(), ErrorCode::option,
          "observe: the open rows are a tree of drafts, or among_open is given: "
          "only attend has such masks");
  detail::check_positions(positions, queries.tokens(), elsewhere ? no_position : l.next);
  for (const RowTable& table : l.tables) {
    require(positions.back() < l.next || !table.renumbers(), ErrorCode::option, "observe: positions[", positions.size() - 1, "] is ",
            positions.back(), ", must be less than ", l.next, ": the policy renumbers rows, and does not know where a later query stands");
  }
  detail::check_until("observe", how, queries.tokens(), l.open, l.next, [&](std::size_t t) { return positions[t]; });
  detail::check_log_sum_exp(shape, queries.tokens(), log_sum_exp);
  const std::size_t store = shape_.store(layer);
  workspace_.serve(store);
  if (how.record == Record::none) { return; }
  std::optional<detail::Seen<P>> before;
  if (detail::may_see_kept<P> && log_sum_exp != nullptr) { before.emplace(writable(store), scratch_); }
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    detail::make_room_to_observe<P>(site(store, head), options_, writable(store), queries.tokens(), how, false, workspace_);
  }
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    workspace_.positions.assign(positions.begin(), positions.end());
    if (l.open > 0) { note_queries(store, head, how, workspace_); }
    if (detail::shows<P>(options_, site(store, head), l.in_prompt, how.record)) {
      if constexpr (detail::may_see_kept<P>) {
        const TooLikely wrong =
            detail::see<P>(shape, options_, writable(store), head, false, nullptr, detail::query_loader(shape, queries, head, workspace_),
                           how, log_sum_exp != nullptr ? log_sum_exp + head * shape.group() : nullptr, workspace_);
        if (wrong.found) {
          before->put_back();
          fail(ErrorCode::input, "observe: log_sum_exp is ", wrong.log_sum_exp, " at token ", wrong.token, ", head ",
               head * shape.group() + wrong.head, ", must be at least the query's largest logit, ", wrong.logit);
        }
      }
    }
    if ((l.in_prompt || how.record == Record::kept) && store == layer) {
      detail::show_queries<P>(shape, options_, writable(store).lanes[head], queries, head, l.next, how.record, workspace_);
    }
    const std::size_t window = store == layer && how.record == Record::usual ? detail::query_window<P>(options_, site(store, head)) : 0;
    if (window > 0 && l.open > 0) {
      detail::remember<P>(shape, window, detail::revocable_queries<P>(options_, l), writable(store).lanes[head], queries, head, how,
                          workspace_);
    }
  }
  if (before) { before->keep(); }
}

template <class P>
AttendOptions KVCache<P>::check_attend(std::size_t layer, const Rows& queries, const Output& out, const AttendOptions& options,
                                       HeadRange heads, Workspace& ws) const {
  detail::check_layer(shape_, "attend", layer);
  const Shape& shape = shape_.of(layer);
  const AttendOptions how = within_window(layer, detail::checked("attend", options));
  detail::check_beside(shape, "attend", queries.tokens(), how);
  ws.check("attend", shape_, workspace_);
  detail::check_queries(shape, queries, heads.first, heads.last, how.scale, Workspace::ensure(ws.queries, shape.key_width()));
  detail::check_masks("attend", how, at(layer).open, at(layer).in_prompt, at(layer).branches);
  check_place("attend", layer, queries.tokens(), how);
  if (how.query_position == no_position) {
    const RowTable& rows = at(layer).tables.front();
    detail::check_until("attend", how, queries.tokens(), at(layer).open, at(layer).next,
                        [&](std::size_t t) { return rows.position(rows.rows() - queries.tokens() + t); });
  }
  detail::check_output(shape, out, queries.tokens());
  check_alibi("attend", layer, how);
  check_record("attend", layer, how);
  return how;
}

template <class P>
void KVCache<P>::check_place(const char* verb, std::size_t layer, std::size_t tokens, const AttendOptions& options) const {
  if (options.query_position != no_position) { return check_query_position(verb, layer, tokens, options); }
  const std::size_t open = at(layer).open;
  require(open > 0, ErrorCode::phase, verb, "(layer = ", layer, ") before append: no rows since the last commit");
  require(tokens <= open, ErrorCode::phase, verb, ": queries.tokens() is ", tokens, ", must be at most the ", open,
          " rows since the last commit");
}

template <class P>
AttendOptions KVCache<P>::within_window(std::size_t layer, AttendOptions options) const noexcept {
  const std::size_t window = shape_.of(layer).window;
  if (window > 0) { options.window = options.window == 0 ? window : std::min(window, options.window); }
  return options;
}

template <class P>
void KVCache<P>::check_alibi(const char* verb, std::size_t layer, const AttendOptions& options) const {
  if (options.alibi_slopes.empty()) { return; }
  detail::check_slopes(shape_.of(layer), verb, options.alibi_slopes);
  const std::size_t store = shape_.store(layer);
  for (std::size_t head = 0; head < shape_.of(layer).kv_heads; ++head) {
    const std::string_view why = detail::why_no_alibi<P>(options_, site(store, head));
    require(why.empty(), ErrorCode::option, verb, ": alibi_slopes has ", options.alibi_slopes.size(), " numbers, must be empty: ", why);
  }
}

template <class P>
void KVCache<P>::check_record(const char* verb, std::size_t layer, const AttendOptions& options) const {
  const std::size_t store = shape_.store(layer);
  const Layer& l = at(layer);
  if (options.plan != nullptr) {
    const Plan& plan = *options.plan;
    require(plan.layer() == store && plan.kv_heads() == l.lanes.size(), ErrorCode::input, verb, ": plan is for layer ", plan.layer(),
            " with ", plan.kv_heads(), " KV heads, must be for layer ", store, " with ", l.lanes.size());
    const std::uint64_t epoch = marks_[store].epoch(l.moves);
    require(plan.epoch() == epoch, ErrorCode::phase, verb, ": plan.epoch() is ", plan.epoch(), ", must be ", epoch,
            ": rows of the layer have moved since it was made, or it is another cache's");
  }
  for (std::size_t head = 0; detail::may_see_kept<P> && head < l.lanes.size(); ++head) {
    const Lane& lane = l.lanes[head];
    const Observes observes = detail::needs<P>(lane.state).observes;
    if (observes == Observes::nothing) { continue; }
    require(options.record != Record::kept || !chooses(store, head) || (options.plan != nullptr && !prepares(lane)), ErrorCode::option,
            verb, ": record is kept, must be usual or none: the queries read only the rows that ",
            detail::retrieval_name<P>(options_, site(store, head)), " chooses, and ", detail::eviction_name<P>(options_, site(store, head)),
            " observes all");
    require(options.record != Record::usual || options.plan == nullptr || observes == Observes::kept_queries, ErrorCode::option, verb,
            ": record is usual, must be kept or none with a plan: ", detail::eviction_name<P>(options_, site(store, head)),
            " observes attention over all rows");
  }
}

template <class P>
void KVCache<P>::check_query_position(const char* verb, std::size_t layer, std::size_t tokens, const AttendOptions& options) const {
  const Layer& l = at(layer);
  const Position position = options.query_position;
  require(position >= l.next && position <= no_position - tokens, ErrorCode::position, verb, ": query_position is ", position,
          ", must be at least ", l.next, ", the position after the newest row, and at most ", no_position - tokens);
  const std::size_t store = shape_.store(layer);
  for (std::size_t head = 0; head < l.lanes.size(); ++head) {
    require(!detail::shows<P>(options_, site(store, head), l.in_prompt, options.record), ErrorCode::option, verb, ": query_position is ",
            position, ", must be the default: the policy observes every query, and this cache has a part of its softmax");
  }
}

template <class P>
void KVCache<P>::attend_heads(std::size_t layer, const Rows& queries, const Output& out, Workspace& ws, const AttendOptions& options,
                              HeadRange heads) {
  const Layer& l = at(layer);
  const Shape& shape = shape_.of(layer);
  for (std::size_t head = heads.first; head < heads.last; ++head) {
    detail::place_queries(l.table(head), queries.tokens(), ws, options);
    const Lane& lane = l.lanes[head];
    const LaneAttention attention(shape, lane.keys, &lane.value_store(), l.table(head), options, {head * shape.group()}, l.open);
    const auto load = detail::query_loader(shape, queries, head, ws);
    const auto store = detail::output_storer(shape, head, out, options);
    const auto see = [&](std::size_t t, std::size_t h, std::span<const float> probabilities, const float* /*output*/) {
      if constexpr (detail::may_see_kept<P>) {
        const std::size_t row = l.table(head).rows() - queries.tokens() + t;
        detail::record<P>(shape, options_, writable(layer), head, ws.positions[t], row, h, probabilities, options.record);
      }
    };
    const bool sees = detail::shows<P>(options_, site(layer, head), l.in_prompt, options.record);
    if (options.plan != nullptr) {
      const auto read_plan = detail::plan_reader<P>(writable(layer), head, options.plan, ws);
      attention.run(ws.positions, ws.limits, false, ws, sees, load, store, see, {read_plan, false});
      continue;
    }
    if constexpr (detail::may_retrieve<P>) {
      if (chooses(layer, head)) {
        const bool all = Retrieval::reads_all(options_.retrieval, site(layer, head));
        const auto choose = [&](const float* group, std::size_t stride, std::int64_t shift, const Visible& visible, std::size_t rows) {
          const std::span<const RowRange> ranges =
              detail::choose<P>(shape, options_, writable(layer), head, all, options.record == Record::usual && options.among_open.empty(),
                                group, stride, shift, visible, options.soft_cap, rows, ws);
          writable(layer).lanes[head].prepare(ranges, l.table(head), ws.turning(), ws.chosen);
          return ranges;
        };
        attention.run(ws.positions, ws.limits, false, ws, false, load, store, see, {choose});
        continue;
      }
    }
    attention.run(ws.positions, ws.limits, false, ws, sees, load, store, see);
  }
}

template <class P>
Plan KVCache<P>::plan(std::size_t layer) {
  detail::check_layer(shape_, "plan", layer);
  const std::size_t store = shape_.store(layer);
  const Layer& l = at(layer);
  std::vector<std::size_t> rows(l.lanes.size());
  for (std::size_t head = 0; head < rows.size(); ++head) { rows[head] = l.table(head).rows(); }
  Plan empty(marks_[store].epoch(l.moves), store, std::move(rows));
  marks_[store].end = std::max(marks_[store].end, l.next);
  return empty;
}

template <class P>
void KVCache<P>::select(std::size_t layer, const Rows& queries, Plan& plan, const AttendOptions& options) {
  detail::check_layer(shape_, "select", layer);
  const Shape& shape = shape_.of(layer);
  const AttendOptions how = within_window(layer, detail::checked("select", options));
  detail::check_queries(shape, queries, 0, shape.kv_heads, how.scale, row_.data());
  require(queries.tokens() == 1, ErrorCode::shape, "select: queries.tokens() is ", queries.tokens(), ", must be 1");
  require(!at(layer).branches && how.among_open.empty() && how.until.empty(), ErrorCode::option,
          "select: the open rows are a tree of drafts, or among_open or until is given: only attend has such masks");
  check_place("select", layer, 1, how);
  Plan made = this->plan(layer);
  Workspace& ws = workspace_;
  const std::size_t store = shape_.store(layer);
  ws.serve(store);
  for (std::size_t head = 0; head < made.kv_heads(); ++head) {
    if constexpr (detail::may_retrieve<P>) {
      const Layer& l = at(layer);
      if (l.prompt_tokens > 0 && detail::retrieves<P>(l.lanes[head].index)) {
        detail::place_queries(l.table(head), 1, ws, how);
        const auto choose = [&](const float* group, std::size_t stride, std::int64_t shift, const Visible& visible, std::size_t rows) {
          return detail::choose<P>(shape, options_, writable(store), head, false, false, group, stride, shift, visible, how.soft_cap, rows,
                                   ws);
        };
        const LaneAttention attention(shape, l.lanes[head].keys, &l.lanes[head].value_store(), l.table(head), how, {head * shape.group()});
        for (const RowRange& range :
             attention.choose(ws.positions, ws.limits, ws, detail::query_loader(shape, queries, head, ws), {choose})) {
          made.read(head, range);
        }
        continue;
      }
    }
    made.read(head, {0, made.rows(head)});
  }
  plan = std::move(made);
}

template <class P>
bool KVCache<P>::shares_rows(std::size_t layer) const noexcept {
  const auto& lanes = at(layer).lanes;
  return std::none_of(lanes.begin(), lanes.end(), [&](const Lane& lane) {
    const Observes observes = detail::needs<P>(lane.state).observes;
    return prepares(lane) || detail::retrieves<P>(lane.index) || observes == Observes::every_query || observes == Observes::last_queries;
  });
}

template <class P>
void KVCache<P>::make_room_to_attend(std::size_t layer, std::size_t tokens, const AttendOptions& options, HeadRange heads, Workspace& ws) {
  for (std::size_t head = heads.first; head < heads.last; ++head) {
    detail::make_room_to_observe<P>(site(layer, head), options_, writable(layer), tokens, options, true, ws);
  }
}

template <class P>
void KVCache<P>::remember(std::size_t layer, const Rows& queries, const AttendOptions& options, HeadRange heads, Workspace& ws) noexcept {
  if (!detail::may_note_queries<P> || options.record == Record::none) { return; }
  if (options.query_position != no_position || !options.among_open.empty()) { return; }
  const Shape& shape = shape_.of(layer);
  const bool reads_others = !shape_.owns(layer);  // of its queries nothing is kept: they may be many times those of the owner
  layer = shape_.store(layer);
  for (std::size_t head = heads.first; head < heads.last; ++head) {
    if (!at(layer).lanes[head].notes_queries()) { continue; }
    detail::place_queries(at(layer).table(head), queries.tokens(), ws);
    note_queries(layer, head, options, ws);
    if (reads_others) { continue; }
    if (options.record == Record::kept || at(layer).in_prompt) {
      detail::show_queries<P>(shape, options_, writable(layer).lanes[head], queries, head, at(layer).next, options.record, ws);
    }
    const std::size_t window = detail::query_window<P>(options_, site(layer, head));
    if (window == 0) { continue; }
    Lane& lane = writable(layer).lanes[head];
    if (options.record == Record::usual) {
      detail::remember<P>(shape, window, detail::revocable_queries<P>(options_, at(layer)), lane, queries, head, options, ws);
    }
    if constexpr (detail::may_retrieve<P>) {  // what it fetched decides what it keeps
      if (chooses(layer, head) && Retrieval::wants_last_query(options_.retrieval, site(layer, head))) {
        lane.observed_end = at(layer).next;
      }
    }
  }
}

template <class P>
void KVCache<P>::note_queries(std::size_t layer, std::size_t head, const AttendOptions& options, const Workspace& ws) noexcept {
  if constexpr (detail::may_note_queries<P>) {
    if (!at(layer).lanes[head].notes_queries()) { return; }
    Layer& l = writable(layer);
    if (options.record == Record::kept) { return l.lanes[head].shown.keep(options.start, l.prompt_tokens == 0); }
    l.lanes[head].shown.add(ws.positions.front(), options.start, l.prompt_tokens == 0);
  }
}

}  // namespace kvcompress
