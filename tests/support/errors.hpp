// tests/support/errors.hpp - what verbs refuse: the Error and its sentence.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvcompress/core/error.hpp"

namespace kvcompress::test {

/// What `verb` says when it raises an Error.
std::string refusal(auto&& verb) {
  try {
    verb();
  } catch (const Error& error) { return error.what(); }
  return "nothing was refused";
}
/// `verb` raises an Error with just this sentence.
void expect_error(ErrorCode code, const std::string& sentence, auto&& verb) {
  try {
    verb();
    ADD_FAILURE() << "no error, expected: " << sentence;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(error.what(), "kvcompress: " + sentence);
  }
}
/// `verb` raises an Error whose sentence has all of `parts`: argument, value, bound.
void expect_error_with(ErrorCode code, const std::vector<std::string>& parts, auto&& verb) {
  try {
    verb();
    ADD_FAILURE() << "no error, expected one about " << parts.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& part : parts) { EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what(); }
  }
}

}  // namespace kvcompress::test
