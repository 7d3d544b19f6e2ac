# tests/format/agrees.cmake - clang-format 14 would change nothing.
# SPDX-License-Identifier: MIT
cmake_minimum_required(VERSION 3.25)

set(version "none")
if(CLANG_FORMAT)
  execute_process(COMMAND ${CLANG_FORMAT} --version OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(NOT version MATCHES "version 14\\.")
  message("the check of the format is skipped: it needs clang-format 14 (Debian: clang-format-14), there is: ${version}")
  return()
endif()

set(sources "")
foreach(folder IN ITEMS include tests bench examples)
  file(GLOB_RECURSE more ${ROOT}/${folder}/*.hpp ${ROOT}/${folder}/*.h ${ROOT}/${folder}/*.cpp)
  list(APPEND sources ${more})
endforeach()
execute_process(COMMAND ${CLANG_FORMAT} --dry-run -Werror ${sources} RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "clang-format -i brings these files in form")
endif()
