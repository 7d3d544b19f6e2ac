// examples/compare_policies/report_html.hpp - the results as one HTML file that needs nothing else.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "compare_policies/pareto_plot.hpp"
#include "compare_policies/results.hpp"
#include "compare_policies/table.hpp"

namespace comparison {

/// What this report adds to html::style.
inline constexpr std::string_view report_style = R"(
:root { --best: #0b6bcb; --other: #9aa5b1; }
@media (prefers-color-scheme: dark) { :root { --best: #5fb0ff; --other: #6b7682; } }
td small { display: block; font-weight: 400; color: var(--soft); }
td.best { color: var(--best); font-weight: 600; }
code { font: 13px ui-monospace, monospace; }
svg.plot .name { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.lead { stroke: var(--soft); stroke-width: .7; }
.front { fill: none; stroke: var(--best); stroke-width: 1.5; opacity: .6; }
.best { fill: var(--best); } .other { fill: var(--other); }
)";

inline std::string html_table(const Comparison& c) {
  const std::vector<std::size_t> front = pareto_front(c.rows);
  std::string text = "<div class=\"wide\"><table>\n<thead><tr>";
  for (const Column& column : columns()) {
    text += fmt::format("<th>{}{}{}</th>", escaped(column.upper), column.upper.empty() ? "" : "<br>", escaped(column.lower));
  }
  text += "</tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < c.rows.size(); ++i) {
    const Row& row = c.rows[i];
    text += "<tr>";
    for (const Column& column : columns()) {
      const bool name = &column == &columns().front();
      const bool best = name && std::find(front.begin(), front.end(), i) != front.end();
      const bool more = name && row.policy.settings != row.policy.name;
      text += fmt::format("<td{}>{}{}</td>", best ? " class=\"best\"" : "", escaped(column.cell(row)),
                          more ? "<small>" + escaped(row.policy.settings) + "</small>" : "");
    }
    text += "</tr>\n";
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
  text += "<h2>Memory against divergence</h2>\n" + ParetoPlot(c.rows).svg();
  text +=
      "<p class=\"sub\">Blue: no other policy here is both smaller and closer to the exact model. Both axes are logarithmic; "
      "KL below 1e-6 is drawn at 1e-6.</p>\n";
  text += "<h2>Results</h2>\n" + html_table(c);
  text += "<h2>How it was measured</h2>\n";
  for (const std::string& line : legend(c)) { text += "<p>" + escaped(line) + "</p>\n"; }
  text += "<h2>What it was measured on</h2>\n" + fact_list(c.model);
  if (!c.known_limits.empty()) {
    text += "<p>Known limits, from the model's card:</p>\n<ul>\n";
    for (const std::string& limit : c.known_limits) { text += "<li>" + escaped(limit) + "</li>\n"; }
    text += "</ul>\n";
  }
  std::vector<Fact> run = c.machine;
  run.push_back({"Text", fmt::format("{}, {} tokens, of which {} windows of {}", c.setup.text, c.text_tokens, c.windows, c.setup.context)});
  run.push_back({"Threads", fmt::format("{}; speeds are of one", c.setup.threads)});
  run.push_back({"Seed", std::to_string(c.setup.seed)});
  run.push_back({"Took", fmt::format("{:.1f} s", c.seconds)});
  run.push_back({"Command", c.command});
  return text + fact_list(run) + "</body>\n</html>\n";
}

}  // namespace comparison
