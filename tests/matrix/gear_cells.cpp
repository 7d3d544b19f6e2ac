// tests/matrix/gear_cells.cpp - the compositions over GEAR: with H2O, whose rows differ from head to head, in vectors of one head.
// SPDX-License-Identifier: MIT
#include "kvcompress/policies/gear.hpp"
#include "matrix/cells.hpp"

namespace kvcompress::test {

std::vector<Cell> gear_cells() {
  std::vector<Cell> cells = cells_with_quest<Gear<4>>("gear");
  cells.push_back(cell<Combine<H2O, Gear<4, Kcvt, ValueVectors::head>>>("h2o/gear/all"));
  return cells;
}

}  // namespace kvcompress::test
