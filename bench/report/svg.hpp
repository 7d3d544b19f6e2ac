// bench/report/svg.hpp - what plots share: their style and colours.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "html/page.hpp"

namespace report {

using html::escaped;

/// What a plot needs to be read alone, on white and on dark.
inline constexpr std::string_view plot_style =
    "text { font: 12px system-ui, sans-serif; fill: #808a96; } .tick { font-size: 11px; } .grid { stroke: #80808040; }";

/// Colours that are told apart on white and on dark; they come again after ten.
inline std::string_view colour(std::size_t index) {
  static constexpr std::array<std::string_view, 10> all{"#3b7dd8", "#e0703a", "#3a9d5d", "#b0559f", "#b8952a",
                                                        "#d24d57", "#2b9aa0", "#8a6fd1", "#7c8a99", "#a0705a"};
  return all[index % all.size()];
}

}  // namespace report
