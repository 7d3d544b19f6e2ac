// examples/c_engine/kvcompress.cpp - the one C++ file of a C program: the functions of c_api.h, over the policies of examples/registry.
// SPDX-License-Identifier: MIT
#include "registry/registry.hpp"

#define KVCOMPRESS_C_API_REGISTRY examples::registry
#include "kvcompress/c_api_implementation.hpp"
