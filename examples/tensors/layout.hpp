// examples/tensors/layout.hpp - what the axes of a dump's arrays are: told apart by their sizes where these leave no doubt.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensors/array.hpp"

namespace tensors {

enum class Axis { layer, batch, head, token, dim };
inline constexpr std::array axes{Axis::layer, Axis::batch, Axis::head, Axis::token, Axis::dim};
constexpr std::string_view name_of(Axis axis) noexcept {
  constexpr std::array<std::string_view, 5> names{"layer", "batch", "head", "token", "dim"};
  return names[static_cast<std::size_t>(axis)];
}

/// The axes of an array, from the outermost on.
using Layout = std::vector<Axis>;

inline std::string text(const Layout& layout) {
  std::string names;
  for (const Axis axis : layout) { names.append(names.empty() ? "" : ", ").append(name_of(axis)); }
  return fmt::format("[{}]", names);
}

/// "batch,head,token,dim" as a layout. Must name each axis at most once, and token and dim among them.
inline Layout parse_layout(std::string_view option, std::string_view names) {
  Layout layout;
  std::string_view rest = names;
  while (true) {
    const std::string_view name = rest.substr(0, rest.find(','));
    const auto* const axis = std::find_if(axes.begin(), axes.end(), [&](Axis a) { return name_of(a) == name; });
    if (axis == axes.end() || std::find(layout.begin(), layout.end(), *axis) != layout.end()) {
      fail("{} is {}, must name each of layer, batch, head, token, dim at most once.", option, in_quotes(names));
    }
    layout.push_back(*axis);
    if (name.size() == rest.size()) { break; }
    rest.remove_prefix(name.size() + 1);
  }
  for (const Axis needed : {Axis::token, Axis::dim}) {
    if (std::find(layout.begin(), layout.end(), needed) == layout.end()) {
      fail("{} is {}, must name token and dim.", option, in_quotes(names));
    }
  }
  return layout;
}

/// The size of an axis; one that the layout lacks has size 1.
inline std::size_t size_of(Axis axis, const Layout& layout, const Sizes& shape) {
  const auto at = std::find(layout.begin(), layout.end(), axis);
  return at == layout.end() ? 1 : shape[static_cast<std::size_t>(at - layout.begin())];
}

/// Elements from one index of an axis to the next, in C order.
inline std::size_t stride_of(Axis axis, const Layout& layout, const Sizes& shape) {
  std::size_t stride = 1;
  for (std::size_t i = layout.size(); i-- > 0; stride *= shape[i]) {
    if (layout[i] == axis) { return stride; }
  }
  return 0;
}

/// What is known of a dump before its layout is.
struct LayoutFacts {
  Sizes keys;  // shapes; those of the values are as the keys'
  Sizes queries;
  std::string keys_where;  // the arrays, for messages
  std::string queries_where;
  bool per_layer = false;                  // an array holds one layer, by its name
  std::optional<std::size_t> kv_heads;     // from the model's config.json
  std::optional<std::size_t> query_heads;  // the same
};

struct Layouts {
  Layout keys;  // of the values too
  Layout queries;
};

/// The axes before head and token, for an array with `count` axes; none if there is no such array.
inline std::optional<Layout> leading_axes(std::size_t count, bool per_layer) {
  if (count == 3) { return Layout{}; }
  if (count == 4) { return Layout{per_layer ? Axis::batch : Axis::layer}; }
  if (count == 5 && !per_layer) { return Layout{Axis::layer, Axis::batch}; }
  return std::nullopt;
}

/// Tells apart [..., head, token, dim] and [..., token, head, dim], each for keys and queries. A reading is possible if the query heads are
/// a multiple of the KV heads, and the heads those of config.json; if queries of the last tokens only are there, they lie as keys do, with at
/// least four times as many tokens as KV heads. Of the possible ones those with a query for every key win, then those in which queries lie as
/// keys do, then those with four times as many tokens as heads; if that leaves two, the dump is refused.
inline Layouts find_layouts(std::string_view option, const LayoutFacts& facts) {
  struct Reading {
    Layouts layouts;
    bool complete, alike, plausible;
  };
  const auto keys_lead = leading_axes(facts.keys.size(), facts.per_layer);
  const auto queries_lead = leading_axes(facts.queries.size(), facts.per_layer);
  if (!keys_lead || !queries_lead) {
    const bool of_keys = !keys_lead;
    fail("{}: has shape {}, must have 3 axes, 4 with a batch{}: say what they are with {}.",
         of_keys ? facts.keys_where : facts.queries_where, text(of_keys ? facts.keys : facts.queries),
         facts.per_layer ? "" : " or layers, 5 with both", option);
  }
  std::vector<Reading> readings;
  for (const bool keys_heads_first : {true, false}) {
    for (const bool queries_heads_first : {true, false}) {
      const auto layout = [](Layout lead, bool heads_first) {
        lead.insert(lead.end(), {heads_first ? Axis::head : Axis::token, heads_first ? Axis::token : Axis::head, Axis::dim});
        return lead;
      };
      const Layouts l{layout(*keys_lead, keys_heads_first), layout(*queries_lead, queries_heads_first)};
      const std::size_t kv_heads = size_of(Axis::head, l.keys, facts.keys);
      const std::size_t query_heads = size_of(Axis::head, l.queries, facts.queries);
      const std::size_t tokens = size_of(Axis::token, l.keys, facts.keys);
      const std::size_t queries = size_of(Axis::token, l.queries, facts.queries);
      const bool alike = keys_heads_first == queries_heads_first;
      const bool possible = query_heads % kv_heads == 0 && kv_heads == facts.kv_heads.value_or(kv_heads) &&
                            query_heads == facts.query_heads.value_or(query_heads) &&
                            (queries == tokens || (queries < tokens && alike && tokens / 4 >= kv_heads));
      if (possible) { readings.push_back({l, queries == tokens, alike, tokens / 4 >= kv_heads && queries / 4 >= query_heads}); }
    }
  }
  if (readings.empty()) {
    const std::string heads = facts.kv_heads && facts.query_heads
                                  ? fmt::format(" of config.json ({} query and {} KV heads)", *facts.query_heads, *facts.kv_heads)
                                  : "";
    fail("{}: has shape {}, must have a multiple of the heads{} and at most the tokens of {}, which has shape {}.", facts.queries_where,
         text(facts.queries), heads, facts.keys_where, text(facts.keys));
  }
  for (const auto better : {&Reading::complete, &Reading::alike, &Reading::plausible}) {
    const auto worse = [&](const Reading& reading) { return !(reading.*better); };
    if (readings.size() > 1 && !std::all_of(readings.begin(), readings.end(), worse)) { std::erase_if(readings, worse); }
  }
  if (readings.size() > 1) {
    fail("{}: has shape {}, which may be {} or {}, with queries of shape {}: say which with {}.", facts.keys_where, text(facts.keys),
         text(readings[0].layouts.keys), text(readings[1].layouts.keys), text(facts.queries), option);
  }
  return readings.front().layouts;
}

}  // namespace tensors
