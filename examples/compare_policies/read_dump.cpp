// examples/compare_policies/read_dump.cpp - the readers of tensors, compiled apart from what is measured on them.
// SPDX-License-Identifier: MIT
#include "compare_policies/read_dump.hpp"

#include <optional>

#include "tensors/dump.hpp"

namespace comparison {

tensors::Dump read_dump(const KvSetup& setup) {
  std::optional<tensors::Layout> layout;
  if (!setup.layout.empty()) { layout = tensors::parse_layout("--layout", setup.layout); }
  return tensors::read_dump(setup.path, "--layout", layout);
}

}  // namespace comparison
