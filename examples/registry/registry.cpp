// examples/registry/registry.cpp - the one source file that instantiates every policy of the library.
// SPDX-License-Identifier: MIT
#include "registry/registry.hpp"

namespace examples {

const kvcompress::Registry& registry() {
  static const kvcompress::Registry standard = kvcompress::Registry::standard();
  return standard;
}

}  // namespace examples
