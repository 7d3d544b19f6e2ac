// include/kvcompress/core/math.hpp - the few functions of <cmath> that the library needs.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/abi.hpp"

/// The compilers' builtins, which are what `<cmath>` calls: the header itself costs a tenth of the umbrella's compile time.
namespace kvcompress::inline KVCOMPRESS_ABI::math {

inline float exp(float x) noexcept { return __builtin_expf(x); }
inline float log(float x) noexcept { return __builtin_logf(x); }
inline float sqrt(float x) noexcept { return __builtin_sqrtf(x); }
inline float tanh(float x) noexcept { return __builtin_tanhf(x); }
inline float abs(float x) noexcept { return __builtin_fabsf(x); }
/// To the nearest integer, halves to even (the default rounding mode).
inline float round_half_even(float x) noexcept { return __builtin_nearbyintf(x); }
inline double round_half_even(double x) noexcept { return __builtin_nearbyint(x); }
/// a * b + c, rounded once.
inline float fma(float a, float b, float c) noexcept { return __builtin_fmaf(a, b, c); }
inline double pow(double x, double y) noexcept { return __builtin_pow(x, y); }
inline double sin(double x) noexcept { return __builtin_sin(x); }
inline double sqrt(double x) noexcept { return __builtin_sqrt(x); }
inline double exp(double x) noexcept { return __builtin_exp(x); }
inline double log(double x) noexcept { return __builtin_log(x); }
inline double cos(double x) noexcept { return __builtin_cos(x); }

}  // namespace kvcompress::math
