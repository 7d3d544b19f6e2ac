// tests/support/tally.hpp - counts the official cases of each method; the counts are the last lines that a test program prints.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <iostream>
#include <map>
#include <string>

namespace kvcompress::conformance {

enum class Verdict { right, wrong, not_covered };

/// Its destructor prints, so that the lines stand behind GoogleTest's own, whatever filter chose the tests.
class Tally {
 public:
  static Tally& get() {
    static Tally tally;
    return tally;
  }
  Tally(const Tally&) = delete;
  Tally& operator=(const Tally&) = delete;

  void count(const std::string& method, Verdict verdict) {
    Counts& counts = counts_[method];
    ++(verdict == Verdict::right ? counts.right : verdict == Verdict::wrong ? counts.wrong : counts.not_covered);
  }
  /// Members of a set that lie within the tolerance of the cut and so on either side of it.
  void near_ties(std::size_t members) { near_ties_ += members; }
  /// Something that the reader of the counts must know, e.g. that a folder is missing.
  void note(const std::string& sentence) { note_ = sentence; }

 private:
  struct Counts {
    std::size_t right = 0;
    std::size_t wrong = 0;
    std::size_t not_covered = 0;
  };

  Tally() = default;
  ~Tally() {
    if (!note_.empty()) { std::cout << "conformance: " << note_ << "\n"; }
    if (!counts_.empty()) { std::cout << "conformance: " << near_ties_ << " near ties in the sets compared\n"; }
    for (const auto& [method, counts] : counts_) {
      std::cout << method << ": " << counts.right + counts.wrong + counts.not_covered << " cases, " << counts.right << " right, "
                << counts.wrong << " wrong, " << counts.not_covered << " not covered\n";
    }
    std::cout.flush();
  }

  std::map<std::string, Counts> counts_;
  std::size_t near_ties_ = 0;
  std::string note_;
};

}  // namespace kvcompress::conformance
