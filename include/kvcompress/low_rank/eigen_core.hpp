// include/kvcompress/low_rank/eigen_core.hpp - <Eigen/Core> without the warnings that GCC 12 has about it; include it before other headers of Eigen.
// SPDX-License-Identifier: MIT
#pragma once

// "__Y is used uninitialized", in the AVX-512 intrinsics that Eigen's core calls for all of its modules (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic pop
#endif
