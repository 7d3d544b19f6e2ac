// include/kvcompress/cache/observe.hpp - how queries reach an eviction that observes attention.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "kvcompress/attention/attend.hpp"
#include "kvcompress/cache/layer.hpp"
#include "kvcompress/cache/needs.hpp"
#include "kvcompress/cache/queries.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// How many of the last queries of a prompt the policy wants to see at its end, in the lane at `site`.
template <class P>
std::size_t query_window(const PolicyOptions<P>& options, const Site& site) {
  return std::max<std::size_t>(Axes<P>::Retrieval::wants_last_query(options.retrieval, site) ? 1 : 0, window_of<P>(options, site));
}

/// How many queries beyond a window are kept, since so many may be taken back.
template <class P>
std::size_t revocable_queries(const PolicyOptions<P>& options, const Layer<P>& layer) noexcept {
  return layer.in_prompt ? 0 : options.speculation;
}

/// Keeps queries that may turn out to be the last of a prompt.
template <class P>
void remember(const Shape& shape, std::size_t window, std::size_t revocable, Lane<P>& lane, const Rows& queries, std::size_t head,
              const AttendOptions& attended, Workspace& ws) {
  const auto load = query_loader(shape, queries, head, ws);
  const std::size_t group = shape.group();
  lane.last.remember(
      ws.positions, attended, window, revocable, group, shape.key_width(),
      [&](std::size_t token, float* to) {
    for (std::size_t h = 0; h < group; ++h) { load(token, h, to + h * shape.key_width()); }
      },
      [&](std::size_t token, std::size_t h) {  // the log of what its softmax counted beside the rows
    const std::size_t query_head = head * group + h;
    float mass = attended.sinks.empty() ? kernels::minus_infinity : attended.sinks[query_head];
    for (const Partial& partial : attended.partials) {
      mass = kernels::log_sum(mass, partial.log_sum_exp[token * shape.query_heads + query_head]);
    }
    return mass;
  });
}

/// Shows the queries of a prompt to an eviction that wants them, before their rotary embedding.
template <class P>
void show_queries([[maybe_unused]] const Shape& shape, [[maybe_unused]] const PolicyOptions<P>& options, Lane<P>& lane,
                  [[maybe_unused]] const Rows& queries, [[maybe_unused]] std::size_t head, [[maybe_unused]] Position next,
                  [[maybe_unused]] Workspace& ws) noexcept {
  if constexpr (may<P>.queries) {
    if (!needs<P>(lane.state).queries) { return; }
    for (std::size_t t = 0; t < queries.tokens(); ++t) {
      for (std::size_t h = 0; h < shape.group(); ++h) {
        queries.load(t, head * shape.group() + h, ws.queries.data());
        if (shape.keys == KeyForm::rotated) {
          ws.turning().turn_by(-std::int64_t{ws.positions[t]});
          ws.turning().apply(ws.queries.data());
        }
        Axes<P>::Eviction::observe_query(options.eviction, lane.state, h, ws.queries.data());
      }
    }
    lane.observed_end = next;
  }
}

/// How many of the observations of `tokens` queries more will be kept back, `pending` are already.
template <class P>
std::size_t revocable(const Shape& shape, const PolicyOptions<P>& options, const Layer<P>& layer, std::size_t pending,
                      std::size_t tokens) noexcept {
  const std::size_t most = layer.in_prompt ? 0 : options.speculation * layer.readers * shape.group();
  return std::min(most - std::min(most, pending), tokens * shape.group());
}

/// One query's probabilities, for an eviction that observes every query. `row` is its own.
template <class P>
void record(const Shape& shape, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t head, Position position, std::size_t row,
            std::size_t h, std::span<const float> probabilities) {
  const std::size_t revocable = layer.in_prompt ? 0 : options.speculation * layer.readers * shape.group();
  layer.lanes[head].record(options.eviction, revocable, position, row, h, probabilities);
}

/// Afterwards `tokens` queries of a head are attended (or only observed) without taking memory, unless rows must be chosen and fetched.
template <class P>
void make_room_to_observe(const Site& site, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t tokens,
                          const AttendOptions& attended, bool outputs, Workspace& ws) {
  const Shape& shape = site.shape;
  Lane<P>& lane = layer.lanes[site.kv_head];
  const RowTable& table = layer.table(site.kv_head);
  const std::size_t window = query_window<P>(options, site);
  ws.positions.reserve(tokens);
  ws.limits.reserve(tokens);
  if constexpr (may_see_queries<P>) {
    if (sees_queries<P>(options, site, layer.in_prompt)) {
      const auto* values = &lane.value_store();
      LaneAttention(shape, lane.keys, outputs ? values : nullptr, table, attended).make_room(tokens, true, ws);
      lane.pending.make_room(revocable<P>(shape, options, layer, lane.pending.size(), tokens), table.rows());
    }
  }
  if constexpr (may<P>.queries) {
    if (layer.in_prompt && needs<P>(lane.state).queries) {
      Axes<P>::Eviction::make_room_for_queries(options.eviction, lane.state, shape);
      Workspace::ensure(ws.queries, shape.key_width());
    }
  }
  if (window > 0) {
    lane.last.make_room(tokens, window + revocable_queries<P>(options, layer), shape.group(), shape.key_width(), attended);
  }
}

