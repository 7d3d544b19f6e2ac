// tests/support/d2o_cases.hpp - D2O's budgets by layer, tested beside the other allocators over the model and counted with its merging.
// SPDX-License-Identifier: MIT
#pragma once

#include "support/cases.hpp"

namespace kvcompress::conformance {

void d2o_layer_shares(const Case& one);

}  // namespace kvcompress::conformance
