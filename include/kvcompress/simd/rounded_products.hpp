// include/kvcompress/simd/rounded_products.hpp - store_products for backends that multiply, round, pack and add in steps; see scalar.hpp.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::simd::in_steps {

/// mul, round, add and store_weights are the backend's, found by its types.
template <class Weight, class Floats, class Integers>
inline Integers store_products(Weight* to, const Floats (&a)[4], const Floats (&b)[4], Integers sum) noexcept {
  const Integers w = round(mul(a[0], b[0]));
  const Integers x = round(mul(a[1], b[1]));
  const Integers y = round(mul(a[2], b[2]));
  const Integers z = round(mul(a[3], b[3]));
  store_weights(to, w, x, y, z);
  return add(sum, add(add(w, x), add(y, z)));
}

}  // namespace kvcompress::simd::in_steps
