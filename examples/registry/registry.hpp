// examples/registry/registry.hpp - the library's policies by name, compiled once for all example programs.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/registry.hpp"

namespace examples {

/// All policies of kvcompress::standard_registry(), made at the first call.
const kvcompress::Registry& registry();

}  // namespace examples
