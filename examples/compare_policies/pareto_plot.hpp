// examples/compare_policies/pareto_plot.hpp - a cost against KL as inline SVG, with the best trade-offs joined by a line.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compare_policies/front.hpp"
#include "html/page.hpp"

namespace comparison {

using html::escaped;

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

/// A policy in a plot, or something that is no policy of ours and is drawn for reference.
struct PlotPoint {
  std::string name;
  double cost = 0.0;  // above 0
  double kl = 0.0;
  std::string title;
  bool reference = false;
};

/// x: a cost, logarithmic, left is better; y: KL, logarithmic, down is better.
class ParetoPlot {
 public:
  ParetoPlot(std::vector<PlotPoint> points, std::string cost, std::string unit)
      : points_(std::move(points)), cost_(std::move(cost)), unit_(std::move(unit)) {
    double least = 1.0;
    double largest = least_kl;
    for (const PlotPoint& point : points_) {
      lowest_cost_ = std::min(lowest_cost_, 0.85 * point.cost);
      highest_cost_ = std::max(highest_cost_, 1.18 * point.cost);
      least = std::min(least, shown_kl(point));
      largest = std::max(largest, shown_kl(point));
      if (!point.reference) { costs_.emplace_back(point.cost, point.kl); }
    }
    lowest_ = std::floor(std::log10(least));
    highest_ = std::max(lowest_ + 1.0, std::log10(3.0 * largest));
  }

  [[nodiscard]] std::string svg() const {
    std::string text = fmt::format("<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"KL divergence against {}\">\n",
                                   width, height, escaped(cost_));
    text += axes();
    const std::vector<std::size_t> front = pareto_front(costs_);  // references stand behind all others
    text += front_line(front);
    std::vector<Box> taken;
    for (const PlotPoint& point : points_) { taken.push_back({x(point) - 6, y(point) - 6, 12, 12}); }
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const bool best = std::find(front.begin(), front.end(), i) != front.end();
      text += mark(points_[i], best) + label(points_[i], taken);
    }
    return text + "</svg>\n";
  }

 private:
  static constexpr double width = 600;
  static constexpr double height = 470;
  static constexpr Box area{66, 14, 520, 400};
  static constexpr double least_kl = 1e-6;  // what is below is drawn here: no text shows it

  static double shown_kl(const PlotPoint& point) { return std::max(least_kl, point.kl); }
  [[nodiscard]] double x_of(double cost) const {
    return area.left + area.width * std::log(cost / lowest_cost_) / std::log(highest_cost_ / lowest_cost_);
  }
  [[nodiscard]] double y_of(double log10_kl) const { return area.top + area.height * (highest_ - log10_kl) / (highest_ - lowest_); }
  [[nodiscard]] double x(const PlotPoint& point) const { return x_of(point.cost); }
  [[nodiscard]] double y(const PlotPoint& point) const { return y_of(std::log10(shown_kl(point))); }

  [[nodiscard]] std::string mark(const PlotPoint& point, bool best) const {
    const std::string title =
        fmt::format("<title>{}: {:.3g} {}, KL {:.3g}</title>", escaped(point.title), point.cost, escaped(unit_), point.kl);
    if (point.reference) {
      return fmt::format("<path class=\"reference\" d=\"M{:.1f} {:.1f}l6 6l-6 6l-6 -6z\">{}</path>\n", x(point), y(point) - 6, title);
    }
    return fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\">{}</circle>\n", best ? "best" : "other", x(point),
                       y(point), title);
  }

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
    double last = -100.0;
    for (double decade = std::pow(10.0, std::floor(std::log10(lowest_cost_))); decade < highest_cost_; decade *= 10.0) {
      for (const double digit : {1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0}) {
        const double at = x_of(digit * decade);
        if (digit * decade < lowest_cost_ || digit * decade > highest_cost_ || at - last < 34.0) { continue; }
        last = at;
        text += fmt::format(
            "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/>"
            "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:g}</text>\n",
            at, area.top, bottom, bottom + 18, digit * decade);
      }
    }
    text += fmt::format("<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}, {} (left is better)</text>\n",
                        area.left + area.width / 2, height - 8, escaped(cost_), escaped(unit_));
    return text + fmt::format(
                      "<text class=\"axis\" transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">"
                      "mean KL from the exact model, nats (down is better)</text>\n",
                      area.top + area.height / 2);
  }

  /// Steps through the best trade-offs: what can be had for so much.
  [[nodiscard]] std::string front_line(const std::vector<std::size_t>& front) const {
    std::string path;
    double last = 0.0;
    for (const std::size_t i : front) {
      const PlotPoint& point = points_[i];
      path += path.empty() ? fmt::format("M{:.1f} {:.1f}", x(point), y(point))
                           : fmt::format(" L{:.1f} {:.1f} L{:.1f} {:.1f}", x(point), last, x(point), y(point));
      last = y(point);
    }
    return "<path class=\"front\" d=\"" + path + "\"/>\n";
  }

  /// A name beside its point, where it covers neither a point nor a name; a thin line leads to it if it is far.
  [[nodiscard]] std::string label(const PlotPoint& point, std::vector<Box>& taken) const {
    const double size = 7.0 * static_cast<double>(point.name.size());
    const double px = x(point);
    const double py = y(point);
    Box best{px + 9, py - 8, size, 16};
    const auto is_free = [&](const Box& box) {
      return box.within(area) && std::none_of(taken.begin(), taken.end(), [&](const Box& other) { return box.overlaps(other); });
    };
    bool found = is_free(best);
    for (double away = 0; !found && away < 200; away += 9) {
      for (const Box& box : {Box{px - 9 - size, py - 8 - away, size, 16}, Box{px + 9, py - 8 - away, size, 16},
                             Box{px + 9, py - 8 + away, size, 16}, Box{px - 9 - size, py - 8 + away, size, 16}}) {
        if (!found && is_free(box)) {
          best = box;
          found = true;
        }
      }
    }
    if (!found && !best.within(area)) { best.left = px - 9 - size; }
    taken.push_back(best);
    std::string text;
    const bool right = best.left > px;
    if (std::abs(best.top + 8 - py) > 14) {
      text = fmt::format("<line class=\"lead\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", px, py,
                         right ? best.left : best.left + size, best.top + 8);
    }
    return text + fmt::format("<text class=\"name{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                              point.reference ? " of_reference" : "", right ? best.left : best.left + size, best.top + 12,
                              right ? "start" : "end", escaped(point.name));
  }

  std::vector<PlotPoint> points_;
  std::string cost_;
  std::string unit_;
  std::vector<std::pair<double, double>> costs_;  // of the policies
  double lowest_cost_ = 1e30;
  double highest_cost_ = 0.0;
  double lowest_ = -6.0;  // log10 of KL
  double highest_ = 0.0;
};

}  // namespace comparison
