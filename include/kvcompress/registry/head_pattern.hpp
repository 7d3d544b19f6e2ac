// include/kvcompress/registry/head_pattern.hpp - KV heads that a file of gates names: "heads duo.tsv", "heads duo.tsv<50%".
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "kvcompress/core/shape.hpp"
#include "kvcompress/policies/duoattention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Whether what stands behind "heads" is a file, and no layer and KV head: it has a letter.
inline bool names_file(std::string_view item) noexcept {
  for (const char c : item) {
    if (std::isalpha(static_cast<unsigned char>(c)) != 0) { return true; }
  }
  return false;
}

/// A file of gates as DuoAttention's training writes them (full_attention_heads.tsv): a line per layer, in it a number per KV head, with tabs, spaces
/// or commas between; and which of the lanes are meant. "FILE" and "FILE<0.5": those whose gate is below; "FILE>=0.5": the others;
/// "FILE<50%": those that DuoAttention makes streaming heads at that sparsity, half of all with the smallest gates; "FILE>=50%": the others.
class HeadPattern {
 public:
  HeadPattern(std::string_view policy, std::string_view item, const Shape& shape) : policy_(policy) {
    const std::size_t sign = item.find_first_of("<>");
    path_ = std::string(item.substr(0, sign));
    while (!path_.empty() && path_.back() == ' ') { path_.pop_back(); }
    if (sign != std::string_view::npos) { read_bound(item, item.substr(sign)); }
    read_gates(shape);
    check_share(item);
    if (share_) { full_ = DuoAttention::full_lanes(gates_, bound_); }
  }
  /// Whether the lane with this number is meant.
  [[nodiscard]] bool names(std::size_t lane) const {
    const bool below = share_ ? !full_[lane] : static_cast<double>(gates_[lane]) < bound_;
    return below != others_;
  }

 private:
  void read_bound(std::string_view item, std::string_view bound) {
    others_ = bound.starts_with(">=");
    std::string_view number = bound.substr(others_ ? 2 : 1);
    share_ = number.ends_with('%');
    if (share_) { number.remove_suffix(1); }
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), bound_);
    require((others_ || bound.starts_with('<')) && error == std::errc{} && end == number.data() + number.size() && bound_ - bound_ == 0.0,
            ErrorCode::option, "policy \"", policy_, "\": \"", item, "\" ends with \"", bound,
            "\", must end with a bound like <0.5 or >=0.5, or a share of the lanes like <50% or >=50%");
    if (share_) { bound_ /= 100.0; }
  }
  void check_share(std::string_view item) const {
    require(!share_ || (bound_ >= 0.0 && bound_ <= 1.0), ErrorCode::option, "policy \"", policy_, "\": \"", item, "\" has the share ",
            100.0 * bound_, "%, must be 0% to 100%");
  }
  void read_gates(const Shape& shape) {
    const std::string text = contents();
    std::size_t layer = 0;
    std::size_t line_number = 0;
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      ++line_number;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) { continue; }
      require(layer < shape.layers, ErrorCode::option, file(), "line ", line_number, " is one more layer, must be the last of ",
              shape.layers);
      read_line(line, line_number, layer, shape.of(layer).kv_heads);
      ++layer;
    }
    require(layer == shape.layers, ErrorCode::option, file(), "there are ", layer, " lines, must be one for each of ", shape.layers,
            " layers");
  }
  void read_line(std::string_view line, std::size_t line_number, std::size_t layer, std::size_t heads) {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = line.find_first_not_of(" \t\r,", at)) != std::string_view::npos;) {
      const std::string_view word = line.substr(at, line.find_first_of(" \t\r,", at) - at);
      double gate = 0.0;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), gate);
      require(error == std::errc{} && end == word.data() + word.size() && gate >= -1e30 && gate <= 1e30, ErrorCode::option, file(), "line ",
              line_number, " has \"", word, "\", must be a number of -1e30 to 1e30");
      gates_.push_back(static_cast<float>(gate));
      at += word.size();
      ++count;
    }
    require(count == heads, ErrorCode::option, file(), "line ", line_number, " has ", count, " numbers, must have one for each of the ",
            heads, " KV heads of layer ", layer);
  }
  /// Of at most 16 MiB, which is far more than any model needs.
  [[nodiscard]] std::string contents() const {
    struct Closed {
      std::FILE* file;
      ~Closed() {
        if (file != nullptr) { std::fclose(file); }
      }
    } const from{std::fopen(path_.c_str(), "rb")};
    require(from.file != nullptr, ErrorCode::option, file(), "cannot be opened (", std::strerror(errno), "), must be a file of gates");
    constexpr std::size_t most = std::size_t{16} << 20U;
    std::string text;
    char piece[4096];
    for (std::size_t got = 1; got > 0 && text.size() <= most;) {
      got = std::fread(piece, 1, sizeof piece, from.file);
      text.append(piece, got);
    }
    require(std::ferror(from.file) == 0, ErrorCode::option, file(), "cannot be read (", std::strerror(errno), "), must be a file of gates");
    require(text.size() <= most, ErrorCode::option, file(), "it has more than ", most, " bytes, must have at most as many");
    return text;
  }
  /// How errors begin.
  [[nodiscard]] std::string file() const { return "policy \"" + std::string(policy_) + "\": " + path_ + ": "; }

  std::string_view policy_;
  std::string path_;
  std::vector<float> gates_;  // (layers, KV heads)
  bool share_ = false;        // the bound is one of lanes, not of gates
  bool others_ = false;       // those that are not below it are meant
  double bound_ = 0.5;
  std::vector<bool> full_;
};

}  // namespace kvcompress::inline KVCOMPRESS_ABI::detail
