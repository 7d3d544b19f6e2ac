# cmake/dependencies.cmake - what is built on: from the system where installed, else fetched at Debian 12's versions.
# SPDX-License-Identifier: MIT
include(FetchContent)

# kvcompress_need(<package> <minimum> TARGET <target> DEBIAN <package> FROM <repository> <tag> [NO_BUILD]): finds a
# package that provides <target>, or fetches its sources. With NO_BUILD they are only downloaded.
function(kvcompress_need package minimum)
  cmake_parse_arguments(PARSE_ARGV 2 need "NO_BUILD" "TARGET;DEBIAN" "FROM")
  if(NOT TARGET ${need_TARGET})
    find_package(${package} ${minimum} CONFIG QUIET GLOBAL)
  endif()
  if(TARGET ${need_TARGET})
    return()
  endif()
  list(GET need_FROM 0 repository)
  list(GET need_FROM 1 tag)
  if(NOT KVCOMPRESS_FETCH)
    message(FATAL_ERROR "${package} is missing: install ${need_DEBIAN} (Debian) or set KVCOMPRESS_FETCH=ON.")
  endif()
  message(STATUS "${package} is not installed (Debian: ${need_DEBIAN}); fetching ${repository} at ${tag}")
  set(source_subdir "")
  if(need_NO_BUILD)
    set(source_subdir SOURCE_SUBDIR no-cmake-here)
  endif()
  FetchContent_Declare(${package} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW ON SYSTEM ${source_subdir})
  # Their own tests and installation are none of our business.
  set(BUILD_TESTING OFF)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_WERROR OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  set(INSTALL_GTEST OFF)
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # let the variables above win over their option() calls
  FetchContent_MakeAvailable(${package})
  string(TOLOWER ${package} lower)
  set(${lower}_SOURCE_DIR ${${lower}_SOURCE_DIR} PARENT_SCOPE)
endfunction()

# Who only uses or packs the headers decides about Eigen and xxHash; without them there is no kvcompress::low_rank and no kvcompress::persistence.
set(kvcompress_takes_what_is_there OFF)
if(NOT KVCOMPRESS_FETCH AND NOT (KVCOMPRESS_BUILD_TESTS OR KVCOMPRESS_BUILD_BENCH OR KVCOMPRESS_BUILD_EXAMPLES))
  set(kvcompress_takes_what_is_there ON)
endif()
if(kvcompress_takes_what_is_there)
  if(NOT TARGET Eigen3::Eigen)
    find_package(Eigen3 3.4 CONFIG QUIET GLOBAL)
  endif()
else()
  kvcompress_need(Eigen3 3.4 NO_BUILD TARGET Eigen3::Eigen DEBIAN libeigen3-dev
                  FROM https://gitlab.com/libeigen/eigen.git 3.4.0)
  if(NOT TARGET Eigen3::Eigen)
    # Imported, so that an exported kvcompress::low_rank may link it.
    add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
    target_include_directories(Eigen3::Eigen INTERFACE ${eigen3_SOURCE_DIR})
  endif()
endif()

# Of xxHash only the header is used; Debian's package has no CMake files beside it. Without it there is no kvcompress::persistence.
if(NOT TARGET xxHash::xxhash)
  find_path(KVCOMPRESS_XXHASH_DIR xxhash.h DOC "Folder with xxhash.h")
  set(xxhash_dir ${KVCOMPRESS_XXHASH_DIR})
  if(NOT xxhash_dir AND NOT kvcompress_takes_what_is_there)
    kvcompress_need(xxHash 0.8 NO_BUILD TARGET xxHash::xxhash DEBIAN libxxhash-dev
                    FROM https://github.com/Cyan4973/xxHash.git v0.8.1)
    set(xxhash_dir ${xxhash_SOURCE_DIR})
  endif()
  if(xxhash_dir AND NOT TARGET xxHash::xxhash)
    add_library(xxHash::xxhash INTERFACE IMPORTED GLOBAL)
    target_include_directories(xxHash::xxhash INTERFACE ${xxhash_dir})
  endif()
endif()

# llama.cpp's headers, for its adapter; without them there is no kvcompress::llama_cpp. cmake/get_llama_cpp.sh fills the folder below.
set(KVCOMPRESS_LLAMA_CPP_DIR ${PROJECT_SOURCE_DIR}/build/llama_cpp CACHE PATH "Where llama.cpp is installed: include/ and lib/")
if(NOT TARGET llama_cpp::headers)
  find_path(KVCOMPRESS_LLAMA_H_DIR llama.h HINTS ${KVCOMPRESS_LLAMA_CPP_DIR}/include DOC "Folder with llama.h and ggml.h")
  if(KVCOMPRESS_LLAMA_H_DIR)
    add_library(llama_cpp::headers INTERFACE IMPORTED GLOBAL)
    target_include_directories(llama_cpp::headers INTERFACE ${KVCOMPRESS_LLAMA_H_DIR})
  endif()
endif()
if(PROJECT_IS_TOP_LEVEL)  # the libraries, for its tests and examples
  find_library(KVCOMPRESS_LIBLLAMA NAMES llama libllama.v0.4.0.so HINTS ${KVCOMPRESS_LLAMA_CPP_DIR}/lib NO_DEFAULT_PATH)
endif()

if(KVCOMPRESS_BUILD_TESTS OR KVCOMPRESS_BUILD_BENCH OR KVCOMPRESS_BUILD_EXAMPLES)
  find_package(Threads REQUIRED)
  kvcompress_need(fmt 9 TARGET fmt::fmt DEBIAN libfmt-dev FROM https://github.com/fmtlib/fmt.git 9.1.0)
  kvcompress_need(nlohmann_json 3.11 TARGET nlohmann_json::nlohmann_json DEBIAN nlohmann-json3-dev
                  FROM https://github.com/nlohmann/json.git v3.11.2)
endif()
if(KVCOMPRESS_BUILD_TESTS)
  kvcompress_need(GTest 1.12 TARGET GTest::gtest_main DEBIAN libgtest-dev
                  FROM https://github.com/google/googletest.git release-1.12.1)
  # One test program needs it, which is left out where it is not installed: the first command of the README does without.
  find_package(rapidcheck CONFIG QUIET GLOBAL)
endif()
if(KVCOMPRESS_BUILD_BENCH)
  kvcompress_need(benchmark 1.7 TARGET benchmark::benchmark_main DEBIAN libbenchmark-dev
                  FROM https://github.com/google/benchmark.git v1.7.1)
endif()
if(KVCOMPRESS_BUILD_EXAMPLES)
  # For NumPy's .npz. Debian's libzip-config.cmake asks for programs of another package.
  find_path(KVCOMPRESS_LIBZIP_DIR zip.h DOC "Folder with libzip's zip.h")
  find_library(KVCOMPRESS_LIBZIP zip DOC "libzip (Debian: libzip-dev)")
  if(KVCOMPRESS_LIBZIP_DIR AND KVCOMPRESS_LIBZIP AND NOT TARGET libzip::zip)
    add_library(libzip::zip INTERFACE IMPORTED GLOBAL)
    target_include_directories(libzip::zip INTERFACE ${KVCOMPRESS_LIBZIP_DIR})
    target_link_libraries(libzip::zip INTERFACE ${KVCOMPRESS_LIBZIP})
    target_compile_definitions(libzip::zip INTERFACE KVCOMPRESS_HAS_LIBZIP)
  endif()
  kvcompress_need(CLI11 2.1 TARGET CLI11::CLI11 DEBIAN libcli11-dev
                  FROM https://github.com/CLIUtils/CLI11.git v2.1.2)
endif()
