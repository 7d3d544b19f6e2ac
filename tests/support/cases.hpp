// tests/support/cases.hpp - finds the official vectors, runs every case of a known kind, counts the rest.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"
#include "support/npy.hpp"

/// A case is a folder with a params.json somewhere below <directory>/<method>/. The directory is the compile
/// definition KVCOMPRESS_CONFORMANCE_DIR; without it, or where it does not exist, tests skip with a sentence.
namespace kvcompress::conformance {

inline std::filesystem::path directory() {
#ifdef KVCOMPRESS_CONFORMANCE_DIR
  return KVCOMPRESS_CONFORMANCE_DIR;
#else
  return {};
#endif
}

/// Thrown by a handler that does not know this variant of a kind: counted, not failed.
struct NotCovered : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Case {
  std::string method;
  std::string kind;
  std::filesystem::path folder;
  nlohmann::json params;

  [[nodiscard]] std::string path() const { return method + "/" + folder.filename().string(); }

  /// The array of that name in the folder or else one level up.
  [[nodiscard]] bool has(const std::string& name) const { return !locate(name).empty(); }
  [[nodiscard]] npy::Array array(const std::string& name) const {
    const std::filesystem::path file = locate(name);
    if (file.empty()) { throw NotCovered(path() + " has no array " + name + ".npy"); }
    return npy::read(file);
  }

  /// The first of several names that exists; the case counts as not covered where none does.
  [[nodiscard]] npy::Array any(const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
      if (has(name)) { return array(name); }
    }
    throw NotCovered(path() + " has no array " + names.front() + ".npy");
  }

  template <class T>
  [[nodiscard]] T get(const std::string& key) const {
    if (!params.contains(key)) { throw NotCovered(path() + ": params.json has no entry " + key); }
    return params.at(key).get<T>();
  }

  [[nodiscard]] reference::Rope rope() const {
    reference::Rope rope;
    const nlohmann::json given = params.value("rope", nlohmann::json::object());
    rope.theta = given.value("base", 10000.0);
    const std::string pairing = given.value("pairing", "half");
    if (pairing != "half" && pairing != "interleaved") { throw NotCovered(path() + ": RoPE pairing " + pairing); }
    rope.pairing = pairing == "half" ? reference::Pairing::half : reference::Pairing::interleaved;
    return rope;
  }

 private:
  [[nodiscard]] std::filesystem::path locate(const std::string& name) const {
    for (const auto& place : {folder, folder.parent_path()}) {
      if (std::filesystem::is_regular_file(place / (name + ".npy"))) { return place / (name + ".npy"); }
    }
    return {};
  }
};

/// Cases per "method/kind", and the summary printed when the test program ends.
class Tally : public ::testing::Environment {
 public:
  static Tally& get() {
    static Tally* const tally = new Tally;  // owned by GoogleTest once registered below
    return *tally;
  }
  void ran(const std::string& method, const std::string& kind) { ++counts_[method + "/" + kind].first; }
  void missed(const std::string& method, const std::string& kind) { ++counts_[method + "/" + kind].second; }

  void TearDown() override {
    for (const auto& [name, count] : counts_) {
      std::cout << "conformance: " << name;
      if (count.first > 0) { std::cout << " " << count.first << (count.first == 1 ? " case ran" : " cases ran"); }
      if (count.second > 0) { std::cout << (count.first > 0 ? ", " + std::to_string(count.second) : "") << " not covered"; }
      std::cout << "\n";
    }
  }

 private:
  std::map<std::string, std::pair<int, int>> counts_;  // ran, not covered
};
inline ::testing::Environment* const tally_environment = ::testing::AddGlobalTestEnvironment(&Tally::get());

/// Every case folder of a method, in the order of their paths.
inline std::vector<Case> find_cases(const std::string& method) {
  std::vector<Case> cases;
  const std::filesystem::path root = directory() / method;
  if (directory().empty() || !std::filesystem::is_directory(root)) { return cases; }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().filename() != "params.json") { continue; }
    std::ifstream file(entry.path());
    nlohmann::json params = nlohmann::json::parse(file);
    std::string kind = params.value("kind", "unnamed");
    cases.push_back({method, std::move(kind), entry.path().parent_path(), std::move(params)});
  }
  std::sort(cases.begin(), cases.end(), [](const Case& a, const Case& b) { return a.folder < b.folder; });
  return cases;
}

