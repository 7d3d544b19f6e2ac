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

/// The cells of the table: a title of two lines, and one text per row.
struct Column {
  std::string_view upper;
  std::string_view lower;
  std::string (*cell)(const Row&);
};

inline const std::vector<Column>& columns() {
  static const std::vector<Column> all{
      {"", "policy", [](const Row& r) { return r.policy.name; }},
      {"cache", "KiB", [](const Row& r) { return grouped(r.bytes / 1024.0); }},
      {"% of", "f16", [](const Row& r) { return percent(r.fraction_of_f16); }},
      {"% after", "prompt", [](const Row& r) { return percent(r.fraction_after_prompt); }},
      {"bits per", "value", [](const Row& r) { return fmt::format("{:.2f}", r.bits_per_value); }},
      {"slow", "KiB", [](const Row& r) { return r.slow_bytes > 0.0 ? grouped(r.slow_bytes / 1024.0) : std::string("-"); }},
      {"fetched", "KiB/tok",
       [](const Row& r) { return r.slow_bytes > 0.0 ? fmt::format("{:.1f}", r.fetched_per_token / 1024.0) : std::string("-"); }},
      {"", "perplexity", [](const Row& r) { return fmt::format("{:.3f}", r.perplexity); }},
      {"ratio", "to exact", [](const Row& r) { return fmt::format("{:.5f}", r.perplexity_ratio); }},
      {"KL", "nats", [](const Row& r) { return short_number(r.kl); }},
      {"same", "top-1 %", [](const Row& r) { return percent(r.top1_agreement); }},
      {"needles", "found %", [](const Row& r) { return r.needle_accuracy() ? percent(*r.needle_accuracy()) : std::string("-"); }},
      {"prompt", "tokens/s", [](const Row& r) { return grouped(r.prompt_tokens_per_s); }},
      {"decode", "tokens/s", [](const Row& r) { return grouped(r.decode_tokens_per_s); }},
      {"in cache", "us/token", [](const Row& r) { return fmt::format("{:.0f}", r.cache_us_per_token); }},
      {"peak", "KiB", [](const Row& r) { return grouped(static_cast<double>(r.peak_bytes) / 1024.0); }},
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
  if (any({"xkv", "shadowkv"})) { lines.push_back("xkv and shadowkv compress the prompt; decoded rows stay in f16: see % after prompt."); }
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

inline std::string table(const Comparison& c) {
  std::vector<std::string> lines(c.rows.size() + 2);
  for (const Column& column : columns()) {
    std::vector<std::string> cells{std::string(column.upper), std::string(column.lower)};
    for (const Row& row : c.rows) { cells.push_back(column.cell(row)); }
    std::size_t width = 0;
    for (const std::string& cell : cells) { width = std::max(width, cell.size()); }
    const bool first = &column == &columns().front();
    for (std::size_t i = 0; i < cells.size(); ++i) {
      lines[i] += first ? fmt::format("{:<{}}", cells[i], width) : fmt::format("  {:>{}}", cells[i], width);
    }
  }
  const std::size_t width = lines.front().size();
  lines.insert(lines.begin() + 2, std::string(width, '-'));
  std::string text;
  for (const Fact& fact : c.model) { text += wrapped(fact.name + ": " + fact.value, width); }
  for (const Fact& fact : c.machine) { text += wrapped(fact.name + ": " + fact.value, width); }
  text += "\n";
  for (const std::string& line : lines) { text += line + "\n"; }
  text += "\n";
  for (const std::string& line : legend(c)) { text += wrapped(line, width); }
  std::string settings = "Settings:";
  for (const Row& row : c.rows) {
    if (row.policy.settings != row.policy.name) { settings += " " + row.policy.settings; }
  }
  if (settings != "Settings:") { text += wrapped(settings, width); }
  return text + fmt::format("Took {:.1f} s.\n", c.seconds);
}

}  // namespace comparison
