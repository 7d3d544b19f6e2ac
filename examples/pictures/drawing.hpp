// examples/pictures/drawing.hpp - lanes as strips of rows, in an SVG that is read alone, on white and on dark.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "html/page.hpp"
#include "pictures/lanes.hpp"

namespace pictures {

/// A grid of panels: a line per policy, a column per budget; in each panel a strip per lane, in each strip a mark per row.
class Drawing {
 public:
  Drawing(std::size_t rows, std::size_t lanes, std::size_t columns) : rows_(rows), lanes_(lanes), columns_(columns) {}

  void heading(const std::vector<std::string>& texts) {
    for (std::size_t i = 0; i < texts.size(); ++i) { text(left + static_cast<double>(i) * step(), y_ + 10, texts[i], "start"); }
    y_ += 18;
  }
  /// The strips of one panel: the darker, the more. `shade` is from 0 to 1.
  void panel(std::size_t column, const std::vector<Lane>& shade, std::string_view colour) {
    const double x = left + static_cast<double>(column) * step();
    for (std::size_t lane = 0; lane < lanes_; ++lane) {
      const double y = y_ + static_cast<double>(lane) * strip;
      body_ += fmt::format("<path d=\"M{:g} {:g}h{:g}\" class=\"gone\"/>\n", x, y + thick / 2, width());
      strip_of(x, y + thick / 2, shade[lane], colour);
    }
  }
  void label(std::string_view name, const std::vector<std::string>& below) {
    text(0, y_ + 10, name, "start", "name");
    for (std::size_t i = 0; i < below.size(); ++i) { text(0, y_ + 24 + 13 * static_cast<double>(i), below[i], "start"); }
  }
  void next_line() { y_ += std::max(static_cast<double>(lanes_) * strip + 10, 44.0); }

  [[nodiscard]] std::string svg(std::string_view title) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\">\n"
        "<style>text {{ font: 11px system-ui, sans-serif; fill: #808a96; }} .name {{ font-weight: 600; font-size: 12px; }} "
        "path {{ fill: none; stroke-width: {:g}; }} .gone {{ stroke: #80808030; }}</style>\n{}</svg>\n",
        left + static_cast<double>(columns_) * step(), y_, html::escaped(title), thick, body_);
  }

 private:
  static constexpr double left = 150;
  static constexpr double strip = 10;
  static constexpr double thick = 8;
  static constexpr double row_width = 1.25;
  static constexpr std::size_t shades = 8;

  [[nodiscard]] double width() const { return row_width * static_cast<double>(rows_); }
  [[nodiscard]] double step() const { return width() + 20; }

  /// Neighbours of one shade are one mark, and all marks of a shade are one path.
  void strip_of(double x, double y, const Lane& lane, std::string_view colour) {
    const auto level = [&](std::size_t row) {
      return lane[row] <= 0.0 ? std::size_t{0} : std::min<std::size_t>(shades, 1 + static_cast<std::size_t>(lane[row] * (shades - 0.5)));
    };
    for (std::size_t wanted = 1; wanted <= shades; ++wanted) {
      std::string path;
      double at = 0.0;
      for (std::size_t row = 0; row < rows_;) {
        std::size_t end = row + 1;
        while (end < rows_ && level(end) == level(row)) { ++end; }
        if (level(row) == wanted) {
          const double from = row_width * static_cast<double>(row);
          path += path.empty() ? fmt::format("M{:g} {:g}", x + from, y) : fmt::format("m{:g} 0", from - at);
          at = row_width * static_cast<double>(end);
          path += fmt::format("h{:g}", at - from);
        }
        row = end;
      }
      if (!path.empty()) {
        body_ += fmt::format("<path d=\"{}\" stroke=\"{}\" stroke-opacity=\"{:g}\"/>\n", path, colour,
                             static_cast<double>(wanted) / static_cast<double>(shades));
      }
    }
  }
  void text(double x, double y, std::string_view what, std::string_view anchor, std::string_view kind = "") {
    body_ += fmt::format("<text x=\"{:g}\" y=\"{:g}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor,
                         kind.empty() ? "" : fmt::format(" class=\"{}\"", kind), html::escaped(what));
  }

  std::size_t rows_;
  std::size_t lanes_;
  std::size_t columns_;
  double y_ = 4;
  std::string body_;
};

}  // namespace pictures