using Handlers = std::map<std::string, std::function<void(const Case&)>>;  // by kind

/// The body of a test: runs every case of a method whose kind has a handler, and counts the others.
inline void run_cases(const std::string& method, const Handlers& handlers) {
  if (directory().empty() || !std::filesystem::is_directory(directory())) {
    GTEST_SKIP() << "KVCOMPRESS_CONFORMANCE_DIR names no directory, so no official vectors were run";
  }
  const std::vector<Case> cases = find_cases(method);
  if (cases.empty()) { GTEST_SKIP() << "there are no official vectors of " << method; }
  for (const Case& one : cases) {
    SCOPED_TRACE(one.path());
    const auto handler = handlers.find(one.kind);
    if (handler == handlers.end()) {
      std::cout << "conformance: " << one.path() << " is of kind " << one.kind << ", not covered\n";
      Tally::get().missed(method, one.kind);
      continue;
    }
    try {
      handler->second(one);
      Tally::get().ran(method, one.kind);
    } catch (const NotCovered& why) {
      std::cout << "conformance: " << why.what() << "\n";
      Tally::get().missed(method, one.kind);
    } catch (const std::exception& error) {  // a broken file must not hide the cases after it
      ADD_FAILURE() << error.what();
    }
  }
}

/// An array (heads, tokens, dim) as one matrix (tokens, dim) per head.
inline std::vector<reference::Matrix> heads(const npy::Array& array) {
  if (array.shape.size() != 3) { throw std::runtime_error("an array of heads must have three axes"); }
  const auto size = [&](std::size_t axis) { return static_cast<reference::Index>(array.shape[axis]); };
  return reference::HeadsView<double>{array.values.data(), size(1), size(0), size(2), size(2), size(1) * size(2)}.split();
}

/// An array (rows, columns) as a matrix.
inline reference::Matrix matrix(const npy::Array& array) {
  if (array.shape.size() != 2) { throw std::runtime_error("an array for a matrix must have two axes"); }
  return heads({{1, array.shape[0], array.shape[1]}, array.values}).front();
}

/// Prints the largest deviation of a case and fails above the bound.
inline void expect_within(const Case& one, const std::string& what, double deviation, double bound) {
  std::cout << "conformance: " << one.path() << " " << what << " deviates by " << deviation << ", bound " << bound << "\n";
  EXPECT_LE(deviation, bound) << one.path() << " " << what;
}

inline double deviation(const reference::Matrix& actual, const reference::Matrix& expected) {
  if (actual.rows() != expected.rows() || actual.cols() != expected.cols()) {
    throw std::runtime_error("matrices of different shapes cannot be compared");
  }
  return actual.size() == 0 ? 0.0 : (actual - expected).cwiseAbs().maxCoeff();
}

/// Rotation as in the official code, half-split pairs: frequencies, tables and products rounded to float.
/// Keys turned by reference::rotate differ in the last digits, which can move a code of a quantiser by one.
inline reference::Matrix rotate_in_float(const reference::Matrix& rows, const reference::Positions& positions, double base) {
  reference::Matrix out = rows;
  const reference::Index half = rows.cols() / 2;
  for (reference::Index t = 0; t < rows.rows(); ++t) {
    for (reference::Index i = 0; i < half; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(rows.cols());
      const float frequency = 1.0F / std::pow(static_cast<float>(base), exponent);
      const float angle = static_cast<float>(positions(t)) * frequency;
      const float a = static_cast<float>(rows(t, i));
      const float b = static_cast<float>(rows(t, i + half));
      const float ca = a * std::cos(angle);
      const float sb = b * std::sin(angle);
      const float cb = b * std::cos(angle);
      const float sa = a * std::sin(angle);
      out(t, i) = static_cast<double>(ca - sb);
      out(t, i + half) = static_cast<double>(cb + sa);
    }
  }
  return out;
}

}  // namespace kvcompress::conformance
