// tests/matrix/xkv_cells.cpp - the compositions over xKV.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/xkv.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> xkv_cells() { return cells_with_quest<XKV<>>("xkv"); }

}  // namespace kvcompress::test
