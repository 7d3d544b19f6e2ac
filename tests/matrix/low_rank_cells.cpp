// tests/matrix/low_rank_cells.cpp - the compositions over xKV, and over ShadowKV, which brings its own retrieval: one file, since each that
// includes the factorisation takes Eigen's 20 s to compile.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> xkv_cells() { return cells_with_quest<XKV<>>("xkv"); }
std::vector<Cell> shadowkv_cells() {
  return {cell<ShadowKV<>>("all/shadowkv/all"), cell<Combine<StreamingLLM, ShadowKV<>>>("streaming/shadowkv/all"),
          cell<Combine<SnapKV, ShadowKV<>>>("snapkv/shadowkv/all")};
}

}  // namespace kvcompress::test
