// tests/matrix/shadowkv_cells.cpp - the compositions over ShadowKV, which brings its own retrieval.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/shadowkv.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> shadowkv_cells() {
  return {cell<ShadowKV<>>("all/shadowkv/all"), cell<Combine<StreamingLLM, ShadowKV<>>>("streaming/shadowkv/all"),
          cell<Combine<SnapKV, ShadowKV<>>>("snapkv/shadowkv/all")};
}

}  // namespace kvcompress::test