/// The rows before the one returned are no newer than `newest`, of the first `limit` ones, of which those that are newer lie at the end.
inline std::size_t limit_at(const RowTable& table, std::size_t limit, Position newest) noexcept {
  if (table.positions().empty()) { return std::min<std::size_t>(limit, std::size_t{newest} + 1); }
  while (limit > 0 && table.position(limit - 1) > newest) { --limit; }
  return limit;
}

/// Computes the probabilities of the queries at ws.positions over the lane's rows, without outputs, and shows them to the eviction.
/// `log_sum_exp` (or null): known from elsewhere, (tokens, query heads), the lane's first one at the front; says which one cannot be.
template <class P>
TooLikely see(const Shape& shape, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t head, bool last_of_prompt,
              const float* masses, auto&& load, const AttendOptions& attended, const float* log_sum_exp, Workspace& ws) {
  using Eviction = typename Lane<P>::Eviction;
  Lane<P>& lane = layer.lanes[head];
  const RowTable& table = layer.table(head);
  ws.limits.resize(ws.positions.size());
  std::size_t limit = table.rows();  // open rows lie at the end in order: the query's own row is the last one that it may see
  for (std::size_t t = ws.positions.size(); t-- > 0;) {
    ws.limits[t] = limit = limit_at(table, limit, ws.positions[t]);
    if (!attended.until.empty()) { ws.limits[t] = limit_at(table, table.rows(), attended.until[t] - 1); }
  }
  const Beside beside{head * shape.group(), masses};
  const LaneAttention<typename Lane<P>::Keys, typename Lane<P>::Values> attention(shape, lane.keys, nullptr, table, attended, beside);
  const auto show = [&](std::size_t t, std::size_t h, std::span<const float> probabilities) {
    if (last_of_prompt) {
      Eviction::observe(options.eviction, lane.state, h, probabilities);
    } else {
      const std::size_t own = limit_at(table, ws.limits[t], ws.positions[t]);
      record<P>(shape, options, layer, head, ws.positions[t], own - std::min<std::size_t>(own, 1), h, probabilities);
    }
  };
  if (log_sum_exp != nullptr) {
    // An engine's logits differ from the cache's by their rounding, and by all that codes lose.
    const std::pair<float, float> slack = lane.settled() == 0 ? std::pair(0.05F, 0.01F) : std::pair(3.0F, 0.5F);
    return attention.run_known(ws.positions, ws.limits, log_sum_exp, shape.query_heads, slack, ws, load, show);
  }
  attention.run(
      ws.positions, ws.limits, true, ws, true, load, [](auto&&...) {}, show);
  return {};
}

/// What an eviction has seen in the lanes of a layer, to be put back if a call fails half-way.
template <class P>
class Seen {
 public:
  Seen(Layer<P>& layer, CommitScratch<P>& scratch) : layer_(layer), before_(scratch.before), fresh_(scratch.before.empty()) {
    before_.reserve(layer.lanes.size());
    for (std::size_t head = 0; head < layer.lanes.size(); ++head) {
      const Lane<P>& lane = layer.lanes[head];
      if (head == before_.size()) { before_.push_back({lane.state, lane.pending, lane.observed_end}); }
      before_[head].pending = lane.pending;
      before_[head].observed_end = lane.observed_end;
      assign(before_[head].state, lane.state);
    }
  }
  Seen(const Seen&) = delete;
  Seen& operator=(const Seen&) = delete;
  ~Seen() {
    if (!kept_) { put_back(); }
  }
  void keep() noexcept { kept_ = true; }
  void put_back() noexcept {
    for (std::size_t head = 0; head < layer_.lanes.size(); ++head) {
      Lane<P>& lane = layer_.lanes[head];
      assign(lane.state, before_[head].state);  // as many numbers as before: their memory stays, and so does its spare part
      lane.pending = before_[head].pending;
      lane.observed_end = before_[head].observed_end;
    }
    if (fresh_) { Vector<SeenByLane<P>>(before_.get_allocator()).swap(before_); }
    kept_ = true;
  }

 private:
  using State = typename Lane<P>::State;
  static void assign(State& to, const State& from) {
    if constexpr (std::is_copy_assignable_v<State>) {
      to = from;
    } else {
      to = State(from);
    }
  }

