// tests/matrix/f16_cells.cpp - the compositions over f16.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/full.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> f16_cells() {
  std::vector<Cell> cells = cells_with_quest<Full<>>("f16");
  cells.push_back(cell<Combine<H2O, Full<>>>("h2o/f16/all"));
  return cells;
}

}  // namespace kvcompress::test
