// bench/report/line_plot.hpp - time by context, both axes logarithmic, one line per competitor, dashed where it is fitted, as SVG.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "report/svg.hpp"

namespace report {

struct Line {
  std::string name;
  std::vector<std::pair<double, double>> points{};  ///< context, microseconds; ascending
  std::vector<std::pair<double, double>> fitted{};  ///< the same where nothing was measured

  /// Goes on to `end` tokens as a + b * context, fitted to what was measured with the least relative errors.
  void extend(double end) {
    double sums[2][3] = {};  // of the normal equations
    for (const auto& [context, time] : points) {
      const double weight = 1.0 / (time * time);
      const double rows[2] = {1.0, context};
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) { sums[i][j] += weight * rows[i] * rows[j]; }
        sums[i][2] += weight * rows[i] * time;
      }
    }
    const double determinant = sums[0][0] * sums[1][1] - sums[0][1] * sums[1][0];
    if (points.size() < 2 || determinant <= 0.0) { return; }
    const double slope = std::max(0.0, (sums[0][0] * sums[1][2] - sums[1][0] * sums[0][2]) / determinant);
    const auto& [last, time] = points.back();
    for (double context = 2.0 * last; context <= end; context *= 2.0) { fitted.emplace_back(context, time + slope * (context - last)); }
  }
  /// Where the line ends.
  [[nodiscard]] const std::pair<double, double>& end() const { return fitted.empty() ? points.back() : fitted.back(); }
};

class LinePlot {
 public:
  explicit LinePlot(const std::vector<Line>& lines) : lines_(lines) {
    for (const Line& line : lines) {
      for (const auto* part : {&line.points, &line.fitted}) {
        for (const auto& [x, y] : *part) {
          left_ = std::min(left_, std::log2(x));
          right_ = std::max(right_, std::log2(x));
          low_ = std::min(low_, std::log10(y));
          high_ = std::max(high_, std::log10(y));
        }
      }
    }
    low_ = std::floor(low_ - 0.05);
    high_ = std::ceil(high_ + 0.05);
    if (left_ == right_) { right_ += 1.0; }
  }

  [[nodiscard]] std::string svg() const {
    std::string text = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" "
        "aria-label=\"Time of a decode step by context\">\n<style>{}</style>\n",
        width, height, plot_style);
    text += axes();
    for (std::size_t i = 0; i < lines_.size(); ++i) { text += line(lines_[i], colour(i)); }
    return text + names() + "</svg>\n";
  }

 private:
  static constexpr double width = 980;
  static constexpr double height = 560;
  static constexpr double area_left = 76;
  static constexpr double area_top = 14;
  static constexpr double area_width = 700;
  static constexpr double area_height = 490;

  [[nodiscard]] double x(double context) const { return area_left + area_width * (std::log2(context) - left_) / (right_ - left_); }
  [[nodiscard]] double y(double time) const { return area_top + area_height * (high_ - std::log10(time)) / (high_ - low_); }

  static std::string tokens(double count) {
    constexpr double k = 1024.0;
    if (count < k) { return fmt::format("{:g}", count); }
    return count < k * k ? fmt::format("{:g}k", count / k) : fmt::format("{:g}M", count / k / k);
  }
  [[nodiscard]] std::string axes() const {
    std::string text;
    for (double decade = low_; decade <= high_; ++decade) {
      for (const double step : {1.0, 2.0, 5.0}) {
        const double time = step * std::pow(10.0, decade);
        if (std::log10(time) > high_ + 1e-9) { continue; }
        const std::string shown = time >= 1e6   ? fmt::format("{:g} s", time * 1e-6)
                                  : time >= 1e3 ? fmt::format("{:g} ms", time * 1e-3)
                                                : fmt::format("{:g} us", time);
        text += fmt::format(
            "<line class=\"grid\" x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\"/><text class=\"tick\" x=\"{3}\" y=\"{4:.1f}\" "
            "text-anchor=\"end\">{5}</text>\n",
            area_left, y(time), area_left + area_width, area_left - 8, y(time) + 4, shown);
      }
    }
    for (double power = std::ceil(left_); power <= right_; ++power) {
      const double context = std::exp2(power);
      text += fmt::format(
          "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/><text class=\"tick\" x=\"{0:.1f}\" y=\"{3}\" "
          "text-anchor=\"middle\">{4}</text>\n",
          x(context), area_top, area_top + area_height, area_top + area_height + 18, tokens(context));
    }
    return text + fmt::format("<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">tokens in the cache</text>\n",
                              area_left + area_width / 2, height - 12);
  }
  [[nodiscard]] std::string line(const Line& line, std::string_view stroke) const {
    std::string path;
    std::string dots;
    for (const auto& [context, time] : line.points) {
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", x(context), y(time));
      dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"><title>{}, {:.0f} tokens: {:.1f} us</title></circle>\n",
                          x(context), y(time), stroke, escaped(line.name), context, time);
    }
    std::string beyond = fmt::format("M{:.1f} {:.1f}", x(line.points.back().first), y(line.points.back().second));
    for (const auto& [context, time] : line.fitted) { beyond += fmt::format(" L{:.1f} {:.1f}", x(context), y(time)); }
    return fmt::format(
               "<path d=\"{0}\" fill=\"none\" stroke=\"{2}\" stroke-width=\"2\"/><path d=\"{1}\" fill=\"none\" stroke=\"{2}\" "
               "stroke-width=\"1.5\" stroke-dasharray=\"6 5\"/>\n",
               path, beyond, stroke) +
           dots;
  }
  /// Names at the right, beside the ends of their lines as far as they do not touch, in the order of these ends.
  [[nodiscard]] std::string names() const {
    constexpr double apart = 16;
    std::vector<std::size_t> order(lines_.size());
    for (std::size_t i = 0; i < order.size(); ++i) { order[i] = i; }
    const auto end = [&](std::size_t i) { return y(lines_[i].end().second); };
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return end(a) < end(b); });
    std::vector<double> at;
    for (const std::size_t i : order) { at.push_back(std::max(end(i), at.empty() ? area_top : at.back() + apart)); }
    double lowest = area_top + area_height + 20;
    for (std::size_t i = at.size(); i-- > 0; lowest = at[i] - apart) { at[i] = std::min(at[i], lowest); }
    std::string text;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const Line& line = lines_[order[i]];
      text += fmt::format(
          "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"{}\" stroke-width=\".7\"/>"
          "<text class=\"name\" x=\"{}\" y=\"{:.1f}\">{}</text>\n",
          x(line.end().first), end(order[i]), area_left + area_width + 30, at[i], colour(order[i]), area_left + area_width + 34, at[i] + 4,
          escaped(line.name));
    }
    return text;
  }

  const std::vector<Line>& lines_;
  double left_ = 64.0;  // log2 of contexts
  double right_ = 0.0;
  double low_ = 30.0;  // log10 of times
  double high_ = -30.0;
};

}  // namespace report
