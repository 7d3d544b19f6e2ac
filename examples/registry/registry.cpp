// examples/registry/registry.cpp - the one source file that instantiates every policy of the library.
// SPDX-License-Identifier: MIT
#include "registry/registry.hpp"

#include "kvcompress/standard_registry.hpp"

namespace examples {

const kvcompress::Registry& registry() {
  static const kvcompress::Registry standard = kvcompress::standard_registry();
  return standard;
}

}  // namespace examples
