// examples/compare_policies/items.hpp - what is measured on: the windows of a text, and haystacks made of their first halves.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
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
  std::vector<llama::Token> tokens;  // a window has a second half behind the prompt
  std::size_t prompt_tokens = 0;
  std::vector<Haystack::Question> questions;
  std::vector<LayerRows> layers;  // of the prompt
  double prompt_seconds = 0.0;    // of the exact forward pass
  Reference reference;            // for the tokens behind the prompt, but the last
};

struct Items {
  std::vector<Item> all;  // (windows) of the text, then the haystacks
  std::size_t windows = 0;
  std::size_t text_tokens = 0;
};

/// The prompt of a window once more, made shorter and longer again by facts.
Item haystack_item(const Item& window, const auto& vocabulary, std::size_t needles, std::uint64_t seed) {
  constexpr std::size_t needle_tokens = 16;  // about; the haystack shall be about as long as the prompt
  const std::span<const llama::Token> filler(window.tokens.data() + 1, window.prompt_tokens - 1 - needles * needle_tokens);
  Haystack haystack = make_haystack(vocabulary, vocabulary.decode(filler), draw_needles(needles, seed));
  Item item;
  item.prompt_tokens = haystack.prompt.size();
  item.tokens = std::move(haystack.prompt);
  item.questions = std::move(haystack.questions);
  return item;
}

/// Reads the text, cuts it into windows and hides needles in the first half of each. `vocabulary`: a llama::Vocabulary or what is like it.
Items make_items(const Setup& setup, const auto& vocabulary) {
  std::ifstream file(setup.text, std::ios::binary);
  if (!file) { llama::fail("{}: cannot be opened.", setup.text); }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::vector<llama::Token> tokens = vocabulary.encode(text);
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
  return items;
}

}  // namespace comparison
