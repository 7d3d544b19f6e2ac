// include/kvcompress/registry/clauses.hpp - policies by layer and KV head as text: which lanes each clause is for.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/site.hpp"
#include "kvcompress/registry/head_pattern.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// One clause of a policy's name: "layers 0-1: f16" or "heads 0.1,3.0-2: streaming" or "heads duo.tsv<50%: streaming" or "rest: kivi4". A name without clauses is one for the rest,
/// which are then all lanes.
struct PolicyClause {
  std::string_view lanes;  ///< "layers 0-1", "heads 0.1,3.0-2" or "rest"
  std::string_view parts;  ///< "h2o:budget=256+kivi4"
};

namespace detail {

inline std::string_view trimmed(std::string_view text) noexcept {
  while (!text.empty() && text.front() == ' ') { text.remove_prefix(1); }
  while (!text.empty() && text.back() == ' ') { text.remove_suffix(1); }
  return text;
}
/// Takes what stands before the first `at` off the front of `rest`, and `at` with it.
inline std::string_view cut(std::string_view& rest, char at) noexcept {
  const std::size_t end = std::min(rest.find(at), rest.size());
  const std::string_view piece = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return piece;
}
/// Takes the word `word` off the front, if it stands there alone.
inline bool take_word(std::string_view& text, std::string_view word) noexcept {
  if (!text.starts_with(word) || (text.size() > word.size() && text[word.size()] != ' ' && text[word.size()] != ':')) { return false; }
  text = trimmed(text.substr(word.size()));
  return true;
}
inline bool begins_with_lanes(std::string_view text) noexcept {
  return take_word(text, "layers") || take_word(text, "heads") || take_word(text, "rest");
}

/// Numbers [first, last].
struct Numbers {
  std::size_t first;
  std::size_t last;
};
/// Reads "3" or "0-2", each less than `count`.
inline Numbers read_numbers(std::string_view policy, std::string_view what, std::string_view text, std::size_t count) {
  const auto number = [&](std::string_view digits) {
    std::size_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    require(error == std::errc{} && end == digits.data() + digits.size(), ErrorCode::option, "policy \"", policy, "\": \"", text,
            "\" is no ", what, ", must be a number or a range like 0-2");
    return value;
  };
  std::string_view rest = text;
  const std::string_view first = cut(rest, '-');
  const bool range = first.size() < text.size();
  const Numbers numbers{number(first), number(range ? rest : first)};
  require(numbers.first <= numbers.last, ErrorCode::option, "policy \"", policy, "\": ", what, " ", numbers.first,
          " is the first of a range, must be at most its last, ", numbers.last);
  require(numbers.last < count, ErrorCode::option, "policy \"", policy, "\": ", what, " is ", numbers.last, ", must be less than ", count);
  return numbers;
}

/// Which lanes of a shape have which clause: (layers, KV heads); the first clause that names a lane has it.
class LanesOfClauses {
 public:
  LanesOfClauses(std::string_view policy, const Shape& shape) : policy_(policy), shape_(shape), clause_of_(shape.lanes(), none) {}

