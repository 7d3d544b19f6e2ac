// examples/compare_policies/report.cpp - writing results, see report.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/report.hpp"

#include "compare_policies/data_formats.hpp"
#include "compare_policies/kv_formats.hpp"
#include "compare_policies/report_html.hpp"
#include "compare_policies/table.hpp"

namespace comparison {

std::string formatted(const Comparison& comparison, const std::string& format) {
  if (format == "json") { return json_text(comparison); }
  return format == "csv" ? csv_text(comparison) : table(comparison);
}

std::string formatted(const KvComparison& comparison, const std::string& format) {
  return format == "json" ? kv_json(comparison) : kv_table(comparison);
}

std::string html_report(const Comparison& comparison) { return html_text(comparison); }

}  // namespace comparison
