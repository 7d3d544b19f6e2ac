// bench/report/page.cpp - the results as one HTML file: plots of the decode scenario, then every row.
// SPDX-License-Identifier: MIT
#include "report/page.hpp"

#include <algorithm>
#include <array>

#include "report/bar_plot.hpp"
#include "report/line_plot.hpp"

namespace report {
namespace {

/// What this page adds to html::style.
constexpr std::string_view own_style = R"(
:root { --bar: #0b6bcb; --bad: #c02d2d; }
@media (prefers-color-scheme: dark) { :root { --bar: #5fb0ff; --bad: #ff7b72; } }
td:last-child { text-align: left; } td.bad { color: var(--bad); }
.bar { fill: var(--bar); } .mark { stroke: var(--soft); stroke-dasharray: 4 3; }
)";

struct Column {
  const char* heading;
  const char* counter;
  double factor;
  const char* format;
};

constexpr std::array<Column, 9> columns{{{"tokens/s<br>(layer)", "tokens_per_second", 1.0, "{:.0f}"},
                                         {"read<br>MB", "bytes_read", 1e-6, "{:.2f}"},
                                         {"<br>GB/s", "bytes_per_second", 1e-9, "{:.1f}"},
                                         {"% of<br>limit", "share_of_read_limit", 100.0, "{:.0f}"},
                                         {"x<br>f16", "speed_against_f16", 1.0, "{:.2f}"},
                                         {"error of<br>kernel", "kernel_error", 1.0, "{:.0e}"},
                                         {"error of<br>output", "output_error", 1.0, "{:.0e}"},
                                         {"bits /<br>value", "bits_per_value", 1.0, "{:.2f}"},
                                         {"rounds<br>kept", "rounds", 1.0, "{:.0f}"}}};

std::string table(const std::vector<Row>& rows, const std::string& scenario) {
  std::string text = "<div class=\"wide\"><table>\n<thead><tr><th></th><th>time<br>us</th>";
  for (const Column& column : columns) { text += fmt::format("<th>{}</th>", column.heading); }
  text += "<th></th></tr></thead>\n<tbody>\n";
  for (const Row& row : rows) {
    if (row.scenario() != scenario) { continue; }
    text += fmt::format("<tr><td>{}</td>", escaped(row.name));
    if (!row.failure.empty()) {
      text += fmt::format("<td class=\"bad\" colspan=\"{}\">{}</td></tr>\n", columns.size() + 2, escaped(row.failure));
      continue;
    }
    text += fmt::format("<td>{:.1f}</td>", row.microseconds);
    for (const Column& column : columns) {
      const std::optional<double> value = row.get(column.counter);
      text += fmt::format("<td>{}</td>", value ? fmt::format(fmt::runtime(column.format), column.factor * *value) : "-");
    }
    text += fmt::format("<td>{}</td></tr>\n", escaped(row.note));
  }
  return text + "</tbody></table></div>\n";
}

/// The decode rows that were right.
std::vector<Row> decode_rows(const Results& results) {
  std::vector<Row> rows;
  std::copy_if(results.rows.begin(), results.rows.end(), std::back_inserter(rows),
               [](const Row& row) { return row.scenario() == "decode" && row.failure.empty() && row.get("context"); });
  return rows;
}

std::vector<Line> lines(const std::vector<Row>& rows) {
  std::vector<Line> all;
  for (const Row& row : rows) {
    auto line = std::find_if(all.begin(), all.end(), [&](const Line& one) { return one.name == row.competitor(); });
    if (line == all.end()) { line = all.insert(all.end(), Line{.name = row.competitor()}); }
    line->points.emplace_back(*row.get("context"), row.microseconds);
  }
  for (Line& line : all) {
    std::sort(line.points.begin(), line.points.end());
    line.extend(1 << 20);
  }
  return all;
}

/// A number of every competitor at the context that most of them have, the longest of these.
std::string bars(const std::vector<Row>& rows, const std::string& heading, const std::string& sentence, const Column& column, double mark) {
  std::map<double, std::size_t> contexts;
  for (const Row& row : rows) { ++contexts[*row.get("context")]; }
  double context = 0.0;
  std::size_t most = 0;
  for (const auto& [length, count] : contexts) {
    if (count >= most) {
      context = length;
      most = count;
    }
  }
  std::vector<std::pair<std::string, double>> numbers;
  for (const Row& row : rows) {
    if (*row.get("context") == context && row.get(column.counter)) {
      numbers.emplace_back(row.competitor(), column.factor * *row.get(column.counter));
    }
  }
  return fmt::format("<h2>{}, {:.0f} tokens</h2>\n{}<p class=\"sub\">{}</p>\n", heading, context,
                     bar_plot(numbers, column.format, mark, heading), sentence);
}

}  // namespace

std::string decode_plot(const Results& results) { return LinePlot(lines(decode_rows(results))).svg(); }

std::string page(const Results& results) {
  std::string text = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"
      "<title>kvcompress measured</title>\n<style>{}{}</style>\n</head>\n<body>\n<h1>kvcompress measured</h1>\n",
      html::style, own_style);
  text += "<p class=\"sub\">Attention over compressed rows: one token, one layer, rows that are not in the processor's cache.</p>\n";
  if (const std::vector<Row> rows = decode_rows(results); !rows.empty()) {
    const std::vector<Line> all = lines(rows);
    text += "<h2>Time of a decode step by context</h2>\n" + LinePlot(all).svg() +
            "<p class=\"sub\">Dashed: a + b * context, fitted to what was measured.</p>\n";
    text += bars(rows, "Share of the read limit",
                 "100 %: as fast as the bytes that it reads can be loaded at all. The dashed line stands there.",
                 {"", "share_of_read_limit", 100.0, "{:.0f} %"}, 100.0);
    text += bars(rows, "Speed against f16", "How many times as fast as our attention over f16 rows, measured in the same rounds.",
                 {"", "speed_against_f16", 1.0, "{:.2f} x"}, 1.0);
    text += bars(rows, "Memory", "Bits held per number of keys and values, scales, indices and slow tiers included. The dashed line: f16.",
                 {"", "bits_per_value", 1.0, "{:.2f} bits"}, 16.0);
  }
  std::vector<std::string> scenarios;
  for (const Row& row : results.rows) {
    if (std::find(scenarios.begin(), scenarios.end(), row.scenario()) == scenarios.end()) { scenarios.push_back(row.scenario()); }
  }
  for (const std::string& scenario : scenarios) {
    text += fmt::format("<h2>{}</h2>\n{}", escaped(scenario), table(results.rows, scenario));
  }
  text +=
      "<p>Error of kernel: of the output against the definition in double over the rows as they are decoded, relative in length. Error of "
      "output: against the rows as they were, before compression.</p>\n<h2>What it was measured on</h2>\n<dl>\n";
  for (const auto& [name, value] : results.facts) { text += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value)); }
  return text + "</dl>\n</body>\n</html>\n";
}

}  // namespace report