  /// The next clause; it must name a lane that no earlier one has.
  void add(std::string_view lanes) {
    bool fresh = false;
    std::string_view list = lanes;
    if (take_word(list, "rest")) {
      require(list.empty(), ErrorCode::option, "policy \"", policy_, "\": \"", lanes, "\" is given, must be rest alone");
      fresh = take({0, shape_.layers - 1}, all_heads);
    } else if (take_word(list, "layers")) {
      each(lanes, list,
           [&](std::string_view one) { fresh = take(read_numbers(policy_, "layer", one, shape_.layers), all_heads) || fresh; });
    } else if (take_word(list, "heads")) {
      each(lanes, list, [&](std::string_view one) {
        if (names_file(one)) {
          fresh = take(HeadPattern(policy_, one, shape_)) || fresh;
          return;
        }
        std::string_view heads = one;
        const std::string_view layers = cut(heads, '.');
        require(layers.size() < one.size(), ErrorCode::option, "policy \"", policy_, "\": \"", one,
                "\" is no KV head, must be a layer and a KV head of it, like 3.0 or 3.0-2");
        const Numbers in = read_numbers(policy_, "layer", layers, shape_.layers);
        std::size_t fewest = shape_.of(in.first).kv_heads;
        for (std::size_t layer = in.first; layer <= in.last; ++layer) { fewest = std::min(fewest, shape_.of(layer).kv_heads); }
        fresh = take(in, read_numbers(policy_, "KV head", heads, fewest)) || fresh;
      });
    } else {
      fail(ErrorCode::option, "policy \"", policy_, "\": \"", lanes,
           "\" names no lanes, must be layers 0-1, heads 0.1,3.0-2, heads FILE or rest");
    }
    require(fresh, ErrorCode::option, "policy \"", policy_, "\": \"", lanes,
            "\" has no lane left, must name one that no clause before it has");
    ++clauses_;
  }
  /// Whether some layer is for this clause and for others, once all are added.
  [[nodiscard]] bool shares_a_layer(std::size_t clause) const noexcept {
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      const auto all = static_cast<std::ptrdiff_t>(shape_.of(layer).kv_heads);
      const auto first = clause_of_.begin() + static_cast<std::ptrdiff_t>(lane_of(layer, 0));
      const auto heads = std::count(first, first + all, clause);
      if (heads > 0 && heads < all) { return true; }
    }
    return false;
  }
  /// The clause of every lane, once all are added.
  [[nodiscard]] const std::vector<std::size_t>& finish() const {
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      for (std::size_t head = 0; head < shape_.of(layer).kv_heads; ++head) {
        require(clause_of_[lane_of(layer, head)] != none, ErrorCode::option, "policy \"", policy_, "\" says nothing of layer ", layer,
                ", KV head ", head, ", must name every lane, or end with rest");
      }
    }
    return clause_of_;
  }

 private:
  static constexpr Numbers all_heads{0, static_cast<std::size_t>(-1)};
  [[nodiscard]] std::size_t lane_of(std::size_t layer, std::size_t head) const noexcept { return Site(layer, head, shape_).lane(); }
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  void each(std::string_view lanes, std::string_view list, auto&& use) const {
    require(!list.empty() && list.back() != ',', ErrorCode::option, "policy \"", policy_, "\": \"", lanes,
            "\" ends without a number, must name lanes");
    while (!list.empty()) { use(trimmed(cut(list, ','))); }
  }
  bool take(Numbers layers, Numbers heads) noexcept {
    bool fresh = false;
    for (std::size_t layer = layers.first; layer <= layers.last; ++layer) {
      for (std::size_t head = heads.first; head <= std::min(heads.last, shape_.of(layer).kv_heads - 1); ++head) {
        std::size_t& clause = clause_of_[lane_of(layer, head)];
        fresh = fresh || clause == none;
        if (clause == none) { clause = clauses_; }
      }
    }
    return fresh;
  }

  bool take(const HeadPattern& pattern) {
    bool fresh = false;
    for (std::size_t lane = 0; lane < clause_of_.size(); ++lane) {
      if (clause_of_[lane] != none || !pattern.names(lane)) { continue; }
      clause_of_[lane] = clauses_;
      fresh = true;
    }
    return fresh;
  }

  std::string_view policy_;
  const Shape& shape_;
  std::vector<std::size_t> clause_of_;
  std::size_t clauses_ = 0;
};

}  // namespace detail

/// Cuts "lanes: parts; lanes: parts" at ';' and the first ':' of each; spaces around them do not count.
[[nodiscard]] inline std::vector<PolicyClause> parse_clauses(std::string_view text) {
  const std::string_view all = detail::trimmed(text);
  if (all.find(';') == std::string_view::npos && !detail::begins_with_lanes(all)) { return {{"rest", text}}; }
  std::vector<PolicyClause> clauses;
  for (std::string_view rest = all; !rest.empty();) {
    std::string_view clause = detail::trimmed(detail::cut(rest, ';'));
    require(detail::begins_with_lanes(clause) && clause.find(':') != std::string_view::npos, ErrorCode::option, "policy \"", text, "\": \"",
            clause, "\" does not say for which lanes it is, must begin with layers 0-1:, heads 0.1,3.0-2: or rest:");
    const std::string_view lanes = detail::trimmed(detail::cut(clause, ':'));
    clauses.push_back({lanes, detail::trimmed(clause)});
  }
  return clauses;
}

}  // namespace kvcompress
