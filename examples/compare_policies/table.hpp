// examples/compare_policies/table.hpp - the results as an aligned table, and in words what its columns mean.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compare_policies/front.hpp"
#include "compare_policies/results.hpp"

namespace comparison {

/// A number with about three digits, in whatever notation is shorter: 0.0123, 4.6e-07.
inline std::string short_number(double value) {
  if (value == 0.0) { return "0"; }
  if (value < 0.001) { return fmt::format("{:.1e}", value); }
  return fmt::format("{:.{}f}", value, value < 0.1 ? 4 : 3);
}
inline std::string percent(double fraction) { return fmt::format("{:.1f}", 100.0 * fraction); }
/// 3145728 -> "3,145,728"
inline std::string grouped(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) { text.push_back(','); }
    text.push_back(digits[i]);
  }
  return text;
}

/// "1 window", "2 windows"
inline std::string counted(std::size_t count, std::string_view thing) {
  return fmt::format("{} {}{}", count, thing, count == 1 ? "" : "s");
}

/// The cells of the table: a title of two lines, with an arrow to where better is, and one text per row.
struct Column {
  std::string_view upper;
  std::string_view lower;
  std::string (*cell)(const Row&);
  int spare = 0;  // in the table for the terminal: 0 always; else left out where 120 columns are too few, the largest first; 9 never there
  bool optional = false;  // left out where it says nothing of any row
};

inline std::string percent_or_none(const std::optional<double>& share) { return share ? percent(*share) : std::string("-"); }
/// "100 80 0": shares from a text's beginning to its end, in percent.
inline std::string depths(const std::vector<double>& shares) {
  std::string text;
  for (const double share : shares) { text += fmt::format("{}{:.0f}", text.empty() ? "" : " ", 100.0 * share); }
  return text.empty() ? "-" : text;
}
/// The row of something that is no policy of ours says bits and KL only.
inline bool is_said_of_references(std::string_view lower) { return lower == "policy" || lower == "value ↓" || lower == "nats ↓"; }

inline const std::vector<Column>& columns() {
  static const std::vector<Column> all{
      {"", "policy", [](const Row& r) { return r.policy.shown(); }},
      {"size", "in", [](const Row& r) { return r.policy.budget; }},
      {"evicts", "in", [](const Row& r) { return r.policy.evicts == Policy::Evicts::unsaid ? std::string("-") : evicts_word(r.policy); }, 0,
       true},
      {"cache", "KiB ↓", [](const Row& r) { return grouped(r.bytes / 1024.0); }},
      {"% of", "f16 ↓", [](const Row& r) { return percent(r.fraction_of_f16); }, 2},
      {"% after", "prompt ↓", [](const Row& r) { return percent(r.fraction_after_prompt); }, 9},
      {"bits per", "value ↓", [](const Row& r) { return fmt::format("{:.2f}", r.bits_per_value); }},
      {"slow", "KiB", [](const Row& r) { return r.slow_bytes > 0.0 ? grouped(r.slow_bytes / 1024.0) : std::string("-"); }, 1, true},
      {"fetched", "KiB/tok",
       [](const Row& r) { return r.slow_bytes > 0.0 ? fmt::format("{:.1f}", r.fetched_per_token / 1024.0) : std::string("-"); }, 9},
      {"perplexity", "ratio ↓", [](const Row& r) { return fmt::format("{:.4f}", r.perplexity_ratio); }},
      {"KL", "nats ↓", [](const Row& r) { return short_number(r.kl); }},
      {"same", "top-1 % ↑", [](const Row& r) { return percent(r.top1_agreement); }, 3},
      {"needles", "% ↑", [](const Row& r) { return percent_or_none(r.needle_accuracy()); }},
      {"by depth", "% ↑", [](const Row& r) { return r.inside_by_depth.empty() ? std::string("-") : depths(r.needles_by_depth); }, 5, true},
      {"inside", "% ↑", [](const Row& r) { return percent_or_none(r.inside_accuracy()); }, 0, true},
      {"by depth", "% ↑", [](const Row& r) { return depths(r.inside_by_depth); }, 0, true},
      {"later", "turns % ↑", [](const Row& r) { return percent_or_none(r.later_turns()); }, 0, true},
      {"prompt", "tok/s ↑", [](const Row& r) { return grouped(r.prompt_tokens_per_s); }, 4},
      {"decode", "tok/s ↑", [](const Row& r) { return grouped(r.decode_tokens_per_s); }},
      {"in cache", "us/tok ↓", [](const Row& r) { return fmt::format("{:.0f}", r.cache_us_per_token); }},
      {"peak", "KiB ↓", [](const Row& r) { return grouped(static_cast<double>(r.peak_bytes) / 1024.0); }, 9},
  };
  return all;
}

