// include/kvcompress/core/version.hpp - the library's version; CMake and the package files read it from here.
// SPDX-License-Identifier: MIT
#pragma once

namespace kvcompress {  // not the inline namespace, which is named after it: see core/abi.hpp

/// The version of these headers. While the major number is 0, a new minor number may break source.
inline constexpr int version_major = 0;
inline constexpr int version_minor = 1;
inline constexpr int version_patch = 0;

}  // namespace kvcompress
