// tests/registry/refused.hpp - a policy that the registry must refuse with a sentence.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "registry/registry.hpp"

namespace kvcompress::test {

inline void expect_refused(const std::string& policy, const Shape& shape, const std::string& sentence) {
  try {
    static_cast<void>(examples::registry().make(policy, shape));
    ADD_FAILURE() << policy << " is accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::option) << policy;
    EXPECT_EQ(error.what(), "kvcompress: " + sentence);
  }
}

}  // namespace kvcompress::test
