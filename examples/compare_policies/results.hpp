// examples/compare_policies/results.hpp - what was asked for and what came out: plain data that every report is written from.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace comparison {

/// A policy as it was typed, and with the settings that this program adds to it.
struct Policy {
  std::string name;
  std::string settings;
  std::string label = {};   // the parts alone; empty: the name
  std::string budget = {};  // what its size is chosen by: rows, rows read, bits, rank
  enum class Evicts { unsaid, prompt, decoding };
  Evicts evicts = Evicts::unsaid;  // when: at the end of the prompt only, or at every token too
  std::string fitted = {};         // the option by which its bytes are made those of the others; empty: none
  [[nodiscard]] const std::string& shown() const { return label.empty() ? name : label; }
};

inline std::string evicts_word(const Policy& policy) {
  return policy.evicts == Policy::Evicts::prompt ? "prompt" : policy.evicts == Policy::Evicts::decoding ? "decoding" : "";
}

/// The name under which --text means a text that the program makes.
inline constexpr const char* made_text = "made";

/// Everything that decides the numbers; `threads` decides only how long they take.
struct Setup {
  std::string model;
  std::string text;
  std::vector<Policy> policies;
  std::size_t context = 1024;  // tokens of a window: the first half is the prompt
  std::size_t windows = 0;     // at most this many; 0 means all that the text has
  std::size_t budget = 128;    // rows that an eviction keeps per lane unless its policy says otherwise
  std::size_t threads = 1;
  std::uint64_t seed = 1;          // of the needles
  bool references = false;         // measure llama.cpp's own types too
  bool inside = false;             // ask for needles in the prompt too, before it is compressed
  std::size_t turns = 0;           // questions of a conversation after one compression
  bool by_layer = false;           // each policy in one layer's keys or values at a time, too
  double calibrate = 0.0;          // bits per number that a choice by layer may take; 0: none
  std::string calibrated_to = {};  // a file for that choice
};

/// One line of the table.
struct Row {
  Policy policy;
  double bytes = 0.0;               // without the slow tier, after the last token, mean over the windows
  double bytes_after_prompt = 0.0;  // the same, right after end_prompt
  double fraction_of_f16 = 0.0;     // bytes / bytes of full
  double fraction_after_prompt = 0.0;
  double bits_per_value = 0.0;     // of bytes, over every token seen
  double slow_bytes = 0.0;         // of the slow tier, in RAM or in files
  double fetched_per_token = 0.0;  // bytes from the slow tier, per decoded token
  double perplexity = 0.0;
  double perplexity_ratio = 0.0;  // to the exact model
  double kl = 0.0;                // mean KL(exact || policy), nats per token
  double top1_agreement = 0.0;
  std::size_t needles_right = 0;
  std::size_t needles_asked = 0;
  std::vector<double> needles_by_depth = {};  // share found, from the text's beginning to its end
  std::vector<double> inside_by_depth = {};   // the same, asked for in the prompt
  std::vector<double> right_by_turn = {};     // share of a conversation's answers that are right, by turn
  std::vector<double> layer_bytes = {};       // of bytes, by layer; what layers hold together in equal parts
  double prompt_tokens_per_s = 0.0;           // seconds are CPU seconds of one thread
  double decode_tokens_per_s = 0.0;
  double cache_us_per_token = 0.0;  // of a decoded token, spent in append, attend and commit of all layers
  std::size_t peak_bytes = 0;       // most that the memory handle had given out at once

  [[nodiscard]] std::optional<double> inside_accuracy() const { return mean_of(inside_by_depth, 0); }
  /// Of a conversation's answers but the first, which needle_accuracy has.
  [[nodiscard]] std::optional<double> later_turns() const { return mean_of(right_by_turn, 1); }
  [[nodiscard]] std::optional<double> needle_accuracy() const {
    if (needles_asked == 0) { return std::nullopt; }
    return static_cast<double>(needles_right) / static_cast<double>(needles_asked);
  }

 private:
  static std::optional<double> mean_of(const std::vector<double>& numbers, std::size_t first) {
    if (numbers.size() <= first) { return std::nullopt; }
    return std::accumulate(numbers.begin() + static_cast<std::ptrdiff_t>(first), numbers.end(), 0.0) /
           static_cast<double>(numbers.size() - first);
  }
};

/// A fact that a report states: "CPU", "2 x ...".
struct Fact {
  std::string name;
  std::string value;
};

/// One run of the program.
struct Comparison {
  Setup setup;
  std::vector<Row> rows;
  std::vector<Row> references;  // llama.cpp's types: bits per value, KL
  double exact_perplexity = 0.0;
  std::size_t text_tokens = 0;
  std::size_t windows = 0;
  std::size_t scored_tokens = 0;   // per policy
  std::size_t needle_prompts = 0;  // haystacks
  std::size_t needle_tokens = 0;   // of one haystack
  double seconds = 0.0;
  std::vector<Fact> model;                // from the file
  std::vector<std::string> left_out;      // evictions whose sizes do not follow their options
  std::string calibrated;                 // the policy that --calibrate chose
  std::vector<std::string> known_limits;  // from the model's card, if one lies beside it
  std::vector<Fact> machine;
  std::string date;
  std::string command;
};

}  // namespace comparison
