// bench/runner/scenarios.hpp - the scenarios, each in the folder of its name; and what those of attention share.
// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runner/competitor.hpp"

namespace bench {

// Each registers its rows.
void add_decode();
void add_shape();
void add_head_size();
void add_threads();
void add_append();
void add_call();
void add_prompt();
void add_end_prompt();
void add_cost();
void add_save_load();
void add_factorisation();

/// Registers <scenario>/<competitor>/<case><suffix> for every competitor that is named or external (no names: all of them) and that fits.
void add_attention(const std::string& scenario, const std::vector<std::string_view>& names, const Case& c, const std::string& suffix = "");

/// Whether the machine has room for a case; if not, the table says so.
bool has_room(const std::string& scenario, const Case& c);

/// Sentences that stand under the table: what was left out, and why.
inline std::vector<std::string>& notes() {
  static std::vector<std::string> all;
  return all;
}

}  // namespace bench
