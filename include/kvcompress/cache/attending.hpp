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
    if (queries.tokens() == 1 && shares_rows(store)) {
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
  std::optional<detail::Seen<P>> before;
  if (detail::may_see_queries<P> && log_sum_exp != nullptr) { before.emplace(writable(store), scratch_); }
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    detail::make_room_to_observe<P>(site(store, head), options_, writable(store), queries.tokens(), how, false, workspace_);
  }
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    workspace_.positions.assign(positions.begin(), positions.end());
    if (l.open > 0) { note_queries(store, head, how, workspace_); }
    if (detail::sees_queries<P>(options_, site(store, head), l.in_prompt)) {
      if constexpr (detail::may_see_queries<P>) {
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
    if (l.in_prompt && store == layer) {
      detail::show_queries<P>(shape, options_, writable(store).lanes[head], queries, head, l.next, workspace_);
    }
    const std::size_t window = store == layer ? detail::query_window<P>(options_, site(store, head)) : 0;
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
  if (how.query_position != no_position) {
    check_query_position(layer, queries.tokens(), how.query_position);
  } else {
    const std::size_t open = at(layer).open;
    require(open > 0, ErrorCode::phase, "attend(layer = ", layer, ") before append: no rows since the last commit");
    require(queries.tokens() <= open, ErrorCode::phase, "attend: queries.tokens() is ", queries.tokens(), ", must be at most the ", open,
            " rows since the last commit");
    const RowTable& rows = at(layer).tables.front();
    detail::check_until("attend", how, queries.tokens(), at(layer).open, at(layer).next,
                        [&](std::size_t t) { return rows.position(rows.rows() - queries.tokens() + t); });
  }
  detail::check_output(shape, out, queries.tokens());
  check_alibi("attend", layer, how);
  return how;
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
void KVCache<P>::check_query_position(std::size_t layer, std::size_t tokens, Position position) const {
  const Layer& l = at(layer);
  require(position >= l.next && position <= no_position - tokens, ErrorCode::position, "attend: query_position is ", position,
          ", must be at least ", l.next, ", the position after the newest row, and at most ", no_position - tokens);
  const std::size_t store = shape_.store(layer);
  for (std::size_t head = 0; head < l.lanes.size(); ++head) {
    require(!detail::sees_queries<P>(options_, site(store, head), l.in_prompt), ErrorCode::option, "attend: query_position is ", position,
            ", must be the default: the policy observes every query, and this cache has a part of its softmax");
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
        const std::size_t row = l.table(head).rows() - queries.tokens() + t;
        detail::record<P>(shape, options_, writable(layer), head, ws.positions[t], row, h, probabilities);
      }
    });
  }
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
  if (!detail::may_note_queries<P> || options.query_position != no_position || !options.among_open.empty()) { return; }
  const Shape& shape = shape_.of(layer);
  const bool reads_others = !shape_.owns(layer);  // of its queries nothing is kept: they may be many times those of the owner
  layer = shape_.store(layer);
  for (std::size_t head = heads.first; head < heads.last; ++head) {
    if (!at(layer).lanes[head].notes_queries()) { continue; }
    detail::place_queries(at(layer).table(head), queries.tokens(), ws);
    note_queries(layer, head, options, ws);
    if (reads_others) { continue; }
    if (at(layer).in_prompt) { detail::show_queries<P>(shape, options_, writable(layer).lanes[head], queries, head, at(layer).next, ws); }
    const std::size_t window = detail::query_window<P>(options_, site(layer, head));
    if (window == 0) { continue; }
    Lane& lane = writable(layer).lanes[head];
    detail::remember<P>(shape, window, detail::revocable_queries<P>(options_, at(layer)), lane, queries, head, options, ws);
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
    l.lanes[head].shown.add(ws.positions.front(), options.start, l.prompt_tokens == 0);
  }
}

}  // namespace kvcompress
