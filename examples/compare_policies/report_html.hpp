// examples/compare_policies/report_html.hpp - the results as one HTML file that needs nothing else.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "compare_policies/pareto_plot.hpp"
#include "compare_policies/results.hpp"
#include "compare_policies/table.hpp"

namespace comparison {

/// What this report adds to html::style.
inline constexpr std::string_view report_style = R"(
:root { --best: #0b6bcb; --other: #9aa5b1; --reference: #b5651d; --found: 11, 107, 203; }
@media (prefers-color-scheme: dark) { :root { --best: #5fb0ff; --other: #6b7682; --reference: #e0a062; --found: 95, 176, 255; } }
body { max-width: 100rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
.pair figure { margin: 0; } .pair figcaption { color: var(--soft); }
table.numbers th, table.numbers td { padding: .3rem .4rem; } table.each td:last-child { white-space: normal; overflow-wrap: anywhere; }
table.each th:last-child, table.each td:last-child, td.kind { text-align: left; }
@media (max-width: 1200px) {
  table.numbers { font-size: 11.5px; } table.numbers th, table.numbers td { padding: .2rem .2rem; }
  td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
}
td.best { color: var(--best); font-weight: 600; }
code { font: 12px ui-monospace, monospace; }
svg.plot .name { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; } svg.plot .of_reference { fill: var(--reference); }
svg.layers { display: block; } svg.layers rect { fill: var(--best); } svg.layers .room { fill: var(--line); }
.lead { stroke: var(--soft); stroke-width: .7; }
.front { fill: none; stroke: var(--best); stroke-width: 1.5; opacity: .6; }
.best { fill: var(--best); } .other { fill: var(--other); } .reference { fill: none; stroke: var(--reference); stroke-width: 1.6; }
)";

inline std::string html_table(const Comparison& c) {
  const std::vector<std::size_t> front = pareto_front(c.rows);
  const std::vector<const Column*> columns_shown = shown_columns(c);
  std::string text = "<div class=\"wide\"><table class=\"numbers\">\n<thead><tr>";
  for (const Column* const shown : columns_shown) {
    const Column& column = *shown;
    text += fmt::format("<th>{}{}{}</th>", escaped(column.upper), column.upper.empty() ? "" : "<br>", escaped(column.lower));
  }
  text += "</tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < c.rows.size(); ++i) {
    text += "<tr>";
    for (const Column* const shown : columns_shown) {
      const Column& column = *shown;
      const bool best = &column == &columns().front() && std::find(front.begin(), front.end(), i) != front.end();
      text += fmt::format("<td{}>{}</td>", best ? " class=\"best\"" : "", escaped(column.cell(c.rows[i])));
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

/// KL against bits and against time, side by side.
inline std::string plots(const Comparison& c) {
  std::vector<PlotPoint> bits;
  std::vector<PlotPoint> time;
  for (const Row& row : c.rows) {
    bits.push_back({row.policy.shown(), row.bits_per_value, row.kl, row.policy.settings});
    time.push_back({row.policy.shown(), row.cache_us_per_token, row.kl, row.policy.settings});
  }
  for (const Row& row : c.references) {
    bits.push_back({row.policy.name, row.bits_per_value, row.kl, "llama.cpp's " + row.policy.name, true});
  }
  const auto positive = [](const std::vector<PlotPoint>& points) {
    return std::all_of(points.begin(), points.end(), [](const PlotPoint& point) { return point.cost > 0.0; });
  };
  std::string text = "<div class=\"pair\">\n";
  if (positive(bits)) {
    text += "<figure>\n" + ParetoPlot(bits, "memory", "bits per value").svg() + "<figcaption>Memory, all that the cache holds included.";
    if (!c.references.empty()) {
      text +=
          " Diamonds: llama.cpp's own types of caches, rounded to by this program: their codes and scales alone, and no time, which is "
          "llama.cpp's.";
    }
    text += "</figcaption></figure>\n";
  }
  if (positive(time)) {
    text += "<figure>\n" + ParetoPlot(time, "time in the cache", "us per decoded token").svg() +
            "<figcaption>Time, of one thread in append, attend and commit of all layers.</figcaption></figure>\n";
  }
  return text +
         "</div>\n<p class=\"sub\">Blue: no other policy here is both cheaper and closer to the exact model. Axes are logarithmic; KL "
         "below 1e-6 is drawn at 1e-6.</p>\n";
}

/// A bar per layer, as high as what it holds is of the most that any layer of any policy does.
inline std::string layer_bars(const std::vector<double>& bytes, double most) {
  if (bytes.empty() || most <= 0.0) { return "-"; }
  constexpr double height = 26;
  const double step = std::min(12.0, 168.0 / static_cast<double>(bytes.size()));
  std::string text = fmt::format("<svg class=\"layers\" width=\"{:g}\" height=\"{:g}\" role=\"img\" aria-label=\"bytes by layer\">",
                                 step * static_cast<double>(bytes.size()), height);
  for (std::size_t layer = 0; layer < bytes.size(); ++layer) {
    const double high = height * bytes[layer] / most;
    const double x = step * static_cast<double>(layer);
    text += fmt::format(
        "<rect class=\"room\" x=\"{0:g}\" y=\"0\" width=\"{1:g}\" height=\"{2:g}\"/><rect x=\"{0:g}\" y=\"{3:.1f}\" width=\"{1:g}\" "
        "height=\"{4:.1f}\"><title>layer {5}: {6} KiB</title></rect>",
        x, step - 1.5, height, height - high, high, layer, grouped(bytes[layer] / 1024.0));
  }
  return text + "</svg>";
}

/// A line per policy: needles by depth, memory by layer, its options.
inline std::string each_policy(const Comparison& c) {
  std::size_t depths = 0;
  double most = 0.0;
  for (const Row& row : c.rows) {
    depths = std::max(depths, row.needles_by_depth.size());
    for (const double bytes : row.layer_bytes) { most = std::max(most, bytes); }
  }
  std::string text = "<div class=\"wide\"><table class=\"each\">\n<thead><tr><th>policy</th>";
  for (std::size_t i = 0; i < depths; ++i) {
    text += fmt::format("<th>{}{:.0f} %</th>", i == 0 ? "needles<br>at " : "<br>",
                        100.0 * (static_cast<double>(i) + 0.5) / static_cast<double>(depths));
  }
  text += "<th>memory<br>by layer</th><th>with its options</th></tr></thead>\n<tbody>\n";
  for (const Row& row : c.rows) {
    text += "<tr><td>" + escaped(row.policy.shown()) + "</td>";
    for (std::size_t i = 0; i < depths; ++i) {
      const double share = i < row.needles_by_depth.size() ? row.needles_by_depth[i] : 0.0;
      text += fmt::format("<td style=\"background: rgba(var(--found), {:.2f})\">{:.0f}</td>", 0.5 * share, 100.0 * share);
    }
    text += "<td>" + layer_bars(row.layer_bytes, most) + "</td><td><code>" + escaped(row.policy.settings) + "</code></td></tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

inline std::string fact_list(const std::vector<Fact>& facts) {
  std::string text = "<dl>\n";
  for (const Fact& fact : facts) { text += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escaped(fact.name), escaped(fact.value)); }
  return text + "</dl>\n";
}

inline std::string html_text(const Comparison& c) {
  std::string text = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"
      "<title>KV-cache policies compared</title>\n<style>{}{}</style>\n</head>\n<body>\n<h1>KV-cache policies compared</h1>\n"
      "<p class=\"sub\">kvcompress, compare_policies, {}</p>\n",
      html::style, report_style, escaped(c.date));
  text += "<h2>What closeness costs</h2>\n" + plots(c);
  text += "<h2>Results</h2>\n" + html_table(c);
  text += "<p class=\"sub\">Blue: no other policy here is both smaller and closer to the exact model.</p>\n";
  text += "<h2>Each policy</h2>\n" + each_policy(c);
  text +=
      "<p class=\"sub\">Needles: % found by depth in the text. Bars: a layer each, to the same scale; what layers hold together is shared "
      "out "
      "evenly.</p>\n";
  text += "<h2>How it was measured</h2>\n";
  for (const std::string& line : legend(c)) { text += "<p>" + escaped(line) + "</p>\n"; }
  text += "<h2>What it was measured on</h2>\n" + fact_list(c.model);
  if (!c.known_limits.empty()) {
    text += "<p>Known limits, from the model's card:</p>\n<ul>\n";
    for (const std::string& limit : c.known_limits) { text += "<li>" + escaped(limit) + "</li>\n"; }
    text += "</ul>\n";
  }
  std::vector<Fact> run = c.machine;
  const std::string file = std::filesystem::path(c.setup.text).filename().string();
  run.push_back({"Text", fmt::format("{}, {} tokens, of which {} windows of {}", file, c.text_tokens, c.windows, c.setup.context)});
  run.push_back({"Threads", fmt::format("{}; speeds are of one", c.setup.threads)});
  run.push_back({"Seed", std::to_string(c.setup.seed)});
  run.push_back({"Took", fmt::format("{:.1f} s", c.seconds)});
  run.push_back({"Command", c.command});
  return text + fact_list(run) + "</body>\n</html>\n";
}

}  // namespace comparison
