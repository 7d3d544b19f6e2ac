// tests/conformance/kivi_test.cpp - KIVI's stores and KVCache<Kivi> against the official implementation, and the reference.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <random>

#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/reference/kivi.hpp"
#include "support/cases.hpp"
#include "support/sequence.hpp"

namespace kivi_test {

using kvcompress::test::HeadArray;
namespace conformance = kvcompress::conformance;
namespace reference = kvcompress::reference;

/// Calls work.template operator()<Bits, Group>() for the bits and group of a case.
template <class Work>
void with_format(const conformance::Case& one, Work&& work) {
  const auto bits = one.get<int>("bits");
  const auto group = one.get<std::size_t>("group");
  const auto with_bits = [&]<int Bits>() {
    if (group == 32) { return work.template operator()<Bits, 32>(); }
    if (group == 64) { return work.template operator()<Bits, 64>(); }
    if (group == 128) { return work.template operator()<Bits, 128>(); }
    throw conformance::NotCovered(one.path() + ": group " + std::to_string(group));
  };
  if (bits == 2) { return with_bits.template operator()<2>(); }
  if (bits == 4) { return with_bits.template operator()<4>(); }
  if (bits == 8) { return with_bits.template operator()<8>(); }
  throw conformance::NotCovered(one.path() + ": " + std::to_string(bits) + " bits");
}

/// The code at `index` of a run packed into little-endian 32-bit words.
int unpacked(const std::vector<std::int32_t>& words, std::size_t index, int bits) {
  const auto per_word = static_cast<std::size_t>(32 / bits);
  const auto word = static_cast<std::uint32_t>(words[index / per_word]);
  return static_cast<int>(word >> (index % per_word * static_cast<std::size_t>(bits)) & ((1U << static_cast<unsigned>(bits)) - 1U));
}

/// One head of a quantise case through a store: codes, packed words, scales, minima and decoded numbers, all bit for bit.
template <int Bits, class Store>
void compare_store(const conformance::Case& one, const HeadArray& x, std::size_t head, std::size_t group, bool along_tokens) {
  Store store(x.dim, {});
  store.append(x.data.data() + head * x.tokens * x.dim, x.tokens);
  const auto codes = conformance::heads(one.array("q_int")).at(head);
  const auto words = one.array("code_i32");
  const auto scale = conformance::heads(one.array("scale")).at(head);
  const auto minimum = conformance::heads(one.array("zero_min")).at(head);
  const auto dequant = conformance::heads(one.array("dequant")).at(head);
  const std::vector<std::int32_t> packed = words.as<std::int32_t>();
  std::vector<float> decoded(x.dim);
  for (std::size_t t = 0; t < x.tokens; ++t) {
    store.read(t, decoded.data());
    for (std::size_t c = 0; c < x.dim; ++c) {
      const auto row = static_cast<reference::Index>(t);
      const auto column = static_cast<reference::Index>(c);
      const auto g = static_cast<reference::Index>((along_tokens ? t : c) / group);
      ASSERT_EQ(static_cast<double>(store.code(t, c)), codes(row, column)) << "token " << t << " channel " << c;
      ASSERT_EQ(static_cast<double>(store.scale(t, c)), along_tokens ? scale(g, column) : scale(row, g));
      ASSERT_EQ(static_cast<double>(store.minimum(t, c)), along_tokens ? minimum(g, column) : minimum(row, g));
      ASSERT_EQ(static_cast<double>(decoded[c]), dequant(row, column));
      const std::size_t per_word = 32 / Bits;  // keys: words run along tokens, (heads, words, channels); values: along channels
      const std::size_t line =
          along_tokens ? (head * words.shape[1] + t / per_word) * x.dim + c : (head * x.tokens + t) * words.shape[2] + c / per_word;
      ASSERT_EQ(static_cast<int>(store.code(t, c)), unpacked({packed[line]}, (along_tokens ? t : c) % per_word, Bits));
    }
  }
}

void quantize_keys(const conformance::Case& one) {
  const HeadArray x(one.array("k_postrope"));
  with_format(one, [&]<int Bits, std::size_t Group>() {
    for (std::size_t head = 0; head < x.heads; ++head) {
      compare_store<Bits, kvcompress::PerChannel<Bits, Group, float>>(one, x, head, Group, true);
    }
  });
}
void quantize_values(const conformance::Case& one) {
  const HeadArray x(one.array("v"));
  with_format(one, [&]<int Bits, std::size_t Group>() {
    for (std::size_t head = 0; head < x.heads; ++head) {
      compare_store<Bits, kvcompress::PerToken<Bits, Group, float>>(one, x, head, Group, false);
    }
  });
}

/// One group per column of x.
template <int Bits>
void compare_rounding(const conformance::Case& one) {
  const auto array = one.array("x");
  const std::vector<float> x = array.as<float>();
  const std::size_t rows = array.shape.at(0);
  const std::size_t columns = array.shape.at(1);
  const auto codes = one.array("q_int").as<int>();
  const auto scale = one.array("scale").as<float>();
  const auto minimum = one.array("zero_min").as<float>();
  for (std::size_t c = 0; c < columns; ++c) {
    const kvcompress::GroupQuantizer<Bits, float> quantizer(x.data() + c, rows, columns);
    EXPECT_EQ(quantizer.minimum, minimum[c]);
    if (quantizer.scale != 0.0F) { EXPECT_EQ(quantizer.scale, scale[c]); }  // constant column: the official probe notes 1
    for (std::size_t r = 0; r < rows; ++r) {
      EXPECT_EQ(static_cast<int>(quantizer.encode(x[r * columns + c])), codes[r * columns + c]) << "column " << c;
    }
  }
}
void rounding(const conformance::Case& one) {
  const int bits = one.params.value("bits", 2);
  if (bits == 2) { return compare_rounding<2>(one); }
  if (bits == 4) { return compare_rounding<4>(one); }
  if (bits == 8) { return compare_rounding<8>(one); }
  throw conformance::NotCovered(one.path() + ": " + std::to_string(bits) + " bits");
}

/// At the end of a stream: codes that differ from the official ones, out of how many, and the largest differences of the groups' numbers.
struct Flips {
  std::size_t differ = 0;
  std::size_t all = 0;
  double scale = 0.0;
  double minimum = 0.0;
};

template <int Bits, std::size_t Group>
void compare_final(const conformance::Case& one, const std::string& which, const auto& store, std::size_t head, std::size_t dim,
                   Flips& flips) {
  if (store.rows() == 0) { return; }
  const bool keys = which == "k";
  const auto array = one.array(keys ? "final_k_code_HDt" : "final_v_code_HTd");
  const auto words = array.as<std::int32_t>();
  const std::size_t lines = array.shape.at(1);
  const std::size_t width = array.shape.at(2);
  ASSERT_EQ(lines, keys ? dim : store.rows());
  ASSERT_EQ(width * 32 / Bits, keys ? store.rows() : dim);
  const reference::Matrix scale = conformance::heads(one.array(keys ? "final_k_scale_HDg" : "final_v_scale_HTg")).at(head);
  const reference::Matrix minimum = conformance::heads(one.array(keys ? "final_k_min_HDg" : "final_v_min_HTg")).at(head);
  ASSERT_EQ(static_cast<std::size_t>(scale.rows()), lines);
  ASSERT_EQ(static_cast<std::size_t>(scale.cols()) * Group, width * 32 / Bits);
  for (std::size_t line = 0; line < lines; ++line) {
    for (reference::Index g = 0; g < scale.cols(); ++g) {
      const auto first = static_cast<std::size_t>(g) * Group;
      const auto row = static_cast<reference::Index>(line);
      const double s = static_cast<double>(keys ? store.scale(first, line) : store.scale(line, first));
      const double m = static_cast<double>(keys ? store.minimum(first, line) : store.minimum(line, first));
      flips.scale = std::max(flips.scale, std::abs(s - scale(row, g)));
      flips.minimum = std::max(flips.minimum, std::abs(m - minimum(row, g)));
    }
  }
  for (std::size_t line = 0; line < lines; ++line) {
    const auto first = words.begin() + static_cast<std::ptrdiff_t>((head * lines + line) * width);
    const std::vector<std::int32_t> run(first, first + static_cast<std::ptrdiff_t>(width));
    for (std::size_t i = 0; i < width * 32 / Bits; ++i) {
      const int ours = keys ? store.code(i, line) : store.code(line, i);
      const int theirs = unpacked(run, i, Bits);
      ASSERT_LE(std::abs(ours - theirs), 1);
      flips.differ += ours == theirs ? 0U : 1U;
      ++flips.all;
    }
  }
}

template <int Bits, std::size_t Group>
void run_stream(const conformance::Case& one) {
  const HeadArray q(one.array("q_prerope"));
  const HeadArray k(one.array("k_prerope"));
  const HeadArray v(one.array("v"));
  const HeadArray out(one.array("out"));
  const auto lengths = conformance::matrix(one.array("len_kq_kf_vq_vf_total"));
  const kvcompress::Rope rope{.theta = one.rope().theta,
                              .pairing = one.rope().pairing == reference::Pairing::half ? kvcompress::RopePairing::half_split
                                                                                        : kvcompress::RopePairing::interleaved};
  kvcompress::test::Sequence<kvcompress::Kivi<Bits, Group, Group, float>> run(
      kvcompress::test::shape_of(q, k, v, kvcompress::KeyForm::unrotated, rope),
      {.storage = {.residual = one.get<std::size_t>("residual"), .accumulation = kvcompress::Accumulation::exact}}, q, k, v);
  const auto steps = one.get<std::size_t>("steps");
  ASSERT_EQ(static_cast<std::size_t>(lengths.rows()), steps + 1);
  for (std::size_t step = 0; step <= steps; ++step) {
    run.step(step == 0 ? one.get<std::size_t>("prompt") : 1);
    step == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
    const auto& keys = run.cache.keys(0, 0);
    const auto& values = run.cache.values(0, 0);
    const std::vector<std::size_t> reached{keys.settled(), keys.rows() - keys.settled(), values.settled(), values.rows() - values.settled(),
                                           keys.rows()};
    for (std::size_t i = 0; i < reached.size(); ++i) {
      ASSERT_EQ(static_cast<double>(reached[i]), lengths(static_cast<reference::Index>(step), static_cast<reference::Index>(i)))
          << "step " << step;
    }
  }
  Flips key_flips;
  Flips value_flips;
  for (std::size_t head = 0; head < k.heads; ++head) {
    compare_final<Bits, Group>(one, "k", run.cache.keys(0, head).body(), head, k.dim, key_flips);
    compare_final<Bits, Group>(one, "v", run.cache.values(0, head).body(), head, v.dim, value_flips);
  }
  EXPECT_EQ(value_flips.differ, 0U) << "values are not rotated, so their codes are exact";
  conformance::expect_within(one, "scales of values", value_flips.scale, 0.0);
  conformance::expect_within(one, "minima of values", value_flips.minimum, 0.0);
  conformance::expect_within(one, "scales of keys", key_flips.scale, 1e-4);
  conformance::expect_within(one, "minima of keys", key_flips.minimum, 1e-4);
  const auto share = static_cast<double>(key_flips.differ) / static_cast<double>(std::max<std::size_t>(1, key_flips.all));
  conformance::expect_within(one, "share of key codes off by one", share, 1e-3);  // keys are rotated with other tables
  double largest = 0.0;
  for (const float x : out.data) { largest = std::max(largest, std::abs(static_cast<double>(x))); }
  conformance::expect_within(one, "out", kvcompress::test::deviation(run.out, out), key_flips.differ == 0 ? 5e-5 : 1e-3 * largest);
}
void stream(const conformance::Case& one) {
  with_format(one, [&]<int Bits, std::size_t Group>() { run_stream<Bits, Group>(one); });
}

const conformance::Method method(
    "kivi", {{"quantize_keys", quantize_keys}, {"quantize_values", quantize_values}, {"rounding", rounding}, {"stream", stream}});
TEST(Kivi, ReproducesTheOfficialVectors) { method.run(); }

// For users without the official vectors: the same path against the shipped reference, on numbers made here.
TEST(Kivi, HoldsTheCodesOfTheReference) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  HeadArray q(2, 150, 24);
  HeadArray k(1, 150, 24);
  HeadArray v(1, 150, 24);
  for (HeadArray* array : {&q, &k, &v}) {
    for (float& x : array->data) { x = normal(rng); }
  }
  kvcompress::test::Sequence<kvcompress::Kivi<4, 8, 32, float>> run(
      kvcompress::test::shape_of(q, k, v), {.storage = {.accumulation = kvcompress::Accumulation::exact}}, q, k, v);
  reference::KiviState<> state{.options = {.bits = 4, .group = 8, .residual = 32}};
  const auto matrix = [](const HeadArray& a, std::size_t head) {
    const auto size = [](std::size_t n) { return static_cast<reference::Index>(n); };
    return reference::HeadsView<float>{a.data.data(), size(a.tokens), size(a.heads), size(a.dim), size(a.dim), size(a.tokens * a.dim)}.head(
        size(head));
  };
  while (run.done < 150) {
    const std::size_t count = run.done == 0 ? 70 : 1;
    const auto first = static_cast<reference::Index>(run.done);
    const auto tokens = static_cast<reference::Index>(count);
    run.step(count);
    first == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
    state.append(matrix(k, 0).middleRows(first, tokens), matrix(v, 0).middleRows(first, tokens));
    for (std::size_t head = 0; head < 2; ++head) {
      const auto expected = state.attend(matrix(q, head).middleRows(first, tokens)).output;
      for (reference::Index t = 0; t < tokens; ++t) {
        for (reference::Index c = 0; c < 24; ++c) {
          ASSERT_NEAR(run.out.at(head, static_cast<std::size_t>(first + t), static_cast<std::size_t>(c)), expected(t, c), 2e-5)
              << "token " << first + t;
        }
      }
    }
    state.commit();
  }
  const auto& keys = run.cache.keys(0, 0).body();
  const auto& values = run.cache.values(0, 0).body();
  ASSERT_EQ(static_cast<reference::Index>(keys.rows()), state.keys.codes.rows());
  ASSERT_EQ(static_cast<reference::Index>(values.rows()), state.values.codes.rows());
  for (std::size_t c = 0; c < 24; ++c) {
    const auto column = static_cast<reference::Index>(c);
    for (std::size_t t = 0; t < keys.rows(); ++t) {
      ASSERT_EQ(static_cast<int>(keys.code(t, c)), state.keys.codes(static_cast<reference::Index>(t), column));
    }
    for (std::size_t t = 0; t < values.rows(); ++t) {
      ASSERT_EQ(static_cast<int>(values.code(t, c)), state.values.codes(static_cast<reference::Index>(t), column));
    }
  }
}

}  // namespace kivi_test
