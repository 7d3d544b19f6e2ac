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

# The factorisation of low_rank/, compiled once for all our programs that are built like this file.
add_library(kvcompress_factorisation STATIC ${CMAKE_CURRENT_LIST_DIR}/factorisation.cpp)
set_target_properties(kvcompress_factorisation PROPERTIES POSITION_INDEPENDENT_CODE ON)  # examples/llama_cpp/preload.cpp is a shared object
target_compile_definitions(kvcompress_factorisation PUBLIC KVCOMPRESS_FACTORISATION_APART)
target_link_libraries(kvcompress_factorisation PUBLIC kvcompress::low_rank PRIVATE kvcompress_developer)

# AnyCache likewise.
add_library(kvcompress_any_cache STATIC ${CMAKE_CURRENT_LIST_DIR}/any_cache.cpp)
set_target_properties(kvcompress_any_cache PROPERTIES POSITION_INDEPENDENT_CODE ON)
target_compile_definitions(kvcompress_any_cache PUBLIC KVCOMPRESS_ANY_CACHE_APART)
target_link_libraries(kvcompress_any_cache PUBLIC kvcompress::kvcompress PRIVATE kvcompress_developer)
