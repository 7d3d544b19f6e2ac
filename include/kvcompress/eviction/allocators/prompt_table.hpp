// include/kvcompress/eviction/allocators/prompt_table.hpp - ScaleKV's budgets: a table of rows per layer, for longer and longer prompts.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// At the end of a prompt a lane keeps the rows that the table has for its layer, in the first line whose tokens are not fewer than those up to then;
/// longer prompts have the last line. The budget does not matter. Cost: none.
///
/// Source: the tables of StargazerX0/ScaleKV@eb0615a100fa:budgets/, a line for each scale of an image (see rows_of).
struct PromptTable {
  static constexpr std::string_view name = "prompt_table";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    LoadedNumbers tokens{};  ///< (lines), ascending: up to how many tokens, all prompts together, a line counts
    LoadedNumbers rows{};    ///< (lines, layers), 1 or more each
    static void fields(auto&, auto&&) {}
    static void unnamed_fields(auto& options, auto&& field) {
      field("tokens", options.tokens);
      field("rows", options.rows);
    }
  };
  static void validate(const Options& options, const Shape& shape) {
    require(options.tokens.size() > 0, ErrorCode::option, "prompt_table: tokens has 0 numbers, must have at least 1");
    options.rows.check("prompt_table: rows", options.tokens.size() * shape.layers, "the numbers of tokens * layers");
    for (const float rows : options.rows.all()) {
      require(rows >= 1.0F && rows < 4e9F, ErrorCode::option, "prompt_table: rows has ", rows, ", must be 1 to 4e9");
    }
    const std::span<const float> tokens = options.tokens.all();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      require(tokens[i] > (i > 0 ? tokens[i - 1] : 0.0F) && tokens[i] < 4e9F, ErrorCode::option, "prompt_table: tokens has ", tokens[i],
              " at ", i, ", must be more than what stands before it, at most 4e9");
    }
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const std::span<const float> tokens = options.tokens.all();
    std::size_t line = 0;
    while (line + 1 < tokens.size() && tokens[line] < static_cast<float>(allocation.moment.prompt_tokens)) { ++line; }
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const Site& site = allocation.sets[i].lanes.front().site;
      const auto rows = static_cast<std::size_t>(options.rows.all()[line * site.shape.layers + site.layer]);
      budgets[i] = std::min(rows, std::max<std::size_t>(1, allocation.sets[i].rows.live()));
    }
  }
  /// The published form of a table: (lines, layers) flags, 1 for layers that look all over the image, and for each line the rows of the others and of
  /// these.
  [[nodiscard]] static std::vector<float> rows_of(std::span<const float> flags, std::span<const float> least_and_most) {
    const std::size_t lines = least_and_most.size() / 2;
    require(lines > 0 && least_and_most.size() % 2 == 0 && flags.size() % lines == 0, ErrorCode::input, "prompt_table: there are ",
            flags.size(), " flags and ", least_and_most.size(), " numbers of rows, must be some for each line and 2 for each");
    std::vector<float> rows;
    for (std::size_t i = 0; i < flags.size(); ++i) {
      rows.push_back(least_and_most[2 * (i / (flags.size() / lines)) + (flags[i] != 0.0F ? 1 : 0)]);
    }
    return rows;
  }
};

}  // namespace kvcompress
