// examples/compare_policies/report.cpp - writing results, see report.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/report.hpp"

#include <utility>

#include "compare_policies/data_formats.hpp"
#include "compare_policies/policy_list.hpp"
#include "compare_policies/report_html.hpp"
#include "compare_policies/table.hpp"

namespace comparison {

std::string formatted(const Comparison& comparison, const std::string& format) {
  if (format == "json") { return json_text(comparison); }
  return format == "csv" ? csv_text(comparison) : table(comparison);
}

ReportFile::ReportFile(std::filesystem::path path)
    : path_(std::move(path)), part_(path_.string() + ".part"), file_(part_, std::ios::binary) {
  if (!file_ || std::filesystem::is_directory(path_)) { throw BadArgument("--report " + path_.string() + ": cannot be written"); }
}

ReportFile::~ReportFile() {
  file_.close();
  std::error_code ignored;
  std::filesystem::remove(part_, ignored);
}

void ReportFile::write(const Comparison& comparison) {
  file_ << html_text(comparison);
  file_.close();
  if (!file_) { throw std::runtime_error("--report " + path_.string() + ": writing failed"); }
  std::filesystem::rename(part_, path_);
}

}  // namespace comparison
