// bench/report/bar_plot.hpp - one number per competitor as horizontal bars, as SVG.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "report/svg.hpp"

namespace report {

/// `format` shows a number, e.g. "{:.0f} %"; a line stands at `mark` unless it is 0.
inline std::string bar_plot(const std::vector<std::pair<std::string, double>>& bars, const char* format, double mark,
                            const std::string& title) {
  constexpr double left = 190;
  constexpr double width = 980;
  constexpr double room = 700;
  constexpr double step = 26;
  double largest = mark;
  for (const auto& [name, value] : bars) { largest = std::max(largest, value); }
  const double height = step * static_cast<double>(bars.size()) + 8;
  std::string text =
      fmt::format("<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", width, height, escaped(title));
  double y = 4;
  for (const auto& [name, value] : bars) {
    const double length = room * value / largest;
    text += fmt::format(
        "<text class=\"name\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
        "<rect class=\"bar\" x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" rx=\"2\"/>"
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
        left - 8, y + 16, escaped(name), left, y + 3, length, step - 8, left + length + 6, y + 16,
        fmt::format(fmt::runtime(format), value));
    y += step;
  }
  if (mark > 0.0) {
    text += fmt::format("<line class=\"mark\" x1=\"{0:.1f}\" y1=\"0\" x2=\"{0:.1f}\" y2=\"{1}\"/>\n", left + room * mark / largest, height);
  }
  return text + "</svg>\n";
}

}  // namespace report
