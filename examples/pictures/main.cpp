// examples/pictures/main.cpp - drew docs/pictures: what the policies of each family keep of the rows of a real model, by budget.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "pictures/drawing.hpp"
#include "pictures/lanes.hpp"

namespace pictures {
namespace {

constexpr std::string_view blue = "#3b7dd8";
constexpr std::string_view orange = "#e0703a";
constexpr std::string_view grey = "#7c8a99";

struct Line {
  std::string name;
  std::string policy;  // {} stands for the budget
};

/// Shades over a factor of 1000: attention is uneven.
std::vector<Lane> logarithmic(std::vector<Lane> lanes) {
  for (Lane& lane : lanes) {
    for (double& x : lane) { x = x <= 0.0 ? 0.0 : std::min(1.0, std::max(0.0, 1.0 + std::log10(x / 0.03) / 3.0)); }
  }
  return lanes;
}

/// Shades over a factor of 300: codes of 8 bits to rows that are gone.
std::vector<Lane> by_size(std::vector<Lane> lanes) {
  for (Lane& lane : lanes) {
    for (double& x : lane) { x = std::min(1.0, std::max(0.0, 1.0 + std::log10(std::max(x, 1e-9) / 0.9) / 2.5)); }
  }
  return lanes;
}

std::string bits_of(const Outcome& outcome) { return fmt::format("{:.1f} bits", outcome.bits); }

/// A line of what full attention looks at, then a line per policy and a column per budget.
std::string by_budget(const Lanes& lanes, std::string_view title, std::string_view unit, const std::vector<std::size_t>& budgets,
                      const std::vector<Line>& lines, std::vector<Lane> Outcome::*what) {
  Drawing drawing(lanes.tokens(), lanes.count(), budgets.size());
  std::vector<std::string> heading;
  for (const std::size_t budget : budgets) { heading.push_back(fmt::format("{} {} of a prompt of {}", budget, unit, lanes.prompt())); }
  drawing.heading(heading);
  drawing.label("attention", {"of full caches, log"});
  const std::vector<Lane> attention = logarithmic(lanes.run("f32").weight);
  for (std::size_t column = 0; column < budgets.size(); ++column) { drawing.panel(column, attention, grey); }
  drawing.next_line();
  for (const Line& line : lines) {
    std::vector<std::string> below{""};
    for (std::size_t column = 0; column < budgets.size(); ++column) {
      const Outcome outcome =
          lanes.run(fmt::format(fmt::runtime(line.policy), fmt::arg("b", budgets[column]), fmt::arg("w", budgets[column] - 4)));
      drawing.panel(column, outcome.*what, blue);
      below[0] += (column == 0 ? "" : ", ") + fmt::format("{:.1f}", outcome.bits);
    }
    drawing.label(line.name, {below[0] + " bits"});
    drawing.next_line();
  }
  return drawing.svg(title);
}

/// Errors of keys and of values, side by side.
std::string by_error(const Lanes& lanes, std::string_view title, const std::vector<Line>& lines) {
  Drawing drawing(lanes.tokens(), lanes.count(), 2);
  drawing.heading({"error of keys, log: pale 0.3 %, dark 90 %", "error of values"});
  for (const Line& line : lines) {
    const Outcome outcome = lanes.run(line.policy);
    drawing.panel(0, by_size(outcome.key_error), orange);
    drawing.panel(1, by_size(outcome.value_error), orange);
    drawing.label(line.name, {bits_of(outcome)});
    drawing.next_line();
  }
  return drawing.svg(title);
}

struct Picture {
  std::string file;
  std::string svg;
};

std::vector<Picture> all(const Lanes& lanes) {
  const std::vector<std::size_t> budgets{24, 48, 96};
  return {
      {"eviction.svg", by_budget(lanes, "Rows that evictions keep, by budget", "rows", budgets,
                                 {{"streaming", "streaming:sinks=4,window={w}"},
                                  {"h2o", "h2o:budget={b}"},
                                  {"tova", "tova:budget={b}"},
                                  {"snapkv", "snapkv:window=8,budget={b}"},
                                  {"pyramidkv", "pyramidkv:window=8,budget={b}"},
                                  {"adakv", "adakv:window=8,budget={b}"},
                                  {"keydiff", "keydiff:budget={b}"},
                                  {"expected_attention", "expected_attention:budget={b}"}},
                                 &Outcome::kept)},
      {"retrieval.svg", by_budget(lanes, "How often queries read each row, by budget", "rows read", budgets,
                                  {{"quest", "quest:page=8,dense_layers=0,budget={b}"},
                                   {"landmarks", "landmarks:outlier_chunks=1,budget={b}"},
                                   {"shadowkv", "shadowkv:outlier_chunks=1,budget={b}"}},
                                  &Outcome::read)},
      {"quantization.svg", by_error(lanes, "Errors of rows held as codes",
                                    {{"kivi8", "kivi8:residual=32"},
                                     {"kivi4", "kivi4:residual=32"},
                                     {"kivi2", "kivi2:residual=32"},
                                     {"gear4", "gear4:buffer=64"},
                                     {"gear2", "gear2:buffer=64"}})},
      {"low_rank.svg", by_error(lanes, "Errors of rows held as low-rank factors",
                                {{"xkv, ranks 96, 144", "xkv:layers_per_group=2,rank_keys=96,rank_values=144"},
                                 {"xkv, ranks 48, 96", "xkv:layers_per_group=2,rank_keys=48,rank_values=96"},
                                 {"xkv, ranks 24, 48", "xkv:layers_per_group=2,rank_keys=24,rank_values=48"},
                                 {"the same, fold_in=16", "xkv:layers_per_group=2,rank_keys=24,rank_values=48,fold_in=16"},
                                 {"shadowkv, rank 32", "shadowkv:rank=32,outlier_chunks=1,budget=48"}})},
  };
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Share of the lines of `text` that are not in the same place of `other`: an instruction set rounds otherwise, which may choose another row.
double difference(const std::string& text, const std::string& other) {
  std::istringstream a(text), b(other);
  std::size_t lines = 0;
  std::size_t differ = 0;
  for (std::string x, y; std::getline(a, x); ++lines) {
    if (!std::getline(b, y) || x != y) { ++differ; }
  }
  for (std::string y; std::getline(b, y);) { ++differ; }
  return static_cast<double>(differ) / static_cast<double>(std::max<std::size_t>(1, lines));
}

int run(bool check, const std::filesystem::path& folder) {
  const tensors::Dump dump = tensors::read_dump(KVCOMPRESS_EXAMPLE_DATA "/kvlab-6m-dump", "--layout", {});
  constexpr double most = 0.1;
  int result = 0;
  for (const Picture& picture : all(Lanes(dump, 32))) {
    if (!check) {
      std::ofstream(folder / picture.file, std::ios::binary) << picture.svg;
      continue;
    }
    const double share = difference(picture.svg, text_of(folder / picture.file));
    fmt::print("{}: {:.1f} % of the lines differ\n", picture.file, 100.0 * share);
    if (share > most) { result = 1; }
  }
  return result;
}

}  // namespace
}  // namespace pictures

/// pictures DIR writes them; pictures --check DIR fails if those of DIR are others, beyond rounding.
int main(int argc, char** argv) {
  try {
    const bool check = argc == 3 && std::string_view(argv[1]) == "--check";
    if (argc != 2 && !check) {
      fmt::print(stderr, "usage: pictures [--check] DIR\n");
      return 2;
    }
    return pictures::run(check, argv[argc - 1]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "pictures: {}\n", error.what());
    return 1;
  }
}
