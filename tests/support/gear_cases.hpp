// tests/support/gear_cases.hpp - the official vectors of GEAR, run through whatever compresses: the reference or the stores.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "kvcompress/reference/gear.hpp"
#include "support/cases.hpp"

namespace kvcompress::conformance::gear {

using reference::GearOptions;
using reference::Index;
using reference::Matrix;

/// Compresses one segment with given starts and returns what it decodes to, by head; throws NotCovered for what it cannot do.
using Heads = std::vector<Matrix>;
using Compress = std::function<Heads(const Case&, const Heads& heads, const Heads& starts, const GearOptions&)>;
/// A power iteration: (matrix, start, sweeps) -> low-rank approximation.
using Iterate = std::function<Matrix(const Matrix&, const Matrix&, int)>;

/// An entry of the parameters, or `fallback` where there is none or it is null.
template <class T>
T entry(const Case& one, const std::string& key, T fallback) {
  return one.params.contains(key) && !one.params.at(key).is_null() ? one.params.at(key).get<T>() : fallback;
}

inline GearOptions options_of(const Case& one) {
  GearOptions options;
  const auto backbone = one.get<std::string>("backbone");
  if (backbone != "kcvt" && backbone != "kivi") { throw NotCovered(one.path() + ": backbone " + backbone); }
  options.backbone = backbone == "kcvt" ? reference::GearBackbone::kcvt : reference::GearBackbone::kivi;
  options.bits = one.get<int>("bits");
  options.group = entry(one, "group", options.group);
  const auto tensor = entry<std::string>(one, "tensor", "key");
  options.tensor = tensor == "key" || tensor == "keys" || tensor == "k" ? reference::GearTensor::keys : reference::GearTensor::values;
  options.sparsity = entry(one, "outliers", true) ? entry(one, "sparsity", 0.0) : 0.0;
  options.rank = entry(one, "rank", Index{0});
  options.sweeps = std::max(1, entry(one, "sweeps", 3));
  return options;
}
/// The rows that a case is about: the named input, as many tokens as the output has.
inline std::vector<Matrix> input_of(const Case& one, const GearOptions& options, const std::vector<Matrix>& output) {
  const std::string fallback = options.tensor == reference::GearTensor::keys ? "k_postrope" : "v";
  const std::string named = std::filesystem::path(entry(one, "input", fallback)).stem().string();
  std::vector<Matrix> heads = conformance::heads(one.array(named));
  for (Matrix& head : heads) { head.conservativeResize(output.front().rows(), Eigen::NoChange); }
  return heads;
}
inline std::vector<Matrix> starts_of(const Case& one, const GearOptions& options) {
  if (options.rank == 0) { return {}; }
  return conformance::heads(one.any({"P0", "P0_r" + std::to_string(options.rank)}));
}

/// The largest deviation of all heads, and the largest number.
inline void compare(const Case& one, const std::string& what, const Heads& actual, const Heads& expected, double bound) {
  double worst = 0.0;
  for (std::size_t h = 0; h < expected.size(); ++h) { worst = std::max(worst, deviation(actual.at(h), expected[h])); }
  expect_within(one, what, worst, bound);
}

/// Handlers of all kinds. `exact`: deviation allowed where the README says bit-exact.
inline Handlers handlers(const Compress& compress, const Iterate& iterate, double exact, bool zero_fill) {
  const auto backbone = [=](const Case& one) {
    bool any = false;
    for (const auto& [name, tensor] : {std::pair{"k_hat", reference::GearTensor::keys}, std::pair{"v_hat", reference::GearTensor::values},
                                       std::pair{"hat", options_of(one).tensor}}) {
      if (!one.has(name)) { continue; }
      any = true;
      GearOptions options = options_of(one);
      options.tensor = tensor;
      options.rank = 0;
      options.sparsity = 0.0;
      const auto expected = heads(one.array(name));
      compare(one, name, compress(one, input_of(one, options, expected), {}, options), expected, 0.0);
    }
    if (!any) { throw NotCovered(one.path() + " has no array k_hat, v_hat or hat"); }
  };
  const auto compressed = [=](const Case& one) {
    GearOptions options = options_of(one);
    options.official_simulation = entry<std::string>(one, "outlier_rule", "official") == "official";
    if (options.sparsity > 0.0 && options.official_simulation && options.bits != 2 && options.bits != 4) {
      throw NotCovered(one.path() + ": the official levels of " + std::to_string(options.bits) + " bits with outliers are bits^2 - 1");
    }
    const auto expected = heads(one.array("hat"));
    const auto actual = compress(one, input_of(one, options, expected), starts_of(one, options), options);
    compare(one, "hat", actual, expected, options.rank == 0 ? exact : options.sweeps <= 3 ? 1e-5 : options.rank <= 4 ? 1e-3 : 1e-2);
  };
  const auto canonical = [=](const Case& one) {
    GearOptions options = options_of(one);
    bool any = false;
    for (const auto& file : std::filesystem::directory_iterator(one.folder)) {
      const std::string name = file.path().stem().string();
      const bool mean = name.ends_with("fill_mean");
      const bool zero = name.ends_with("fill_zero");
      if (!(mean || (zero && zero_fill) || name == "hat")) { continue; }
      any = true;
      options.fill = zero ? reference::GearFill::zero : reference::GearFill::mean;
      const auto expected = heads(one.array(name));
      const auto input = input_of(one, options, expected);
      if (one.params.contains("outliers_per_side")) {
        const auto count = static_cast<Index>(input.size());
        EXPECT_EQ(reference::outliers_per_side(options, count, input.front().rows(), input.front().cols()),
                  one.get<Index>("outliers_per_side"));
      }
      compare(one, name, compress(one, input, starts_of(one, options), options), expected, options.rank == 0 ? exact : 1e-5);
    }
    if (!any) { throw NotCovered(one.path() + " has no array hat, ..._fill_mean or ..._fill_zero"); }
  };
  const auto power = [=](const Case& one) {
    const auto x = heads(one.any({"X", "x"}));
    bool any = false;
    for (int rank = 1; rank <= 64; ++rank) {
      const std::string r = std::to_string(rank);
      for (int sweeps = 1; sweeps <= 64; ++sweeps) {
        const std::string name = "Y_r" + r + "_loop" + std::to_string(sweeps);
        if (!one.has(name)) { continue; }
        any = true;
        const auto start = heads(one.any({"P0_r" + r, "P0"}));
        const auto expected = heads(one.array(name));
        std::vector<Matrix> actual;
        for (std::size_t h = 0; h < x.size(); ++h) {
          actual.push_back(iterate(x[h], start[h], sweeps));
          if (one.has("svd_best_r" + r)) {
            const double best = (x[h] - heads(one.array("svd_best_r" + r))[h]).norm();
            EXPECT_GE((x[h] - actual[h]).norm(), best * (1 - 1e-5)) << "better than the best approximation of its rank";
          }
        }
        compare(one, name, actual, expected, sweeps <= 3 ? 1e-5 : rank <= 4 ? 1e-3 : 1e-2);
      }
    }
    if (!any) { throw NotCovered(one.path() + " has no array Y_r<rank>_loop<sweeps>"); }
  };
  return {{"backbone", backbone}, {"cluster", backbone},    {"compress", compressed},          {"sparse_only", compressed},
          {"sparse", compressed}, {"outliers", compressed}, {"compress_canonical", canonical}, {"power_iteration", power}};
}

}  // namespace kvcompress::conformance::gear
