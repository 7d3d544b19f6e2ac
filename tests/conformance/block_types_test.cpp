// tests/conformance/block_types_test.cpp - codes, scales and bytes of block types against ggml's, and block floats.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kvcompress/quantization/fitted_codes.hpp"
#include "kvcompress/quantization/ggml/blocks.hpp"
#include "kvcompress/quantization/per_token_keys.hpp"
#include "support/codec_cases.hpp"

namespace block_types_test {

using namespace kvcompress;
using namespace kvcompress::conformance;

struct Options {
  std::size_t group = 0;
  Accumulation accumulation = Accumulation::exact;
};
/// Calls work<Type>() for the type of that name.
void with_type(const Case& one, const std::string& name, auto&& work) {
  const auto is = [&]<class Type>() {
    if (name == Type::name) { work.template operator()<Type>(); }
    return name == Type::name;
  };
  using namespace ggml;
  const auto any = [&]<class... Types>() { return (is.template operator()<Types>() || ...); };
  if (!any.template operator()<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_KV, Q6_0, Iq4Nl, Mxfp4, Nvfp4>()) {
    throw NotCovered(one.path() + ": type " + name);
  }
}
template <class Type>
PerTokenKeys<Type> encoded(const std::vector<float>& rows, std::size_t dim) {
  PerTokenKeys<Type> keys(Options{.group = Type::group}, dim, {});
  keys.append(rows.data(), rows.size() / dim);
  return keys;
}
/// Bytes of encoded rows against the official ones; of those, `most` may differ.
template <class Type>
void compare_bytes(const Case& one, const std::string& what, const PerTokenKeys<Type>& keys, std::size_t dim,
                   const std::vector<int>& official, double most) {
  const std::size_t size = ggml::row_bytes<Type>(dim);
  ASSERT_EQ(official.size(), keys.rows() * size) << one.path() << " " << what;
  std::vector<std::uint8_t> bytes(size);
  std::size_t differ = 0;
  for (std::size_t r = 0; r < keys.rows(); ++r) {
    ggml::put_row<Type>(keys, r, dim, bytes.data());
    for (std::size_t i = 0; i < size; ++i) {
      // Blocks of zeros have scale 0, so that their codes are nothing; in iq4_nl the official ones are those of the block before.
      const std::size_t block = r * size + i / 18 * 18;
      if (std::is_same_v<Type, ggml::Iq4Nl> && official[block] == 0 && official[block + 1] == 0 && i % 18 >= 2) { continue; }
      differ += bytes[i] != official[r * size + i] ? 1U : 0U;
    }
  }
  expect_within(one, what + ", share of bytes", static_cast<double>(differ) / static_cast<double>(official.size()), most);
}
/// Official bytes decoded, and the same rows as the codec reads them, against the official numbers.
template <class Type>
void compare_decoded(const Case& one, const std::string& what, const PerTokenKeys<Type>* keys, std::size_t dim,
                     const std::vector<int>& official, const std::vector<float>& dequant) {
  const std::vector<std::uint8_t> bytes(official.begin(), official.end());
  std::vector<float> out(dim);
  std::vector<float> held(dim);
  double error = 0.0;
  for (std::size_t r = 0; r < dequant.size() / dim; ++r) {
    ggml::decode_row<Type>(bytes.data() + r * ggml::row_bytes<Type>(dim), dim, out.data());
    if (keys != nullptr) { keys->read(r, held.data()); }
    for (std::size_t c = 0; c < dim; ++c) {
      const auto wanted = static_cast<double>(dequant[r * dim + c]);
      error = std::max(error, std::abs(static_cast<double>(out[c]) - wanted) - 1e-6 * std::abs(wanted));
      if (keys != nullptr) { error = std::max(error, std::abs(static_cast<double>(held[c]) - wanted) - 1e-6 * std::abs(wanted)); }
    }
  }
  expect_within(one, what + " decoded", error, 0.0);
}
void ggml_block(const Case& one) {
  with_type(one, one.get<std::string>("type"), [&]<class Type>() {
    for (const std::string prefix : {"", "edge_"}) {
      if (!prefix.empty() && !one.has("edge")) { continue; }  // hard rows: zeros, spikes, ties, tiny and large ones
      const Table x(one.array(prefix.empty() ? "x" : "edge"));
      const auto keys = encoded<Type>(x.data, x.dim);
      const auto official = one.array(prefix + "bytes").template as<int>();
      compare_bytes(one, prefix + "bytes", keys, x.dim, official, 0.0);
      compare_decoded(one, prefix + "rows", &keys, x.dim, official, one.array(prefix + "dequant").template as<float>());
    }
  });
}

/// llama.cpp's rotation of keys, queries and values, in natural order, and the rotated rows in its types.
void rotated_cache(const Case& one) {
  for (const std::string name : {"q", "k", "v"}) {
    const Table x(one.array(name));
    const auto block = one.get<std::size_t>(name == "v" ? "n_rot_v" : "n_rot_k");
    const auto turned = rotated(x, block);
    const auto official = one.array(name + "_rot").as<float>();
    double error = 0.0;
    for (std::size_t i = 0; i < turned.size(); ++i) { error = std::max(error, std::abs(static_cast<double>(turned[i] - official[i]))); }
    expect_within(one, name + " rotated", error, 2e-6 * largest_of(official));
    if (name == "q") { continue; }
    with_type(one, one.get<std::string>(name + "_type"), [&]<class Type>() {
      const auto bytes = one.array(name + "_bytes").template as<int>();
      compare_bytes(one, name + " of the official rotation", encoded<Type>(official, x.dim), x.dim, bytes, 0.0);
      compare_bytes(one, name, encoded<Type>(turned, x.dim), x.dim, bytes, 1e-3);
      compare_decoded<Type>(one, name, nullptr, x.dim, bytes, one.array(name + "_dequant_rot").template as<float>());
    });
  }
}
/// A context shift of a rotated cache as llama.cpp does it: decode, leave the frame, turn by the shift, enter it, encode. (This library turns queries.)
void rotated_kshift(const Case& one) {
  with_type(one, one.get<std::string>("type"), [&]<class Type>() {
    const auto dim = one.get<std::size_t>("head_dim");
    const auto before = one.array("k_bytes_before").template as<int>();
    const std::vector<std::uint8_t> bytes(before.begin(), before.end());
    const std::size_t rows = before.size() / ggml::row_bytes<Type>(dim);
    const BlockHadamard frame(dim, one.get<std::size_t>("n_rot"));
    std::vector<float> row(dim);
    reference::Matrix keys(static_cast<reference::Index>(rows), static_cast<reference::Index>(dim));
    const float root = 1.0F / std::sqrt(static_cast<float>(frame.block()));
    for (std::size_t r = 0; r < rows; ++r) {
      ggml::decode_row<Type>(bytes.data() + r * ggml::row_bytes<Type>(dim), dim, row.data());
      frame.outputs(row.data(), dim, 1);
      for (std::size_t c = 0; c < dim; ++c) {
        keys(static_cast<reference::Index>(r), static_cast<reference::Index>(c)) = static_cast<double>(row[c] * root);
      }
    }
    const reference::Matrix shifted =
        rotate_in_float(keys, reference::Positions::Constant(static_cast<reference::Index>(rows), one.get<int>("shift")),
                        one.params.at("rope").at("base").template get<double>());
    Table turned{npy::Array{{rows, dim}, {}}};
    for (reference::Index r = 0; r < shifted.rows(); ++r) {
      for (reference::Index c = 0; c < shifted.cols(); ++c) { turned.data.push_back(static_cast<float>(shifted(r, c))); }
    }
    const auto again = encoded<Type>(rotated(turned, frame.block()), dim);
    const auto dequant = one.array("k_dequant_rot_after").template as<float>();
    std::size_t steps = 0;
    double error = 0.0;
    for (std::size_t r = 0; r < rows; ++r) {
      again.read(r, row.data());
      for (std::size_t c = 0; c < dim; ++c) {
        const double off = std::abs(static_cast<double>(row[c] - dequant[r * dim + c]));
        const auto scale = std::abs(static_cast<double>(static_cast<float>(again.scale(r, c))));
        if (off > 0.5 * scale) {
          ++steps;
          EXPECT_LT(off, 1.01 * scale);
        } else {
          error = std::max(error, off);
        }
      }
    }
    expect_within(one, "share of steps", static_cast<double>(steps) / static_cast<double>(dequant.size()), 1e-3);
    expect_within(one, "shifted keys", error, 2e-5 * largest_of(dequant));
  });
}

/// Rows as they came and with their channels permuted.
void block_float(const Case& one) {
  if (one.get<int>("mantissa_bits") != 3) { throw NotCovered(one.path() + ": other bits than a sign and 3"); }
  Table x(one.array("x"));
  const auto perm = one.array("perm").as<std::size_t>();
  const auto codes = one.array("code").as<int>();
  for (const std::string name : {"hat", "hat_permuted"}) {
    Table rows = x;
    for (std::size_t i = 0; name != "hat" && i < rows.data.size(); ++i) { rows.data[i] = x.row(i / x.dim)[perm[i % x.dim]]; }
    PerTokenKeys<BlockFloatCode<3>> keys(Options{.group = one.get<std::size_t>("block")}, x.dim, {});
    keys.append(rows.data.data(), rows.rows());
    const auto hats = one.array(name).as<float>();
    std::vector<float> out(x.dim);
    double error = 0.0;
    for (std::size_t r = 0; r < x.rows(); ++r) {
      keys.read(r, out.data());
      for (std::size_t c = 0; c < x.dim; ++c) {
        if (name == "hat") { EXPECT_EQ(keys.code(r, c) - 8, codes[r * x.dim + c]); }
        error = std::max(error, std::abs(static_cast<double>(out[c] - hats[r * x.dim + c])));
      }
    }
    expect_within(one, name, error, 0.0);
  }
}

const Method ggml_types("ggml_types", {{"ggml_block", ggml_block}});
TEST(BlockTypes, HaveGgmlsBytes) { ggml_types.run(); }
const Method ik_types("ik_types", {{"ggml_block", ggml_block}});
TEST(BlockTypes, HaveTheBytesOfIkLlama) { ik_types.run(); }
const Method llamacpp_hadamard("llamacpp_hadamard", {{"rotated_cache", rotated_cache}, {"rotated_kshift", rotated_kshift}});
TEST(BlockTypes, AreRotatedAndShiftedAsInLlamaCpp) { llamacpp_hadamard.run(); }
const Method bfp_ksort("bfp_ksort", {{"block_float", block_float}});
TEST(BlockTypes, HaveTheBlockFloatsOfTheSpecification) { bfp_ksort.run(); }

}  // namespace block_types_test
