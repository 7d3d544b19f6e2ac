// bench/report/page.hpp - the results as one HTML file that needs nothing else.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "report/results.hpp"

namespace report {

std::string page(const Results& results);

}  // namespace report
