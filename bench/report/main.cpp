// bench/report/main.cpp - the program: JSON files of the suite become one HTML page.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "report/page.hpp"

namespace {

void write(const std::string& file, const std::string& text) {
  std::ofstream out(file);
  out << text;
  if (!out.flush()) { throw std::runtime_error("cannot write " + file); }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    report::Results results;
    std::string out = "results.html";
    std::string plot;
    std::string files;
    for (int i = 1; i < argc; ++i) {
      if (std::string_view(argv[i]) == "--out" && i + 1 < argc) {
        out = argv[++i];
      } else if (std::string_view(argv[i]) == "--plot" && i + 1 < argc) {
        plot = argv[++i];
      } else {
        report::read(argv[i], results);
        files += (files.empty() ? "" : ", ") + std::filesystem::absolute(argv[i]).string();
      }
    }
    if (results.rows.empty()) { throw std::runtime_error("no rows; usage: report RESULTS.json... [--out PAGE.html] [--plot DECODE.svg]"); }
    write(out, report::page(results));
    if (!plot.empty()) { write(plot, report::decode_plot(results)); }
    fmt::print("{} rows of {} drawn: {}\n", results.rows.size(), files, std::filesystem::absolute(out).string());
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    fmt::print(stderr, "report: {}\n", error.what());
    return EXIT_FAILURE;
  }
}
