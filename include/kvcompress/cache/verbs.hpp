// include/kvcompress/cache/verbs.hpp - what KVCache does to its rows: making, phases, forgetting, moving, reports.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/cache.hpp"
#include "kvcompress/cache/prompts_together.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

template <class P>
KVCache<P>::KVCache(const Shape& shape, const Options& options, const Memory& memory)
    : shape_(checked(shape, options)), options_(options), memory_((memory.validate(), memory)), numbers_(shape_, options_, memory),
      most_(detail::rows_within_budget<P>(shape_, options_, numbers_.bytes())), layers_(Allocator<Shared<Layer>>(memory)),
      marks_(shape.layers, Allocator<detail::PlanMark>(memory)), workspace_(shape_, memory), scratch_(memory),
      row_(Allocator<float>(memory)) {
  layers_.reserve(shape.layers);
  for (std::size_t l = 0; l < shape.layers; ++l) { layers_.emplace_back(memory, shape_, l, options_, most_, memory_); }
  std::size_t row = 0;
  for (std::size_t l = 0; l < shape_.kinds(); ++l) { row = std::max(row, shape_.of(l).key_width() + shape_.of(l).value_width()); }
  row_.resize(row);
}

template <class P>
KVCache<P>::KVCache(const KVCache& other) : KVCache(other, Sharing{}) {
  for (Shared<Layer>& layer : layers_) { static_cast<void>(layer.write()); }
  detail::unshare<P>(shape_, options_, layers_);
  if (tokens_) { static_cast<void>(tokens_->write()); }
  if (reserved_ > 0) { reserve(reserved_); }
}

