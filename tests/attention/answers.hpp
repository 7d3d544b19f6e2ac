// tests/attention/answers.hpp - outputs and log-sum-exp of one layer's queries.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include "support/random_rows.hpp"

namespace kvcompress::test {

struct Answer {
  Outputs out;
  std::vector<float> log_sum_exp;
};
/// Attention of the tokens [first, first + count), appended already, in one call.
template <class Cache>
Answer ask(Cache& cache, const Text& text, std::size_t first, std::size_t count, AttendOptions options = {}) {
  Answer answer{Outputs(count * text.output_width()), std::vector<float>(count * text.shape.query_heads)};
  options.log_sum_exp = answer.log_sum_exp.data();
  cache.attend(0, text.query_rows(first, count),
               Output::tokens_first(answer.out.data(), count, text.shape.query_heads, text.shape.value_width()), options);
  return answer;
}
template <class Cache>
void add(Cache& cache, const Text& text, std::size_t first, std::size_t count) {
  cache.append(0, text.key_rows(first, count), text.value_rows(first, count));
}
inline void expect_near(const std::vector<float>& a, const std::vector<float>& b, float bound) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) { ASSERT_NEAR(a[i], b[i], bound) << i; }
}

}  // namespace kvcompress::test
