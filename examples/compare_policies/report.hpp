// examples/compare_policies/report.hpp - writing results: the format for the terminal, and the HTML file.
// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "compare_policies/results.hpp"

namespace comparison {

/// The results as "table", "json" or "csv".
std::string formatted(const Comparison& comparison, const std::string& format);

/// A file that appears only when it is complete: opened before the work, so that a bad path is known at once.
class ReportFile {
 public:
  explicit ReportFile(std::filesystem::path path);
  ReportFile(const ReportFile&) = delete;
  ReportFile& operator=(const ReportFile&) = delete;
  ~ReportFile();

  void write(const Comparison& comparison);

 private:
  std::filesystem::path path_;
  std::filesystem::path part_;
  std::ofstream file_;
};

}  // namespace comparison