template <class P>
KVCache<P>::KVCache(const KVCache& other, Sharing)
    : shape_(other.shape_), options_(other.options_), memory_(other.memory_), numbers_(other.numbers_), most_(other.most_),
      layers_(other.layers_), marks_(other.layers_.size(), other.marks_.get_allocator()), workspace_(other.shape_, other.memory_),
      scratch_(other.memory_), tokens_(other.tokens_), row_(other.row_), reserved_(other.reserved_) {
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

template <class P>
void KVCache<P>::commit(std::size_t layer) {
  detail::check_layer(shape_, "commit", layer);
  require(!at(layer).in_prompt, ErrorCode::phase, "commit(layer = ", layer, ") before end_prompt(layer)");
  if (!ends_steps(layer)) { return; }
  layer = shape_.store(layer);
  check_branches("commit", layer);
  if (at(layer).open > 0) {
    changes().commit_and(layer, 0, 0, [](Layer&) {});
  }
}

template <class P>
void KVCache<P>::begin_prompt(std::size_t layer) {
  detail::check_layer(shape_, "begin_prompt", layer);
  if (!shape_.owns(layer)) { return; }
  require(!at(layer).in_prompt, ErrorCode::phase, "begin_prompt(layer = ", layer, ") while its prompt is open: end_prompt(layer) first");
  check_waits("begin_prompt", layer);
  check_branches("begin_prompt", layer);
  changes().commit_and(layer, 0, 0, [](Layer& l) { l.in_prompt = true; });
}

template <class P>
void KVCache<P>::clear() {
  KVCache empty(shape_, options_, memory_);
  if (reserved_ > 0) { empty.reserve(reserved_); }
  *this = std::move(empty);
}

template <class P>
void KVCache<P>::end_prompt(std::size_t layer) {
  detail::check_layer(shape_, "end_prompt", layer);
  require(at(layer).open > 0, ErrorCode::phase, "end_prompt(layer = ", layer, ") without rows since the last commit");
  if (!ends_steps(layer)) { return; }
  layer = shape_.store(layer);
  check_branches("end_prompt", layer);
  const RowRange group = detail::layers_with<P>(options_, shape_, layer);
  for (std::size_t other = group.first; other < group.last; ++other) {
    if (at(other).waiting) { detail::check_encoding_with(at(layer), at(other), layer, other); }
  }
  for (std::size_t other = 0; at(layer).decides_with_model() && other < shape_.layers; ++other) {
    if (at(other).waiting) {
      detail::check_decision_with(at(layer), at(other), layer, other, detail::eviction_name<P>(options_, site(layer, 0)));
    }
  }
  for (std::size_t head = 0; head < at(layer).lanes.size(); ++head) {
    const Lane& lane = at(layer).lanes[head];
    const bool sees = detail::needs<P>(lane.state).queries || detail::sees_queries<P>(options_, site(layer, head), true);
    require(detail::needs<P>(lane.state).observes != Observes::kept_queries || lane.kept, ErrorCode::phase, "end_prompt(layer = ", layer,
            ") before attend or observe with Record::kept: ", detail::eviction_name<P>(options_, site(layer, head)),
            " needs queries that repeat the prompt, of every KV head");
    require(!sees || !lane.shown.none(), ErrorCode::phase, "end_prompt(layer = ", layer,
            ") before attend or observe: ", detail::eviction_name<P>(options_, site(layer, head)),
            " needs the queries of the prompt, of every KV head");
    const std::size_t described = tokens_ ? tokens_->read().size() : 0;
    require(!detail::needs_tokens<P>(options_, site(layer, head)) || described >= at(layer).next, ErrorCode::phase,
            "end_prompt(layer = ", layer, "): ", described, " tokens are described, must be ", at(layer).next, ", since ",
            detail::eviction_name<P>(options_, site(layer, head)), " needs to know where sentences end: describe them first");
    const bool wants_last = detail::may_retrieve<P> && Retrieval::wants_last_query(options_.retrieval, site(layer, head));
    const bool kept = lane.kept && !wants_last;
    require(detail::query_window<P>(options_, site(layer, head)) == 0 || kept || !lane.last.positions().empty(), ErrorCode::phase,
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

template <class P>
void KVCache<P>::describe(Position first, std::span<const std::uint8_t> kinds, std::span<const Position> boundaries) {
  const std::size_t known = tokens_ ? tokens_->read().size() : 0;
  require(first <= known, ErrorCode::position, "describe: first is ", first, ", must be at most the ", known, " tokens described so far");
  require(kinds.size() < no_position - first, ErrorCode::position, "describe: the last position is ", first + kinds.size() - 1,
          ", must be less than ", no_position);
  for (std::size_t t = 0; t < kinds.size(); ++t) {
    require(kinds[t] <= Tokens::most_kind, ErrorCode::input, "describe: kinds[", t, "] is ", std::size_t{kinds[t]}, ", must be at most ",
            std::size_t{Tokens::most_kind});
  }
  for (std::size_t i = 0; i < boundaries.size(); ++i) {
    require(boundaries[i] >= first && boundaries[i] - first < kinds.size() && (i == 0 || boundaries[i] > boundaries[i - 1]),
            ErrorCode::position, "describe: boundaries[", i, "] is ", boundaries[i], ", must be the position of one of the ", kinds.size(),
            " tokens from ", first, " on, and more than the one before");
  }
  if (tokens_) { return tokens_->write().describe(first, kinds, boundaries); }
  std::optional<Shared<Tokens>> fresh;
  fresh.emplace(memory_, memory_).write_in_place().describe(first, kinds, boundaries);
  tokens_ = std::move(fresh);
}

template <class P>
void KVCache<P>::truncate(Position position) {
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) { detail::check_truncate(at(layer), position, layer, options_.speculation); }
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {  // what may fail comes first
    if (layers_[layer].read().next <= position) { continue; }
    Layer& l = changes().own(layer);
    if (l.branches) { detail::OpenStep<P>{l}.make_room(); }
  }
  if (tokens_) { static_cast<void>(tokens_->write()); }
  Vector<std::size_t> kept{Allocator<std::size_t>(memory_)};  // of a tree of drafts, whose rows are not in order
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    const Layer& l = layers_[layer].read();
    if (l.next > position && l.branches) { kept.reserve(l.open); }
  }
  for (Shared<Layer>& shared : layers_) {
    if (shared.read().next <= position || !shared.read().branches) { continue; }
    kept.clear();
    for (std::size_t row = 0; row < shared.read().open; ++row) {
      if (detail::OpenStep<P>::position(shared.read(), row) < position) { kept.push_back(row); }
    }
    detail::OpenStep<P>{shared.write_in_place()}.keep({kept.data(), kept.size()});
  }
  if (tokens_) { tokens_->write_in_place().truncate(position); }
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    if (layers_[layer].read().next > position) { layers_[layer].write_in_place().truncate(position, shape_.of(layer)); }
  }
  for (detail::PlanMark& mark : marks_) { mark.truncate(position); }
}

template <class P>
void KVCache<P>::remove(Position first, Position last) {
  require(first <= last, ErrorCode::position, "remove: first is ", first, ", must be at most last = ", last);
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    require(at(layer).open == 0, ErrorCode::phase, "remove with ", at(layer).open, " uncommitted rows in layer ", layer, ": commit first");
    const std::size_t first_layer = detail::layers_with<P>(options_, shape_, layer).first;
    require(at(layer).next == at(first_layer).next, ErrorCode::phase, "remove: layer ", layer, " has seen ", at(layer).next,
            " tokens, must have seen as many as layer ", first_layer, ", which is encoded together with it: ", at(first_layer).next);
  }
  Vector<Shared<Layer>> after(layers_);
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    Shared<Layer>& shared = after[layer];
    if (!shared.read().mark(first, last, true, scratch_)) { continue; }
    Layer& l = shared.write();
    for (std::size_t unit = l.tables.size(); unit-- > 0;) { l.evict(unit, l.drops(unit, scratch_), scratch_, true); }
    l.refresh_indices(options_, workspace_.rotation_of(layer), false, scratch_.rows);
  }
  changes().take(after);
}

