# cmake/native.cmake - kvcompress_native: the instruction set that our tests, benchmarks and examples are compiled for.
# SPDX-License-Identifier: MIT
include(CheckCXXCompilerFlag)

add_library(kvcompress_native INTERFACE)
set(kvcompress_native_options "")
if(KVCOMPRESS_NATIVE)
  check_cxx_compiler_flag(-march=native KVCOMPRESS_HAS_MARCH_NATIVE)
  if(KVCOMPRESS_HAS_MARCH_NATIVE)
    list(APPEND kvcompress_native_options -march=native)
  else()
    list(APPEND kvcompress_native_options -mcpu=native)
  endif()
endif()
if(KVCOMPRESS_SCALAR)
  list(APPEND kvcompress_native_options -DKVCOMPRESS_SCALAR)
endif()
target_compile_options(kvcompress_native INTERFACE ${kvcompress_native_options})
