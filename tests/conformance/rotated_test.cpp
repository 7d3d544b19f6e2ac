// tests/conformance/rotated_test.cpp - rotated and per-token codecs against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>

#include "kvcompress/policies/rotated.hpp"
#include "kvcompress/quantization/fitted_codes.hpp"
#include "support/codec_cases.hpp"

namespace rotated_test {

using namespace kvcompress;
using namespace kvcompress::conformance;

template <int Bits>
struct CodecOptions {
  std::size_t group = 0;
  Accumulation accumulation = Accumulation::exact;
  const LevelTable<std::min(Bits, 4)>* levels = &lloyd_max_levels<std::min(Bits, 4)>;
};
/// vLLM's TurboQuant: keys as levels of their rotated direction times the norm, values from min to max, per token.
template <int Bits>
void turboquant_of_vllm(const conformance::Case& one) {
  const LevelTable<Bits>& table = lloyd_max_levels<Bits>;
  const Table k(one.array("k"));
  const float sigma = 1.0F / std::sqrt(static_cast<float>(k.dim));
  const auto levels = one.array("levels").as<float>();
  double off = 0.0;  // theirs are not Lloyd's and Max's to the last digit: up to 1.7e-3 off
  for (std::size_t i = 0; i < table.count; ++i) { off = std::max(off, std::abs(static_cast<double>(table.levels[i] - levels[i] / sigma))); }
  conformance::expect_within(one, "levels, in deviations", off, 2e-3);

  const std::size_t block = BlockHadamard(k.dim).block();
  const auto turned = rotated(k, block);
  const auto unit = one.array("k_rot_unit").as<float>();
  const auto index = one.array("k_index").as<int>();
  const auto norms = one.array("k_norm").as<float>();
  const auto hats = one.array("k_hat").as<float>();
  PerTokenKeys<LevelCode<Bits, float>> keys(CodecOptions<Bits>{}, k.dim, {});
  keys.append(turned.data(), k.rows());
  Codes codes;
  double rotation = 0.0;
  double error = 0.0;
  std::vector<float> decoded(k.dim);
  for (std::size_t r = 0; r < k.rows(); ++r) {
    double norm = 0.0;
    for (std::size_t c = 0; c < k.dim; ++c) { norm += std::pow(static_cast<double>(k.row(r)[c]), 2); }
    norm = std::sqrt(norm);
    EXPECT_NEAR(norms[r], norm, 5e-4 * norm);
    keys.read(r, decoded.data());
    for (float& number : decoded) { number *= 1.0F / std::sqrt(static_cast<float>(block)); }  // H / b is what held rows come with
    BlockHadamard(k.dim).outputs(decoded.data(), k.dim, 1);
    bool same = true;
    for (std::size_t c = 0; c < k.dim; ++c) {
      const std::size_t at = r * k.dim + c;
      rotation = std::max(rotation, std::abs(static_cast<double>(turned[at]) / norm - static_cast<double>(unit[at])));
      codes.compare(keys.code(r, c), index[at]);
      same = same && keys.code(r, c) == index[at];
    }
    double off_norm = 0.0;
    for (std::size_t c = 0; same && c < k.dim; ++c) {  // theirs, with the norm not rounded to half
      const double theirs = static_cast<double>(hats[r * k.dim + c]) * norm / static_cast<double>(norms[r]);
      off_norm += std::pow(static_cast<double>(decoded[c]) - theirs, 2);
    }
    error = std::max(error, std::sqrt(off_norm) / norm);
  }
  conformance::expect_within(one, "rotated unit keys", rotation, 2e-6);
  codes.finish(one, "keys");
  // Levels are 255ths of their span, half a step at most, beside what the tables differ by.
  const double grid = static_cast<double>(table.step) / 2 + 2e-3;
  conformance::expect_within(one, "length of what decoded keys differ by, of their norm", error, grid);

  const Table v(one.array("v"));
  const auto value_index = one.array("v_index").as<int>();
  const auto value_hats = one.array("v_hat").as<float>();
  PerTokenValues<AffineCode<Bits, float>, 32> values(CodecOptions<Bits>{}, v.dim, {});  // they round scales to half behind the codes
  values.append(v.data.data(), v.rows());
  Codes value_codes;
  double value_error = 0.0;
  for (std::size_t r = 0; r < v.rows(); ++r) {
    for (std::size_t c = 0; c < v.dim; ++c) {
      const std::size_t at = r * v.dim + c;
      value_codes.compare(values.code(r, c), value_index[at]);
      const auto decoded_value = GroupQuantizer<Bits, half>::decode(static_cast<std::uint8_t>(value_index[at]), half(values.scale(r, c)),
                                                                    half(values.minimum(r, c)));
      value_error = std::max(value_error, std::abs(static_cast<double>(decoded_value - value_hats[at])));
    }
  }
  value_codes.finish(one, "values");
  conformance::expect_within(one, "decoded values", value_error, 2e-6 * largest_of(value_hats));
}
void lloyd_max_vllm(const conformance::Case& one) {
  const int bits = one.get<int>("key_bits");
  if (bits != one.get<int>("value_bits")) { throw conformance::NotCovered(one.path() + ": keys and values of other bits"); }
  if (bits == 3) { return turboquant_of_vllm<3>(one); }
  if (bits == 4) { return turboquant_of_vllm<4>(one); }
  throw conformance::NotCovered(one.path() + ": " + std::to_string(bits) + " bits");
}

/// The blocks of the llama.cpp port, with its own table, which is what its bytes are made by: rotation with its signs, codes, norm rule.
template <int Bits>
void turboquant_of_llama(const conformance::Case& one) {
  const Table x(one.array("x"));
  const auto before = one.array("s1").as<float>();
  const auto after = one.array("s2").as<float>();
  const auto bytes = one.array("bytes").as<int>();
  const auto dequant = one.array("dequant").as<float>();
  const auto levels = one.get<std::vector<float>>("levels");
  const float sigma = 1.0F / std::sqrt(static_cast<float>(x.dim));
  LevelTable<Bits> table;
  for (std::size_t i = 0; i < table.count; ++i) { table.levels[i] = levels[i] / sigma; }
  for (std::size_t i = 0; i + 1 < table.count; ++i) { table.boundaries[i] = (table.levels[i] + table.levels[i + 1]) / 2; }
  table = table.with_bytes();

  Table signed_rows = x;
  for (std::size_t i = 0; i < x.data.size(); ++i) { signed_rows.data[i] *= before[i % x.dim]; }
  auto turned = rotated(signed_rows, x.dim);
  for (std::size_t i = 0; i < turned.size(); ++i) { turned[i] *= after[i % x.dim]; }
  PerTokenKeys<LevelCode<Bits, half>> keys(CodecOptions<Bits>{.levels = &table}, x.dim, {});
  keys.append(turned.data(), x.rows());
  const std::size_t block_bytes = one.array("bytes").shape.at(1);
  Codes codes;
  double error = 0.0;
  std::vector<float> decoded(x.dim);
  for (std::size_t r = 0; r + 4 < x.rows(); ++r) {                            // the last four are ties
    const int* block = bytes.data() + r * block_bytes + (Bits == 4 ? 4 : 2);  // behind the norm, and one that is always 0
    keys.read(r, decoded.data());
    bool same = true;
    for (std::size_t c = 0; c < x.dim; ++c) {
      int code = Bits == 4 ? block[c / 2] >> (4 * (c % 2)) & 15 : block[c / 4] >> (2 * (c % 4)) & 3;
      if constexpr (Bits == 3) { code |= (block[x.dim / 4 + c / 8] >> (c % 8) & 1) << 2; }
      codes.compare(keys.code(r, c), code);
      same = same && keys.code(r, c) == code;
    }
    for (std::size_t c = 0; same && c < x.dim; ++c) {  // another code gives the row another scale
      const double scale = static_cast<double>(static_cast<float>(keys.scale(r, c)));
      error = std::max(error, std::abs(static_cast<double>(decoded[c] - dequant[r * x.dim + c])) / scale);
    }
  }
  codes.finish(one, "rows");
  conformance::expect_within(one, "decoded rows, of their scale", error,
                             static_cast<double>(table.step) / 2 + 2e-3);  // the norm is of bytes
}
void lloyd_max(const conformance::Case& one) {
  const int bits = one.get<int>("bits");
  if (bits == 2) { return turboquant_of_llama<2>(one); }
  if (bits == 3) { return turboquant_of_llama<3>(one); }
  if (bits == 4) { return turboquant_of_llama<4>(one); }  // whose table is no normal distribution's: it is the case's, not the library's
  throw conformance::NotCovered(one.path() + ": " + std::to_string(bits) + " bits");
}

/// Block Hadamard of 16 channels, then min to max over the row.
void rotated_affine(const conformance::Case& one) {
  const Table k(one.array("k"));
  const auto block = one.get<std::size_t>("hadamard_block");
  const auto turned = rotated(k, block);
  const auto official = one.array("k_rot").as<float>();
  double rotation = 0.0;
  for (std::size_t i = 0; i < turned.size(); ++i) { rotation = std::max(rotation, std::abs(static_cast<double>(turned[i] - official[i]))); }
  conformance::expect_within(one, "rotated keys", rotation, 2e-6 * largest_of(official));
  const auto index = one.array("code_g1").as<int>();
  const auto hats = one.array("hat_g1").as<float>();
  PerTokenKeys<AffineCode<4, float>> keys(CodecOptions<4>{}, k.dim, {});
  keys.append(turned.data(), k.rows());
  Codes codes;
  double error = 0.0;
  std::vector<float> decoded(k.dim);
  for (std::size_t r = 0; r < k.rows(); ++r) {
    keys.read(r, decoded.data());
    for (float& number : decoded) { number *= 1.0F / std::sqrt(static_cast<float>(block)); }
    BlockHadamard(k.dim, block).outputs(decoded.data(), k.dim, 1);
    bool same = true;
    for (std::size_t c = 0; c < k.dim; ++c) {
      codes.compare(keys.code(r, c), index[r * k.dim + c]);
      same = same && keys.code(r, c) == index[r * k.dim + c];
    }
    for (std::size_t c = 0; same && c < k.dim; ++c) {
      error = std::max(error, std::abs(static_cast<double>(decoded[c] - hats[r * k.dim + c])));
    }
  }
  codes.finish(one, "keys");
  conformance::expect_within(one, "decoded keys", error, 2e-6 * largest_of(hats));
}

/// vLLM's INT4 per token and head: signs, Hadamard, a zero point cut to the codes, in the low bits of the scale.
void rotated_int4(const Case& one) {
  const Table k(one.array("k"));
  const auto block = one.get<std::size_t>("hadamard_block");
  const auto signs = one.array("signs").as<float>();
  for (const std::string name : {"k", "v"}) {
    Table x(one.array(name));
    for (std::size_t i = 0; i < x.data.size(); ++i) { x.data[i] *= signs[i % x.dim]; }
    auto turned = rotated(x, block);
    for (float& number : turned) { number *= std::sqrt(static_cast<float>(block)); }  // theirs is not normalised
    PerTokenKeys<CutZeroPointCode> rows(CodecOptions<4>{}, x.dim, {});
    rows.append(turned.data(), x.rows());
    const auto packed = one.array(name + "_code").as<int>();
    const auto bits = one.array(name + "_scale_bits").as<std::int64_t>();
    Codes codes;
    double scales = 0.0;
    for (std::size_t r = 0; r < x.rows(); ++r) {
      const auto official = static_cast<std::uint32_t>(bits[r]);
      const float scale = rows.scale(r, 0);
      EXPECT_EQ(std::lround(-rows.minimum(r, 0) / scale), static_cast<long>(official & 15U)) << "row " << r;
      scales = std::max(scales, std::abs(static_cast<double>(scale / std::bit_cast<float>(official & ~15U) - 1.0F)));
      for (std::size_t c = 0; c < x.dim; ++c) { codes.compare(rows.code(r, c), packed[(r * x.dim + c) / 2] >> (4 * (c % 2)) & 15); }
    }
    codes.finish(one, name);
    expect_within(one, "scales of " + name + ", relative", scales, 4e-6);  // the last place of what stands above the zero point
    if (name == "k") {
      auto official = one.array("k_dequant_rot").as<float>();
      compare_rows(one, "decoded " + name, rows, x.dim, official);
    }
  }
}
/// INT8 per token and head: nearest codes; the engine's are cut, which the case documents too.
void int8(const Case& one) {
  const Table k(one.array("k"));
  PerTokenKeys<SymmetricCode<8, float>> keys(CodecOptions<8>{}, k.dim, {});
  keys.append(k.data.data(), k.rows());
  const auto code = one.array("code_round").as<int>();
  const auto scale = one.array("scale").as<float>();
  Codes codes;
  double scales = 0.0;
  for (std::size_t r = 0; r < k.rows(); ++r) {
    scales = std::max(scales, std::abs(static_cast<double>(keys.scale(r, 0) / scale[r] - 1.0F)));
    for (std::size_t c = 0; c < k.dim; ++c) { codes.compare(keys.code(r, c), code[r * k.dim + c]); }
  }
  codes.finish(one, "keys");
  expect_within(one, "scales, relative", scales, 1e-6);
  compare_rows(one, "decoded keys", keys, k.dim, one.array("hat_round").as<float>());
}

const conformance::Method turboquant("turboquant", {{"lloyd_max_vllm", lloyd_max_vllm}, {"lloyd_max", lloyd_max}});
TEST(Rotated, ReproducesTurboQuantsOfficialVectors) { turboquant.run(); }
const conformance::Method per_token_int4("per_token_int4",
                                         {{"rotated_int4_affine", rotated_affine}, {"rotated_int4", rotated_int4}, {"int8", int8}});
TEST(Rotated, ReproducesTheVectorsOfRotatedInt4) { per_token_int4.run(); }

}  // namespace rotated_test