template <class P>
void KVCache<P>::shift(Position first, Position last, std::int64_t delta) {
  require(first <= last, ErrorCode::position, "shift: first is ", first, ", must be at most last = ", last);
  require(delta >= -std::int64_t{first}, ErrorCode::position, "shift: delta is ", delta, ", must be at least ", -std::int64_t{first});
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    if (shape_.owns(layer)) { check_shift(layer, first, last, delta); }
  }
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    for (RowTable& table : changes().own(layer).tables) { table.prepare_to_shift(); }
  }
  // What comes after the newest row follows it.
  if (tokens_) { tokens_->write().shift(first, last >= at(0).next ? no_position : last, delta); }
  for (Shared<Layer>& layer : layers_) { layer.write_in_place().shift(first, last, delta); }
}

template <class P>
void KVCache<P>::reserve(std::size_t tokens) {
  detail::check_row_count("reserve", tokens);
  const std::size_t rows = std::max(reserved_, tokens);
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) { detail::Changes<P>::reserve(changes().own(layer), rows); }
  reserve_scratch(rows);
  reserved_ = rows;
}

template <class P>
std::size_t KVCache<P>::bytes_for(const Shape& shape, std::size_t tokens, const Options& options) {
  detail::check_row_count("bytes_for", tokens);
  const auto lane = [&](const Site& of) { return detail::lane_bytes<P>(of, options, tokens); };
  const std::size_t bytes = detail::sum_over_lanes<P>(checked(shape, options), lane);
  require(bytes < static_cast<std::size_t>(-1), ErrorCode::shape, "bytes_for: tokens is ", tokens,
          ", must need less than 2^64 bytes: a lane needs ", lane(Site{0, 0, shape}), " and there are ", shape.lanes());
  return bytes;
}

template <class P>
MemoryReport KVCache<P>::memory() const noexcept {
  MemoryReport report;
  report.add(&MemoryReport::indices, layers_);
  report.add(&MemoryReport::indices, marks_);
  numbers_.account(report);
  workspace_.account(report);
  scratch_.account(report);
  report.add(&MemoryReport::scratch, row_);
  if (tokens_) {
    report.add_held(tokens_->shared(), [&](MemoryReport& all) {
      all.positions += Shared<Tokens>::box_bytes();
      tokens_->read().account(all);
    });
  }
  detail::account<P>(shape_, options_, layers_, report);
  return report;
}

template <class P>
double KVCache<P>::bits_per_value() const noexcept {
  double values = 0.0;
  for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
    const Shape& of = shape_.of(layer);
    values += static_cast<double>(layers_[layer].read().next) * static_cast<double>(of.kv_heads * (of.key_width() + of.value_width()));
  }
  const MemoryReport report = memory();
  return values == 0.0 ? 0.0 : 8.0 * static_cast<double>(report.total() - report.scratch) / values;
}

template <class P>
std::vector<Position> KVCache<P>::kept(std::size_t layer, std::size_t kv_head) const {
  detail::check_lane(shape_, "kept", layer, kv_head);
  const RowTable& table = at(layer).table(kv_head);
  std::vector<Position> positions;
  for (std::size_t row = 0; row < table.rows(); ++row) {
    if (table.alive(row)) { positions.push_back(table.position(row)); }
  }
  std::sort(positions.begin(), positions.end(), [](Position a, Position b) { return a < b; });  // not std::less: see core/abi.hpp
  return positions;
}

