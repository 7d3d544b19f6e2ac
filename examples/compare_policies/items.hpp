// examples/compare_policies/items.hpp - what is measured on: the windows of a text, and haystacks made of their first halves.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compare_policies/metrics.hpp"
#include "compare_policies/needles.hpp"
#include "compare_policies/recording.hpp"
#include "compare_policies/results.hpp"
#include "llama/error.hpp"
#include "llama/vocabulary.hpp"

namespace comparison {

/// One window of the text, or one haystack: its tokens, and what the exact model made of the prompt.
struct Item {
  enum class Kind { window, haystack, inside };  // inside: the question stands at the end of the haystack's prompt
  Kind kind = Kind::window;
  std::size_t needle = 0;            // of an item inside: which is asked for
  std::vector<llama::Token> tokens;  // a window has a second half behind the prompt
  std::size_t prompt_tokens = 0;
  std::vector<Haystack::Question> questions;
  std::vector<LayerRows> layers;   // of the prompt
  double prompt_seconds = 0.0;     // of the exact forward pass
  std::vector<float> next_logits;  // behind the prompt, of an item inside
  Reference reference;             // for the tokens behind the prompt, but the last
};

struct Items {
  std::vector<Item> all;  // (windows) of the text, then the haystacks, then those with a question inside
  std::size_t windows = 0;
  std::size_t text_tokens = 0;
};

/// The prompt of a window once more, made shorter and longer again by facts.
Item haystack_item(const Item& window, const auto& vocabulary, std::size_t needles, std::uint64_t seed) {
  constexpr std::size_t needle_tokens = 16;  // about; the haystack shall be about as long as the prompt
  const std::span<const llama::Token> filler(window.tokens.data() + 1, window.prompt_tokens - 1 - needles * needle_tokens);
  Haystack haystack = make_haystack(vocabulary, vocabulary.decode(filler), draw_needles(needles, seed));
  Item item;
  item.kind = Item::Kind::haystack;
  item.prompt_tokens = haystack.prompt.size();
  item.tokens = std::move(haystack.prompt);
  item.questions = std::move(haystack.questions);
  return item;
}

/// A haystack with one of its questions at the end of the prompt: the first digit follows from the exact prompt, the others from the cache.
inline Item inside_item(const Item& haystack, std::size_t needle) {
  Item item;
  item.kind = Item::Kind::inside;
  item.needle = needle;
  Haystack::Question question = haystack.questions[needle];
  item.tokens = haystack.tokens;
  item.tokens.insert(item.tokens.end(), question.asked.begin(), question.asked.end());
  item.prompt_tokens = item.tokens.size();
  question.asked.clear();
  item.questions = {std::move(question)};
  return item;
}

/// The text of --text, or one that is unlike what models of books have read: a ledger of `lines` lines of codes, numbers and places. The
/// same everywhere.
inline std::string read_text(const std::string& path) {
  if (path == made_text) {
    constexpr std::array<std::string_view, 8> places{"north", "Oslo", "dock 7", "B12", "yard", "Lima", "cold room", "gate"};
    constexpr std::array<std::string_view, 8> goods{"bolt M8", "valve", "cable 2.5", "resin", "gasket", "relay", "hinge", "rotor"};
    std::mt19937_64 random(20);
    const auto below = [&](std::uint64_t count) { return static_cast<std::size_t>(random() % count); };
    std::string text = "no,date,item,place,count,price\n";
    for (std::size_t line = 1; line <= 900; ++line) {
      text += std::to_string(line) + ",2021-" + std::to_string(10 + below(3)) + "-" + std::to_string(10 + below(20)) + ",";
      text += std::string(goods[below(goods.size())]) + "," + std::string(places[below(places.size())]) + ",";
      text += std::to_string(below(500)) + "," + std::to_string(below(90)) + "." + std::to_string(10 + below(90)) + "\n";
    }
    return text;
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) { llama::fail("{}: cannot be opened.", path); }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Reads the text, cuts it into windows and hides needles in the first half of each. `vocabulary`: a llama::Vocabulary or what is like it.
Items make_items(const Setup& setup, const auto& vocabulary) {
  const std::vector<llama::Token> tokens = vocabulary.encode(read_text(setup.text));
  Items items;
  items.text_tokens = tokens.size();
  items.windows = tokens.size() / setup.context;
  if (setup.windows != 0) { items.windows = std::min(items.windows, setup.windows); }
  if (items.windows == 0) {
    llama::fail("{}: has {} tokens, less than one window of {} (--context).", setup.text, tokens.size(), setup.context);
  }
  for (std::size_t w = 0; w < items.windows; ++w) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(w * setup.context);
    Item item;
    item.tokens.assign(first, first + static_cast<std::ptrdiff_t>(setup.context));
    if (vocabulary.adds_bos()) { item.tokens.front() = *vocabulary.bos(); }
    item.prompt_tokens = setup.context / 2;
    items.all.push_back(std::move(item));
  }
  const std::size_t needles = needles_for(setup.context / 2);
  for (std::size_t w = 0; w < items.windows && needles > 0; ++w) {
    items.all.push_back(haystack_item(items.all[w], vocabulary, needles, setup.seed + w));
  }
  for (std::size_t w = 0; w < items.windows && needles > 0 && setup.inside; ++w) {
    for (std::size_t needle = 0; needle < needles; ++needle) { items.all.push_back(inside_item(items.all[items.windows + w], needle)); }
  }
  return items;
}

}  // namespace comparison