inline bool any_row(const Comparison& c, auto&& is) { return std::any_of(c.rows.begin(), c.rows.end(), is); }

/// What the budget means to the policies at hand, and which of them compress the prompt only.
inline std::vector<std::string> notes(const Comparison& c) {
  const auto any = [&](std::initializer_list<std::string_view> parts) {
    return any_row(c, [&](const Row& row) {
      return std::any_of(parts.begin(), parts.end(),
                         [&](std::string_view part) { return row.policy.name.find(part) != std::string::npos; });
    });
  };
  std::vector<std::string> lines;
  if (any({"streaming", "h2o", "snapkv"})) {
    lines.push_back(fmt::format("Evictions keep {} rows per lane unless their policy says otherwise{}.", c.setup.budget,
                                any({"snapkv"}) ? "; SnapKV evicts from the prompt only" : ""));
  }
  if (any({"quest", "landmarks", "shadowkv"})) {
    std::string line =
        fmt::format("Retrievals keep every row; a query reads {} of them per lane unless the policy says otherwise", c.setup.budget);
    if (any({"quest"})) { line += "; quest reads its first dense_layers in full"; }
    if (any({"landmarks", "shadowkv"})) {
      line += "; landmarks (shadowkv has them) choose from the prompt, and every query reads decoded rows too";
    }
    lines.push_back(line + ".");
  }
  std::string prompt_only;
  for (const Row& row : c.rows) {
    const std::string& s = row.policy.settings;
    if ((s.find("xkv") != std::string::npos || s.find("shadowkv") != std::string::npos) && s.find("fold_in") == std::string::npos) {
      prompt_only +=
          fmt::format("{} {} holds {} % of f16", prompt_only.empty() ? "" : ",", row.policy.shown(), percent(row.fraction_after_prompt));
    }
  }
  if (!prompt_only.empty()) {
    lines.push_back("Low rank without fold_in compresses the prompt only and holds decoded rows in f16; right after the prompt" +
                    prompt_only + ".");
  }
  return lines;
}

