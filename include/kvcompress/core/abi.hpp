// include/kvcompress/core/abi.hpp - the inline namespace of this translation unit: one per version, instruction set and way of failing.
// SPDX-License-Identifier: MIT
//
// Inline functions of one name are merged by the linker, whatever flags they were compiled with. So that source files with different
// -m flags can be linked into one program and each runs its own code, everything stands in kvcompress::<KVCOMPRESS_ABI>, which users do
// not write. What such files hand to each other must not be of a type of the library: that would be another type in each of them.
//
// Functions of the standard library and of Eigen stand outside of it. Of the former those that compute on our data take a type or a
// comparator of the library as a template argument, so that they are distinct too; what is left is inlined by any optimisation (at -O0 it is
// not, and is merged). Eigen's are merged: include low_rank.hpp and reference/ in files of one instruction set only.
#pragma once

#include "kvcompress/simd/available.hpp"

// Must name the version of core/version.hpp, which checks it.
#define KVCOMPRESS_ABI_VERSION v0_1_0

#if defined(__cpp_exceptions)
#define KVCOMPRESS_ABI_ERRORS throws
#else
#define KVCOMPRESS_ABI_ERRORS aborts
#endif

#define KVCOMPRESS_ABI_JOIN_(version, isa, errors) version##_##isa##_##errors
#define KVCOMPRESS_ABI_JOIN(version, isa, errors) KVCOMPRESS_ABI_JOIN_(version, isa, errors)
#define KVCOMPRESS_ABI KVCOMPRESS_ABI_JOIN(KVCOMPRESS_ABI_VERSION, KVCOMPRESS_INSTRUCTION_SET, KVCOMPRESS_ABI_ERRORS)
