// examples/compare_policies/report.hpp - writing results: the format for the terminal, and the HTML file.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "compare_policies/kv_results.hpp"
#include "compare_policies/results.hpp"

namespace comparison {

/// The results as "table", "json" or "csv".
std::string formatted(const Comparison& comparison, const std::string& format);

/// Those on tensors of one's own as "table" or "json".
std::string formatted(const KvComparison& comparison, const std::string& format);

/// The results as one HTML file that needs nothing else.
std::string html_report(const Comparison& comparison);

}  // namespace comparison