/// What was measured and how, in a few sentences.
inline std::vector<std::string> legend(const Comparison& c) {
  const std::string text = std::filesystem::path(c.setup.text).filename().string();
  std::vector<std::string> lines{
      fmt::format("Protocol: {} of {} tokens of {}. The first {} of each are the prompt: run exactly (f32), then compressed; "
                  "the rest is fed token by token through the compressed cache. Perplexity, KL(exact || policy) and same top-1 are over "
                  "those {} predictions, where the exact model has perplexity {:.3f}.",
                  counted(c.windows, "window"), c.setup.context, text, c.setup.context / 2, c.scored_tokens, c.exact_perplexity),
      fmt::format("Memory: what the cache holds of its memory handle after the last token (and right after the prompt), all but "
                  "scratch and the slow tier, mean over windows; bits per value are of every token seen. Peak: the handle's high-water "
                  "mark, scratch{} included.",
                  any_row(c, [](const Row& row) { return row.slow_bytes > 0.0; }) ? " and slow tier" : "")};
  if (any_row(c, [](const Row& row) { return row.slow_bytes > 0.0; })) {
    lines.push_back(
        "Slow: values that stay out of fast memory until a query wants them; fetched: what is copied from there per decoded token.");
  }
  for (std::string& note : notes(c)) { lines.push_back(std::move(note)); }
  if (c.rows.front().needles_asked > 0) {
    lines.push_back(
        fmt::format("Needles: {} numbers hidden at several depths of {} of about {} tokens; asked for after "
                    "compression, found if greedy decoding gives every digit (seed {}).",
                    c.rows.front().needles_asked, counted(c.needle_prompts, "prompt"), c.needle_tokens, c.setup.seed));
  }
  if (any_row(c, [](const Row& row) { return !row.inside_by_depth.empty(); })) {
    lines.push_back(
        "Inside: the question stands at the prompt's end, so that a policy sees it before it compresses; the first digit follows from the "
        "exact "
        "prompt, the others from the cache. By depth: from the text's beginning to its end.");
  }
  if (any_row(c, [](const Row& row) { return !row.right_by_turn.empty(); })) {
    lines.push_back(
        "Later turns: conversations of several questions after one compression, the right answer behind each; needles are the first turn "
        "of as "
        "many conversations.");
  }
  if (any_row(c, [](const Row& row) { return !row.policy.fitted.empty(); })) {
    std::string left_out;
    for (const std::string& name : c.left_out) {
      left_out += (left_out.empty() ? " Left out, as their sizes do not follow: " : ", ") + name;
    }
    lines.push_back(fmt::format(
        "Sizes are fitted on the first window, to the bytes of StreamingLLM with {} rows: those that evict in the prompt right after it, "
        "those that evict in decoding after the last token.{}",
        c.setup.budget, left_out.empty() ? left_out : left_out + "."));
  }
  lines.push_back(
      "Size in: what a policy's size is chosen by. rows: how many stay; read: how many a query reads, all stay; bits: of a number; rank: "
      "of "
      "low-rank factors.");
  lines.push_back(
      fmt::format("Speed: tokens per CPU second of one thread while {}. Prompt: the shared exact forward pass plus the "
                  "policy's own compression. Decode: the whole model; \"in cache\" is the policy's part of it.",
                  c.setup.threads == 1 ? "no other worked" : fmt::format("{} worked at once", c.setup.threads)));
  return lines;
}

/// Breaks a text into lines of at most `width` characters.
inline std::string wrapped(std::string_view text, std::size_t width) {
  std::string result;
  std::size_t used = 0;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    const bool breaks = used > 0 && used + 1 + word.size() > width;
    result += used == 0 ? "" : breaks ? "\n" : " ";
    used = used == 0 || breaks ? word.size() : used + 1 + word.size();
    result += word;
  }
  return result + "\n";
}

/// Characters, not bytes.
inline std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}
/// A name in at most `width` characters.
inline std::string cut(std::string name, std::size_t width) {
  if (name.size() <= width) { return name; }
  name.resize(width - 1);
  return name + "…";
}

