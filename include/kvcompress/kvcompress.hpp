// include/kvcompress/kvcompress.hpp - the umbrella: everything that needs no other library.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/cache.hpp"
#include "kvcompress/core/version.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/policies/adakv.hpp"
#include "kvcompress/policies/combine.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/gear.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/key_diff.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/pyramidkv.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/tova.hpp"
