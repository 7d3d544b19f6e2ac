// tests/matrix/kivi4_cells.cpp - the compositions over kivi4.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/kivi.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> kivi4_cells() {
  std::vector<Cell> cells = cells_with_quest<Kivi<4, 32, 32>>("kivi4");
  cells.push_back(cell<Combine<H2O, Kivi<4, 32, 32>>>("h2o/kivi4/all"));
  return cells;
}

}  // namespace kvcompress::test
