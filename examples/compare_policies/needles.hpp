// examples/compare_policies/needles.hpp - facts hidden in a text at several depths, and the questions that ask for them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "llama/vocabulary.hpp"

namespace comparison {

/// "The secret number of <name> is <number>.": a sentence that the project's model was trained to be asked about.
struct Needle {
  std::string name;
  std::string number;  // five digits
  double depth = 0.0;  // where it is hidden: 0 the text's beginning, 1 its end

  [[nodiscard]] std::string question() const { return "The secret number of " + name + " is"; }
  [[nodiscard]] std::string sentence() const { return question() + " " + number + "."; }
};

/// A text with needles in it and what is asked when it has been read.
struct Haystack {
  struct Question {
    std::vector<llama::Token> asked;   // follow the prompt
    std::vector<llama::Token> answer;  // follow the question
    std::vector<llama::Token> end;     // close the sentence, so that another question may follow
  };
  std::vector<llama::Token> prompt;
  std::vector<Question> questions;
};

/// `count` needles of different names, evenly spread over the depths. The same seed gives the same needles everywhere.
inline std::vector<Needle> draw_needles(std::size_t count, std::uint64_t seed) {
  std::array<std::string_view, 20> names{"Agnes", "Boris",  "Clara",  "Duncan",  "Ernest", "Frank",  "George",
                                         "Grace", "Helen",  "Jacob",  "Karen",   "Marcus", "Nathan", "Rachel",
                                         "Ralph", "Robert", "Sophia", "Stephen", "Thomas", "Victor"};
  std::mt19937_64 random(seed);
  std::vector<Needle> needles;
  for (std::size_t i = 0; i < std::min(count, names.size()); ++i) {
    std::swap(names[i], names[i + static_cast<std::size_t>(random() % (names.size() - i))]);
    const double depth = (static_cast<double>(i) + 0.5) / static_cast<double>(count);
    needles.push_back({std::string(names[i]), std::to_string(10000 + random() % 90000), depth});
  }
  return needles;
}

/// The text with each needle on a line of its own, between two words as near behind its depth as there are.
inline std::string hide(std::string_view text, const std::vector<Needle>& needles) {
  std::string result;
  std::size_t from = 0;
  for (const Needle& needle : needles) {
    const auto wanted = static_cast<std::size_t>(needle.depth * static_cast<double>(text.size()));
    const std::size_t at = std::min(text.find_first_of(" \n", std::max(from, wanted)), text.size());
    result += std::string(text.substr(from, at - from)) + "\n" + needle.sentence() + "\n";
    from = std::min(at + 1, text.size());
  }
  return result + std::string(text.substr(from));
}

/// How many needles a prompt of this many tokens can hide without being made of them.
inline std::size_t needles_for(std::size_t prompt_tokens) { return std::min<std::size_t>(5, prompt_tokens / 48); }

/// Hides needles in `text` and makes tokens of it. Each question is made of the tokens by which haystack + question goes on after
/// the haystack, and each answer of those by which the number goes on after the question, so no tokeniser is misled at the seams.
Haystack make_haystack(const auto& vocabulary, std::string_view text, const std::vector<Needle>& needles) {
  const auto common = [](const std::vector<llama::Token>& a, const std::vector<llama::Token>& b) {
    return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  };
  const std::string hay = hide(text, needles) + "\n";
  Haystack haystack;
  haystack.prompt = vocabulary.encode(hay);
  std::vector<std::vector<llama::Token>> answered;
  for (const Needle& needle : needles) {
    answered.push_back(vocabulary.encode(hay + needle.question() + " " + needle.number));
    haystack.prompt.resize(static_cast<std::size_t>(common(haystack.prompt, answered.back())));
  }
  for (std::size_t i = 0; i < needles.size(); ++i) {
    const auto prompt_end = answered[i].begin() + static_cast<std::ptrdiff_t>(haystack.prompt.size());
    const auto asked_end = answered[i].begin() + common(answered[i], vocabulary.encode(hay + needles[i].question()));
    const std::vector<llama::Token> closed = vocabulary.encode(hay + needles[i].question() + " " + needles[i].number + ".\n");
    const auto end = closed.begin() + common(closed, answered[i]);
    haystack.questions.push_back({{prompt_end, asked_end}, {asked_end, answered[i].end()}, {end, closed.end()}});
  }
  return haystack;
}

}  // namespace comparison
