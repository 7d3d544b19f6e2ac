// examples/compare_policies/pareto_plot.hpp - memory against KL as inline SVG, with the best trade-offs joined by a line.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "compare_policies/results.hpp"
#include "html/page.hpp"

namespace comparison {

using html::escaped;

/// Rows than which no other has fewer bytes and less KL, in ascending bytes.
inline std::vector<std::size_t> pareto_front(const std::vector<Row>& rows) {
  std::vector<std::size_t> order(rows.size());
  for (std::size_t i = 0; i < order.size(); ++i) { order[i] = i; }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return rows[a].bytes != rows[b].bytes ? rows[a].bytes < rows[b].bytes : rows[a].kl < rows[b].kl;
  });
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    if (front.empty() || rows[i].kl < rows[front.back()].kl) { front.push_back(i); }
  }
  return front;
}

/// A rectangle of the drawing.
struct Box {
  double left = 0.0;
  double top = 0.0;
  double width = 0.0;
  double height = 0.0;
  [[nodiscard]] bool overlaps(const Box& other) const {
    return left < other.left + other.width && other.left < left + width && top < other.top + other.height && other.top < top + height;
  }
  [[nodiscard]] bool within(const Box& other) const {
    return left >= other.left && top >= other.top && left + width <= other.left + other.width && top + height <= other.top + other.height;
  }
};

/// Draws the rows. x: bytes in % of f16, logarithmic; y: KL, logarithmic, up is worse.
class ParetoPlot {
 public:
  explicit ParetoPlot(const std::vector<Row>& rows) : rows_(rows) {
    double least = 1.0;
    double largest = least_kl;
    for (const Row& row : rows) {
      smallest_fraction_ = std::min(smallest_fraction_, 0.85 * row.fraction_of_f16);
      largest_fraction_ = std::max(largest_fraction_, 1.1 * row.fraction_of_f16);
      least = std::min(least, shown_kl(row));
      largest = std::max(largest, shown_kl(row));
    }
    lowest_ = std::floor(std::log10(least));
    highest_ = std::max(lowest_ + 1.0, std::log10(3.0 * largest));
  }

  [[nodiscard]] std::string svg() const {
    std::string text =
        fmt::format("<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"Memory against KL divergence\">\n", width, height);
    text += axes();
    text += front_line();
    std::vector<Box> taken;
    for (const Row& row : rows_) { taken.push_back({x(row) - 6, y(row) - 6, 12, 12}); }
    const std::vector<std::size_t> front = pareto_front(rows_);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const bool best = std::find(front.begin(), front.end(), i) != front.end();
      text += fmt::format(
          "<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\">"
          "<title>{}: {:.1f} % of f16, KL {:.3g}</title></circle>\n",
          best ? "best" : "other", x(rows_[i]), y(rows_[i]), escaped(rows_[i].policy.settings), 100.0 * rows_[i].fraction_of_f16,
          rows_[i].kl);
      text += label(rows_[i], taken);
    }
    return text + "</svg>\n";
  }

 private:
  static constexpr double width = 900;
  static constexpr double height = 480;
  static constexpr Box area{70, 14, 810, 410};
  static constexpr double least_kl = 1e-6;  // what is below is drawn here: no text shows it

  static double shown_kl(const Row& row) { return std::max(least_kl, row.kl); }
  [[nodiscard]] double x_of(double fraction) const {
    return area.left + area.width * std::log(fraction / smallest_fraction_) / std::log(largest_fraction_ / smallest_fraction_);
  }
  [[nodiscard]] double y_of(double log10_kl) const { return area.top + area.height * (highest_ - log10_kl) / (highest_ - lowest_); }
  [[nodiscard]] double x(const Row& row) const { return x_of(row.fraction_of_f16); }
  [[nodiscard]] double y(const Row& row) const { return y_of(std::log10(shown_kl(row))); }

  [[nodiscard]] std::string axes() const {
    std::string text;
    const double bottom = area.top + area.height;
    for (double decade = lowest_; decade <= highest_; ++decade) {
      const std::string power = decade < -3.0 ? fmt::format("1e{:.0f}", decade) : fmt::format("{:g}", std::pow(10.0, decade));
      const bool floor = decade == std::log10(least_kl);
      text += fmt::format(
          "<line class=\"grid\" x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\"/>"
          "<text class=\"tick\" x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}{6}</text>\n",
          area.left, y_of(decade), area.left + area.width, area.left - 8, y_of(decade) + 4, floor ? "&#8804; " : "", power);
    }
    for (const double percent : {1.0, 2.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0}) {
      const double fraction = percent / 100.0;
      if (fraction < smallest_fraction_ || fraction > largest_fraction_) { continue; }
      text += fmt::format(
          "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/>"
          "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:g} %</text>\n",
          x_of(fraction), area.top, bottom, bottom + 18, percent);
    }
    text += fmt::format(
        "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">cache bytes in fast memory after the last token, % of f16 "
        "full (left is smaller)</text>\n",
        area.left + area.width / 2, height - 8);
    return text + fmt::format(
                      "<text class=\"axis\" transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">"
                      "mean KL from the exact model, nats (down is better)</text>\n",
                      area.top + area.height / 2);
  }

  /// Steps through the best trade-offs: what can be had for so many bytes.
  [[nodiscard]] std::string front_line() const {
    std::string path;
    double last = 0.0;
    for (const std::size_t i : pareto_front(rows_)) {
      path += path.empty() ? fmt::format("M{:.1f} {:.1f}", x(rows_[i]), y(rows_[i]))
                           : fmt::format(" L{:.1f} {:.1f} L{:.1f} {:.1f}", x(rows_[i]), last, x(rows_[i]), y(rows_[i]));
      last = y(rows_[i]);
    }
    return "<path class=\"front\" d=\"" + path + "\"/>\n";
  }

  /// A name beside its point, where it covers neither a point nor a name; a thin line leads to it if it is far.
  [[nodiscard]] std::string label(const Row& row, std::vector<Box>& taken) const {
    const double size = 7.0 * static_cast<double>(row.policy.name.size());
    Box best{x(row) + 9, y(row) - 8, size, 16};
    const auto is_free = [&](const Box& box) {
      return box.within(area) && std::none_of(taken.begin(), taken.end(), [&](const Box& other) { return box.overlaps(other); });
    };
    bool found = is_free(best);
    for (double away = 9; !found && away < 200; away += 9) {
      for (const Box& box : {Box{x(row) - 9 - size, y(row) - 8, size, 16}, Box{x(row) + 9, y(row) - 8 - away, size, 16},
                             Box{x(row) + 9, y(row) - 8 + away, size, 16}, Box{x(row) - 9 - size, y(row) - 8 - away, size, 16},
                             Box{x(row) - 9 - size, y(row) - 8 + away, size, 16}}) {
        if (!found && is_free(box)) {
          best = box;
          found = true;
        }
      }
    }
    taken.push_back(best);
    std::string text;
    const bool right = best.left > x(row);
    if (std::abs(best.top + 8 - y(row)) > 14) {
      text = fmt::format("<line class=\"lead\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x(row), y(row),
                         right ? best.left : best.left + size, best.top + 8);
    }
    return text + fmt::format("<text class=\"name\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                              right ? best.left : best.left + size, best.top + 12, right ? "start" : "end", escaped(row.policy.name));
  }

  const std::vector<Row>& rows_;
  double smallest_fraction_ = 0.85;
  double largest_fraction_ = 1.1;
  double lowest_ = -6.0;  // log10 of KL
  double highest_ = 0.0;
};

}  // namespace comparison
