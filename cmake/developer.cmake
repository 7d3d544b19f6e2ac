# cmake/developer.cmake - kvcompress_developer: how our own tests, benchmarks and examples are compiled and started.
# SPDX-License-Identifier: MIT
include(cmake/warnings.cmake)
include(cmake/native.cmake)
include(cmake/sanitizers.cmake)

add_library(kvcompress_developer INTERFACE)
target_link_libraries(kvcompress_developer INTERFACE kvcompress_warnings kvcompress_native)
if(KVCOMPRESS_SANITIZE)
  kvcompress_sanitize(kvcompress_developer INTERFACE ${KVCOMPRESS_SANITIZE})
  kvcompress_sanitizer_launcher(CMAKE_CROSSCOMPILING_EMULATOR ${KVCOMPRESS_SANITIZE})
endif()
