// tests/support/cases.hpp - finds the official vectors, runs every case of a known kind, counts the rest.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"
#include "support/npy.hpp"
#include "support/tally.hpp"

/// A case is a folder with a params.json somewhere below <directory>/<method>/. The directory is the environment variable or else the
/// compile definition KVCOMPRESS_CONFORMANCE_DIR and, where there is none, the few vectors that lie in tests/conformance/vectors.
namespace kvcompress::conformance {

inline std::filesystem::path directory() {
  std::string wanted;
#ifdef KVCOMPRESS_CONFORMANCE_DIR
  wanted = KVCOMPRESS_CONFORMANCE_DIR;
#endif
  if (const char* const given = std::getenv("KVCOMPRESS_CONFORMANCE_DIR"); given != nullptr) { wanted = given; }
  if (!wanted.empty() && std::filesystem::is_directory(wanted)) { return wanted; }
  const std::string missing = "KVCOMPRESS_CONFORMANCE_DIR (" + wanted + ") is no directory, so its official vectors were skipped";
#ifdef KVCOMPRESS_VECTORS_DIR
  if (std::filesystem::is_directory(KVCOMPRESS_VECTORS_DIR)) {
    Tally::get().note(missing + "; the counts are of " KVCOMPRESS_VECTORS_DIR);
    return KVCOMPRESS_VECTORS_DIR;
  }
#endif
  Tally::get().note(missing);
  return {};
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
  std::string broken{};  // why params.json cannot be read

  [[nodiscard]] std::string path() const { return method + "/" + folder.filename().string(); }

  /// The array of that name in the folder or else one level up.
  [[nodiscard]] bool has(const std::string& name) const { return !locate(name).empty(); }
  [[nodiscard]] npy::Array array(const std::string& name) const {
    const std::filesystem::path file = locate(name);
    if (file.empty()) { throw std::runtime_error(path() + " has no array " + name + ".npy"); }
    return npy::read(file);
  }

  /// The first of several names that exists; the case counts as not covered where none does.
  [[nodiscard]] npy::Array any(const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
      if (has(name)) { return array(name); }
    }
    throw NotCovered(path() + " has no array " + names.front() + ".npy");
  }

  /// An option; newer cases have them under "params".
  template <class T>
  [[nodiscard]] T get(const std::string& key) const {
    const nlohmann::json& options = params.contains("params") ? params.at("params") : params;
    if (!options.contains(key)) { throw std::runtime_error(path() + ": params.json has no entry " + key); }
    return options.at(key).get<T>();
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
    for (const char* const list : {"inputs", "outputs"}) {  // newer cases say where an array lies
      if (params.contains(list) && params.at(list).contains(name)) {
        const std::filesystem::path file = folder / params.at(list).at(name).at("file").get<std::string>();
        return std::filesystem::is_regular_file(file) ? file : std::filesystem::path{};
      }
    }
    for (const auto& place : {folder, folder.parent_path()}) {
      if (std::filesystem::is_regular_file(place / (name + ".npy"))) { return place / (name + ".npy"); }
    }
    return {};
  }
};

inline constexpr const char* no_parameters = "(no params.json)";

/// Every case of a method, in the order of their paths: its folders with a params.json; a folder without any counts as one case, too.
inline std::vector<Case> find_cases(const std::string& method) {
  namespace fs = std::filesystem;
  std::vector<Case> cases;
  const fs::path root = directory() / method;
  if (directory().empty() || !fs::is_directory(root)) { return cases; }
  const auto add_below = [&](const fs::path& folder) {
    const std::size_t before = cases.size();
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().filename() != "params.json") { continue; }
      Case& one = cases.emplace_back(Case{method, "unnamed", entry.path().parent_path(), nlohmann::json::object()});
      try {
        std::ifstream file(entry.path());
        one.params = nlohmann::json::parse(file);
        one.kind = one.params.value("kind", one.kind);
      } catch (const std::exception& error) { one.broken = entry.path().string() + ": " + error.what(); }
    }
    if (cases.size() == before) { cases.push_back({method, no_parameters, folder, nlohmann::json::object()}); }
  };
  for (const auto& entry : fs::directory_iterator(root)) {
    if (entry.is_directory()) { add_below(entry.path()); }
  }
  if (cases.empty()) { add_below(root); }
  std::sort(cases.begin(), cases.end(), [](const Case& a, const Case& b) { return a.folder < b.folder; });
  return cases;
}

/// Failures of the running test up to now.
inline std::size_t failures() {
  const ::testing::TestResult& result = *::testing::UnitTest::GetInstance()->current_test_info()->result();
  std::size_t count = 0;
  for (int i = 0; i < result.total_part_count(); ++i) { count += result.GetTestPartResult(i).failed() ? 1U : 0U; }
  return count;
}

using Handlers = std::map<std::string, std::function<void(const Case&)>>;  // by kind

/// The body of a test: runs every case of a method whose kind has a handler, and counts all of them. What cannot be read is wrong.
inline void run_cases(const std::string& method, const Handlers& handlers) {
  if (directory().empty()) { GTEST_SKIP() << "KVCOMPRESS_CONFORMANCE_DIR names no directory, so no official vectors were run"; }
  const std::vector<Case> cases = find_cases(method);
  if (cases.empty()) { GTEST_SKIP() << "there are no official vectors of " << method; }
  for (const Case& one : cases) {
    SCOPED_TRACE(one.path());
    const std::size_t before = failures();
    const auto handler = handlers.find(one.kind);
    Verdict verdict = Verdict::right;
    try {
      if (!one.broken.empty()) { throw std::runtime_error(one.broken); }
      if (handler == handlers.end()) { throw NotCovered(one.path() + " is of kind " + one.kind + ", not covered"); }
      handler->second(one);
    } catch (const NotCovered& why) {
      std::cout << "conformance: " << why.what() << "\n";
      verdict = Verdict::not_covered;
    } catch (const std::exception& error) {  // a broken file must not hide the cases after it
      ADD_FAILURE() << error.what();
    }
    Tally::get().count(method, failures() > before ? Verdict::wrong : verdict);
  }
}

/// A method and its handlers. Made before main, so that methods without handlers can be told from the others.
class Method {
 public:
  Method(std::string name, Handlers handlers) : name_(std::move(name)), handlers_(std::move(handlers)) { names().insert(name_); }
  void run() const { run_cases(name_, handlers_); }
  static std::set<std::string>& names() {
    static std::set<std::string> names;
    return names;
  }

 private:
  std::string name_;
  Handlers handlers_;
};

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
