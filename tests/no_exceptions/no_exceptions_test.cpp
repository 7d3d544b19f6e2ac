// tests/no_exceptions/no_exceptions_test.cpp - the library in a program without exceptions and RTTI; errors reach the handler.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/kvcompress.hpp"

#if defined(__cpp_exceptions) || defined(__cpp_rtti)
#error "this test must be compiled with -fno-exceptions -fno-rtti"
#endif

namespace no_exceptions_test {

using namespace kvcompress;

TEST(WithoutExceptions, ACompressedCacheWorks) {
  KVCache<Combine<H2O, Kivi<2, 32, 32>>> cache({.query_heads = 4, .kv_heads = 2, .head_dim = 64}, {.eviction = {.budget = 96}});
  std::vector<float> rows(200 * 2 * 64, 0.25F);
  std::vector<float> queries(200 * 4 * 64, 0.5F);
  std::vector<float> out(200 * 4 * 64);
  cache.append(0, Rows::tokens_first(rows.data(), 200, 2, 64), Rows::tokens_first(rows.data(), 200, 2, 64));
  cache.attend(0, Rows::tokens_first(queries.data(), 200, 4, 64), Output::tokens_first(out.data(), 200, 4, 64));
  cache.end_prompt(0);
  EXPECT_EQ(cache.kept(0, 0).size(), 96U);
  EXPECT_NEAR(out.back(), 0.25F, 1e-3F);
}

TEST(WithoutExceptions, AnErrorReachesTheHandlerWithItsSentence) {
  error_handler() = [](const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(7);
  };
  KVCache<Full<>> cache({.query_heads = 2, .kv_heads = 1, .head_dim = 8});
  const std::vector<float> row(8, NAN);
  EXPECT_EXIT(cache.append(0, Rows::tokens_first(row.data(), 1, 1, 8), Rows::tokens_first(row.data(), 1, 1, 8)), testing::ExitedWithCode(7),
              "append: keys is nan at token 0, head 0, channel 0, must be finite");
  EXPECT_EXIT(cache.end_prompt(3), testing::ExitedWithCode(7), "end_prompt: layer is 3, must be less than 1");
}

TEST(WithoutExceptions, WithoutAHandlerTheProgramAborts) {
  error_handler() = nullptr;
  EXPECT_DEATH(KVCache<Full<>>({.kv_heads = 0}), "");
}

}  // namespace no_exceptions_test