/// One column as aligned cells, the two of its title first.
inline std::vector<std::string> aligned(std::vector<std::string> cells, bool to_the_left) {
  std::size_t width = 0;
  for (const std::string& cell : cells) { width = std::max(width, width_of(cell)); }
  for (std::string& cell : cells) {
    const std::string space(width - width_of(cell), ' ');
    cell = to_the_left ? cell + space : space + cell;
  }
  return cells;
}
inline std::vector<std::string> cells_of(const Comparison& c, const Column& column) {
  std::vector<std::string> cells{std::string(column.upper), std::string(column.lower)};
  for (const Row& row : c.rows) { cells.push_back(column.cell(row)); }
  for (const Row& row : c.references) { cells.push_back(is_said_of_references(column.lower) ? column.cell(row) : std::string()); }
  return cells;
}
inline bool says_nothing(const std::vector<std::string>& cells) {
  return std::all_of(cells.begin() + 2, cells.end(), [](const std::string& cell) { return cell.empty() || cell == "-"; });
}
/// The columns but those that may be left out and say nothing.
inline std::vector<const Column*> shown_columns(const Comparison& c) {
  std::vector<const Column*> shown;
  for (const Column& column : columns()) {
    if (!column.optional || !says_nothing(cells_of(c, column))) { shown.push_back(&column); }
  }
  return shown;
}
/// The lines of the table behind the names, without the columns that are spared more than `spare`.
inline std::vector<std::string> number_lines(const Comparison& c, int spare) {
  std::vector<std::string> lines(c.rows.size() + c.references.size() + 2);
  for (const Column* const column : shown_columns(c)) {
    if (column == &columns().front() || column->spare > spare) { continue; }
    const std::vector<std::string> cells = aligned(cells_of(c, *column), false);
    for (std::size_t i = 0; i < lines.size(); ++i) { lines[i] += "  " + cells[i]; }
  }
  return lines;
}
/// The names, in at most `most` characters, those of the front marked.
inline std::vector<std::string> name_lines(const Comparison& c, std::size_t most) {
  const std::vector<std::size_t> front = pareto_front(c.rows);
  std::vector<std::string> cells = cells_of(c, columns().front());
  for (std::size_t i = 0; i < c.rows.size(); ++i) {
    const bool best = std::find(front.begin(), front.end(), i) != front.end();
    cells[i + 2] = cut(std::move(cells[i + 2]), most - 2) + (best ? " *" : "");
  }
  for (std::size_t i = c.rows.size() + 2; i < cells.size(); ++i) { cells[i] = cut("llama.cpp " + cells[i], most); }
  return aligned(std::move(cells), true);
}

/// How llama.cpp's types stand to the front.
inline std::string references_line(const Comparison& c, std::size_t width) {
  if (c.references.empty()) { return {}; }
  std::string beyond;
  for (const Row& row : c.references) {
    if (is_beyond(row, c.rows)) { beyond += (beyond.empty() ? "" : ", ") + row.policy.name; }
  }
  return wrapped(
      "llama.cpp's types of caches, bits as their blocks take them, KL on the same tokens, plain or turned by a Hadamard matrix, whichever "
      "is better: " +
          (beyond.empty() ? std::string("none lies beyond the front.") : beyond + " beyond the front."),
      width);
}

inline std::string table(const Comparison& c) {
  constexpr std::size_t widest = 120;
  constexpr std::size_t least_name = 14;
  int spare = 8;
  std::vector<std::string> lines = number_lines(c, spare);
  while (spare > 0 && width_of(lines.front()) > widest - least_name) { lines = number_lines(c, --spare); }
  const std::vector<std::string> names = name_lines(c, std::max(least_name, widest - std::min(widest, width_of(lines.front()))));
  for (std::size_t i = 0; i < lines.size(); ++i) { lines[i] = names[i] + lines[i]; }
  const std::size_t width = width_of(lines.front());
  lines.insert(lines.begin() + 2, std::string(width, '-'));
  std::string text;
  for (const Fact& fact : c.model) { text += wrapped(fact.name + ": " + fact.value, width); }
  for (const Fact& fact : c.machine) { text += wrapped(fact.name + ": " + fact.value, width); }
  text += "\n";
  for (const std::string& line : lines) { text += line + "\n"; }
  text += "\n* No other policy here is both smaller and closer to the exact model (KL).\n";
  text += references_line(c, width);
  for (const std::string& line : legend(c)) { text += wrapped(line, width); }
  text += "Settings:\n";
  for (const Row& row : c.rows) {
    if (row.policy.settings != row.policy.shown()) { text += "  " + row.policy.shown() + " = " + row.policy.settings + "\n"; }
  }
  return text + fmt::format("Took {:.1f} s.\n", c.seconds);
}

}  // namespace comparison
