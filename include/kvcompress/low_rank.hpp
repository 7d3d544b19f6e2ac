// include/kvcompress/low_rank.hpp - the second umbrella: kvcompress.hpp and the policies that need Eigen.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/kvcompress.hpp"
#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/xkv.hpp"
