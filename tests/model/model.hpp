// tests/model/model.hpp - what a cache of any policy must know of itself after a list of verbs, and which verbs it may be given.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "kvcompress/core/shape.hpp"
#include "model/policies.hpp"

namespace kvcompress::test::model {

inline const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};
inline constexpr std::size_t most_rows = 300;  // of a layer: later ones would add time, not kinds of states

/// A row that was appended and neither truncated nor removed: its numbers follow from the seed.
struct Row {
  Position position;
  std::uint32_t seed;
};

struct Layer {
  std::vector<Row> rows{};  // ascending
  Position next = 0;
  Position committed = 0;  // the position after the newest committed row
  Position prompt_end = 0;
  Position seen = 0;     // queries before it were attended or observed
  std::size_t open = 0;  // rows since the last commit
  bool in_prompt = true;
  /// The newest rows whose queries nobody has seen.
  [[nodiscard]] std::size_t unseen() const {
    const auto first = std::lower_bound(rows.begin(), rows.end(), seen, [](const Row& row, Position at) { return row.position < at; });
    return std::min<std::size_t>(open, static_cast<std::size_t>(rows.end() - first));
  }
  void commit() {
    open = 0;
    committed = next;
  }
};

struct Side {
  std::array<Layer, 2> layers{};
};

enum class Kind { append, attend, observe, commit, end_prompt, truncate, remove, fork, swap, drop_fork, save_load, copy, reserve, clear };
inline constexpr std::array kind_names{"append", "attend", "observe",   "commit",    "end_prompt", "truncate", "remove",
                                       "fork",   "swap",   "drop_fork", "save_load", "copy",       "reserve",  "clear"};

/// A verb with numbers whose meaning depends on it. `refused`: which allocation is refused at a first try, 0 for none.
struct Call {
  Kind kind = Kind::append;
  std::size_t layer = 0;
  std::size_t a = 0;
  std::size_t b = 0;
  std::size_t refused = 0;
};

struct Model {
  const PolicyCase* policy = nullptr;
  Side now{};
  std::optional<Side> fork{};
  std::uint32_t appended = 0;

  [[nodiscard]] bool allows(const Call& call) const {
    const Layer& layer = now.layers[call.layer];
    const auto both = [&](auto&& holds) { return holds(now.layers[0]) && holds(now.layers[1]); };
    const auto all_seen = [&](const Layer& one) { return !policy->observes || one.open == 0 || one.unseen() == 0; };
    switch (call.kind) {
      case Kind::append:
        return layer.rows.size() + count(call) <= most_rows && (layer.in_prompt || all_seen(layer));
      case Kind::attend:
      case Kind::observe:
        return layer.open > 0 && (!policy->observes || layer.unseen() > 0);
      case Kind::commit:
        return !layer.in_prompt && layer.open > 0 && all_seen(layer);
      case Kind::end_prompt:
        return policy->together ? both([&](const Layer& one) { return one.open > 0; }) && now.layers[0].next == now.layers[1].next
                                : layer.open > 0 && all_seen(layer);
      case Kind::truncate:
        return both([&](const Layer& one) {
          const Position position = truncate_to(call);
          return position >= one.next || ((policy->exact || position >= one.committed) && (!policy->observes || position >= one.seen));
        });
      case Kind::remove:
        return both([&](const Layer& one) { return one.open == 0 && one.next > 0; }) &&
               (!policy->together || now.layers[0].next == now.layers[1].next);
      case Kind::swap:
      case Kind::drop_fork:
        return fork.has_value();
      default:
        return true;
    }
  }

  void apply(const Call& call) {
    Layer& layer = now.layers[call.layer];
    switch (call.kind) {
      case Kind::append: {
        if (!layer.in_prompt && layer.open > 0) { layer.commit(); }
        layer.next = first_position(call);
        for (std::size_t i = 0; i < count(call); ++i) { layer.rows.push_back({layer.next++, ++appended}); }
        layer.open += count(call);
        break;
      }
      case Kind::attend:
      case Kind::observe:
        layer.seen = layer.next;
        break;
      case Kind::commit:
        layer.commit();
        break;
      case Kind::end_prompt:
        for (Layer& one : now.layers) {
          if (&one != &layer && !policy->together) { continue; }
          one.commit();
          one.in_prompt = false;
          one.prompt_end = one.next;
        }
        break;
      case Kind::truncate: {
        const Position position = truncate_to(call);
        for (Layer& one : now.layers) {
          if (position >= one.next) { continue; }
          const std::size_t before = one.rows.size();
          std::erase_if(one.rows, [&](const Row& row) { return row.position >= position; });
          one.open -= std::min(one.open, before - one.rows.size());
          one.next = position;
          one.committed = std::min(one.committed, position);
          one.seen = std::min(one.seen, position);
        }
        break;
      }
      case Kind::remove:
        for (Layer& one : now.layers) {
          std::erase_if(one.rows,
                        [&](const Row& row) { return row.position >= removed(call).first && row.position < removed(call).second; });
        }
        break;
      case Kind::fork:
        fork = now;
        break;
      case Kind::swap:
        std::swap(now, *fork);
        break;
      case Kind::drop_fork:
        fork.reset();
        break;
      case Kind::clear:
        now = {};
        break;
      default:
        break;
    }
  }

  /// Rows of an append: prompts are longer than steps, now and then a step is long too.
  [[nodiscard]] std::size_t count(const Call& call) const {
    return now.layers[call.layer].in_prompt || call.b % 8 == 7 ? call.a % 48 + 1 : call.a % 4 + 1;
  }
  [[nodiscard]] Position first_position(const Call& call) const {
    const Position next = now.layers[call.layer].next;
    return call.b % 16 == 3 && !policy->together ? next + static_cast<Position>(call.a % 5) : next;
  }
  [[nodiscard]] Position truncate_to(const Call& call) const {
    const Position end = std::max(now.layers[0].next, now.layers[1].next);
    const auto back = static_cast<Position>(call.b % 4 == 0 ? call.a : call.a % 8);
    return end - std::min(end, back);
  }
  [[nodiscard]] std::pair<Position, Position> removed(const Call& call) const {
    const Position end = std::max(now.layers[0].next, now.layers[1].next);
    const auto first = static_cast<Position>(call.a * end / 100);
    return {first, first + static_cast<Position>(call.b % 20)};
  }
};

}  // namespace kvcompress::test::model
