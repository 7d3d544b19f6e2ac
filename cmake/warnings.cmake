# cmake/warnings.cmake - kvcompress_warnings: the warnings that everything we build is free of.
# SPDX-License-Identifier: MIT
add_library(kvcompress_warnings INTERFACE)
target_compile_options(kvcompress_warnings INTERFACE
  -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow $<$<BOOL:${KVCOMPRESS_WERROR}>:-Werror>)
# GCC 12 finds "__Y is used uninitialized" in its own AVX-512 intrinsics (GCC bug 105593); Clang keeps watch.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(kvcompress_warnings INTERFACE -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