  Layer<P>& layer_;
  Vector<SeenByLane<P>>& before_;
  bool fresh_;
  bool kept_ = false;
};

/// The same for the last queries of a prompt that has ended.
template <class P>
void see_last(const Site& site, const PolicyOptions<P>& options, Layer<P>& layer, Workspace& ws) {
  const Shape& shape = site.shape;
  const std::size_t head = site.kv_head;
  const std::size_t window = window_of<P>(options, site);
  if (window == 0) { return; }
  const LastQueries& last = layer.lanes[head].last;
  const std::size_t count = std::min(last.positions().size(), window);
  const std::size_t skipped = last.positions().size() - count;
  ws.positions.assign(last.positions().begin() + static_cast<std::ptrdiff_t>(skipped), last.positions().end());
  Lane<P>::Eviction::start(options.eviction, layer.lanes[head].state);
  AttendOptions attended = last.options();
  attended.until = last.until(skipped);
  static_cast<void>(see<P>(
      shape, options, layer, head, true, last.masses(skipped, shape.group()),
      [&](std::size_t token, std::size_t h, float* row) {
    std::copy_n(last.query(skipped + token, shape.group() * shape.key_width()) + h * shape.key_width(), shape.key_width(), row);
      },
      attended, nullptr, ws));
}

/// The ranges of the rows [0, rows) that one token's queries read: those that the retrieval chooses and, from the first one that they see,
/// all that are not indexed. Fetches what must be fetched, which may fail.
template <class P>
std::span<const RowRange> choose(const Shape& model, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t number, std::size_t head,
                                 const float* queries, std::size_t stride, std::int64_t shift, const Visible& visible, float soft_cap,
                                 std::size_t rows, Workspace& ws) {
  using Retrieval = typename Lane<P>::Retrieval;
  Lane<P>& lane = layer.lanes[head];
  const RowTable& table = layer.table(head);
  const Shape& shape = model.of(number);
  const bool all = Retrieval::reads_all(options.retrieval, Site{number, head, model});
  const std::size_t indexed = all ? 0 : std::min(lane.index.indexed(), rows);
  ws.ranges.clear();
  if (!all) {
    Retrieval::select(
        options.retrieval, lane.index,
        {table, queries, stride, shape.group(), shape.key_width(), shift, ws.turning(), ws.chosen, ws.order, visible, soft_cap}, ws.ranges);
  }
  constexpr std::size_t step = 16;  // rows that are read fastest together
  const std::size_t seen = visible.all() ? indexed : std::max(indexed, visible.first_seen(table, indexed, rows) / step * step);
  if (!ws.ranges.empty() && ws.ranges.back().last == seen) {
    ws.ranges.back().last = rows;
  } else {
    ws.ranges.push_back({seen, rows});
  }
  const std::span<const RowRange> ranges(ws.ranges.data(), ws.ranges.size());
  lane.prepare(ranges, table, ws.turning(), ws.chosen);
  return ranges;
}

/// What the last query of a prompt would read, for retrievals that start from there.
template <class P>
void choose_first(const Shape& model, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t number, Workspace& ws) {
  const Shape& shape = model.of(number);
  const std::size_t stride = kernels::padded(shape.key_width());
  for (std::size_t head = 0; head < layer.lanes.size(); ++head) {
    if (!Lane<P>::Retrieval::wants_last_query(options.retrieval, Site{number, head, model})) { continue; }
    Lane<P>& lane = layer.lanes[head];
    const float scale =
        lane.last.options().scale != 0.0F ? lane.last.options().scale : 1.0F / math::sqrt(static_cast<float>(shape.key_width()));
    const float* from = lane.last.query(lane.last.positions().size() - 1, shape.group() * shape.key_width());
    Workspace::ensure(ws.queries, shape.group() * stride);
    std::fill_n(ws.queries.begin(), shape.group() * stride, 0.0F);
    for (std::size_t h = 0; h < shape.group(); ++h) {
      for (std::size_t c = 0; c < shape.key_width(); ++c) { ws.queries[h * stride + c] = scale * from[h * shape.key_width() + c]; }
    }
    ws.ranges.clear();
    const AttendOptions& attended = lane.last.options();
    const Position at = lane.last.positions().back();
    const Retrieving retrieving{layer.table(head),
                                ws.queries.data(),
                                stride,
                                shape.group(),
                                shape.key_width(),
                                0,
                                ws.rotation_of(number),
                                ws.chosen,
                                ws.order,
                                {attended.start, attended.window, at, at},
                                attended.soft_cap};
    Lane<P>::Retrieval::select(options.retrieval, lane.index, retrieving, ws.ranges);
    lane.index.remember_first(ws.ranges);
  }
}

}  // namespace kvcompress::detail