template <class P>
const Shape& KVCache<P>::checked(const Shape& shape, const Options& options) {
  shape.validate();
  Eviction::validate(options.eviction, shape);
  Storage::validate(options.storage);
  if constexpr (requires { Storage::validate_shape(options.storage, shape); }) { Storage::validate_shape(options.storage, shape); }
  Retrieval::validate(options.retrieval, shape);
  check_bounds("speculation", options.speculation);
  if constexpr (ValuesInKeys<Values>) {
    detail::for_lanes(shape, [&](const Site& of) {
      const bool in_keys = detail::facts_of_made_from<Values>(values_at<Storage>(options.storage, of)).in_keys;
      require(!in_keys || !detail::renumbers<P>(options, of) || of.shape.rope.theta == 0.0, ErrorCode::option,
              detail::eviction_name<P>(options, of),
              ": in_cache_positions is true, must be false where rows hold keys and values at once: they cannot be turned");
    });
  }
  detail::check_lanes<P>(shape, options);
  return shape;
}

template <class P>
void KVCache<P>::check_shift(std::size_t layer, Position first, Position last, std::int64_t delta) const {
  const Layer& l = at(layer);
  require(l.open == 0 && !l.waiting, ErrorCode::phase, "shift with ", l.open, " uncommitted rows in layer ", layer,
          l.waiting ? ", whose prompt has ended and is not encoded: end_prompt of the other layers first" : ": commit first");
  require(std::int64_t{std::min(last, l.next)} + delta < std::int64_t{no_position}, ErrorCode::position, "shift: delta is ", delta,
          ", must leave positions below ", no_position);
  require(last >= l.next || std::int64_t{last} + delta <= std::int64_t{l.next}, ErrorCode::position, "shift: delta is ", delta,
          ", must be at most ", std::int64_t{l.next} - std::int64_t{last}, ": the rows must stay before the next token of layer ", layer);
  for (std::size_t head = 0; head < l.lanes.size(); ++head) {
    require(!detail::facts_of(l.lanes[head].values).in_keys, ErrorCode::option,
            "shift: the rows hold keys and values at once, which cannot be turned");
    require(Retrieval::renumbers(options_.retrieval, site(layer, head)), ErrorCode::option, "shift with ",
            detail::retrieval_name<P>(options_, site(layer, head)), ", whose index is made at the original positions");
    require(l.table(head).can_shift(first, last, delta), ErrorCode::position, "shift: the rows at positions [", first, ", ", last,
            ") move by ", delta, ", must pass no row of layer ", layer, ", KV head ", head, ": remove it first");
  }
}

template <class P>
void KVCache<P>::check_owner(const char* verb, std::size_t layer) const {
  detail::check_layer(shape_, verb, layer);
  require(shape_.owns(layer), ErrorCode::shape, verb, ": layer is ", layer, ", must be ", shape_.store(layer),
          ", whose rows it reads: it has none of its own");
}

template <class P>
void KVCache<P>::check_waits(const char* verb, std::size_t layer) const {
  if (!at(layer).waiting) { return; }
  require(!at(layer).decides_with_model(), ErrorCode::phase, verb, "(layer = ", layer, ") before end_prompt of all layers, over which ",
          detail::eviction_name<P>(options_, site(layer, 0)), " decides together");
  const RowRange group = detail::layers_with<P>(options_, shape_, layer);
  fail(ErrorCode::phase, verb, "(layer = ", layer, ") before end_prompt of all the layers that are encoded together with it: ", group.first,
       " to ", group.last - 1);
}

template <class P>
void KVCache<P>::reserve_scratch(std::size_t rows) {
  std::size_t tables = 0;  // of a layer that loses rows
  std::size_t lanes = 0;
  bool observes = false;
  for (const Shared<Layer>& layer : layers_) {
    lanes = std::max(lanes, layer.read().lanes.size());
    if (layer.read().loses()) { tables = std::max(tables, layer.read().tables.size()); }
    for (const Lane& lane : layer.read().lanes) {
      const Observes what = detail::needs<P>(lane.state).observes;
      observes = observes || what == Observes::every_query || what == Observes::last_queries;
    }
  }
  if (tables > 0) { scratch_.reserve(tables, lanes, rows); }
  if (observes) { workspace_.reserve(shape_, rows); }
}

template <class P>
void KVCache<P>::settle_budget(Layer& l, std::size_t layer) const {
  const std::size_t tokens = l.prompt_tokens - std::min<std::size_t>(l.prompt_tokens, l.start());
  for (std::size_t unit = 0; unit < l.budgets.size(); ++unit) {
    const Budget* const budget = detail::budget_of<P>(options_, site(layer, unit));
    if (budget == nullptr) { continue; }
    const std::size_t most = detail::rows_past_none<P>(options_, site(layer, unit), most_.live);
    l.budgets[unit] = budget->resolve(tokens, shape_.lanes(), [most](std::size_t) { return most; });
  }
}

}  // namespace kvcompress
