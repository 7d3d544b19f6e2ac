// bench/report/page.hpp - the results as one HTML file that needs nothing else.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "report/results.hpp"

namespace report {

std::string page(const Results& results);
/// The plot of the decode scenario alone, as an SVG file.
std::string decode_plot(const Results& results);

}  // namespace report
