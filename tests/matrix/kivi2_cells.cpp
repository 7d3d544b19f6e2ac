// tests/matrix/kivi2_cells.cpp - the compositions over kivi2.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/kivi.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> kivi2_cells() {
  std::vector<Cell> cells = cells_with_quest<Kivi<2, 32, 32>>("kivi2");
  cells.push_back(cell<Combine<H2O, Kivi<2, 32, 32>>>("h2o/kivi2/all"));
  return cells;
}

}  // namespace kvcompress::test
