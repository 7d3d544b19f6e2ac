// cmake/factorisation.cpp - the factorisation of low_rank/, compiled once for all our programs: see kvcompress_factorisation.
// SPDX-License-Identifier: MIT
#include "kvcompress/low_rank/factorisation.hpp"
