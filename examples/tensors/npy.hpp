// examples/tensors/npy.hpp - NumPy's .npy format: a dictionary in Python's notation, then the numbers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "llama/mapped_file.hpp"
#include "tensors/array.hpp"

namespace tensors {

/// What stands before the numbers.
struct NpyHeader {
  Element element = Element::f32;
  Sizes shape;
  std::size_t data = 0;   // where the numbers begin
  std::size_t bytes = 0;  // of the numbers
};

/// The largest header that is read: NumPy writes about 128 bytes and refuses more than 10000.
inline constexpr std::size_t most_npy_header = 12 + 65535;

/// Reads {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }.
class NpyDictionary {
 public:
  NpyDictionary(const std::string& where, std::string_view text) : where_(where), text_(text) {
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr") {
        once(type_, peek() == '\'' || peek() == '"' ? std::string(quoted()) : refuse_record());
      } else if (key == "fortran_order") {
        once(fortran_, boolean());
      } else if (key == "shape") {
        once(shape_, tuple());
      } else {
        fail("{}: its header has the unknown entry {}.", where_, in_quotes(key));
      }
      if (!accept(',') && peek() != '}') { bad(); }
    }
    if (!type_ || !fortran_ || !shape_) { fail("{}: its header lacks descr, fortran_order or shape: {}.", where_, in_quotes(text)); }
  }
  [[nodiscard]] const std::string& type() const { return *type_; }
  [[nodiscard]] bool fortran() const { return *fortran_; }
  [[nodiscard]] const Sizes& shape() const { return *shape_; }

 private:
  [[noreturn]] void bad() const { fail("{}: its header is no NumPy dictionary: {}.", where_, in_quotes(text_.substr(at_))); }
  [[noreturn]] std::string refuse_record() const {
    fail("{}: has a record for dtype, must have <f4 or <f2: {}.", where_, in_quotes(text_.substr(at_)));
  }
  template <class T>
  void once(std::optional<T>& entry, T value) const {
    if (entry) { fail("{}: its header has an entry twice.", where_); }
    entry = std::move(value);
  }
  char peek() {
    at_ = std::min(text_.find_first_not_of(" \n\t", at_), text_.size());
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c) { return false; }
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) { bad(); }
  }
  std::string_view quoted() {
    const char quote = peek();
    const std::size_t end = quote == '\'' || quote == '"' ? text_.find(quote, at_ + 1) : std::string_view::npos;
    if (end == std::string_view::npos) { bad(); }
    const std::string_view inside = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return inside;
  }
  bool boolean() {
    peek();
    for (const auto& [word, value] : {std::pair{std::string_view("True"), true}, std::pair{std::string_view("False"), false}}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    }
    bad();
  }
  Sizes tuple() {
    Sizes sizes;
    expect('(');
    while (!accept(')')) {
      peek();
      std::size_t size = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error == std::errc::result_out_of_range) { fail("{}: its shape overflows 64 bits: {}.", where_, in_quotes(text_.substr(at_))); }
      if (error != std::errc{}) { bad(); }
      at_ = static_cast<std::size_t>(end - text_.data());
      accept('L');  // Python 2 wrote 512L
      sizes.push_back(size);
      if (!accept(',') && peek() != ')') { bad(); }
    }
    return sizes;
  }

  const std::string& where_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::optional<std::string> type_;
  std::optional<bool> fortran_;
  std::optional<Sizes> shape_;
};

inline Element npy_element(const std::string& where, const std::string& type) {
  if (type == "<f4" || type == "=f4") { return Element::f32; }
  if (type == "<f2" || type == "=f2") { return Element::f16; }
  if (type.starts_with('>')) { fail("{}: is big endian (dtype {}), must be little endian.", where, in_quotes(type)); }
  fail("{}: has dtype {}, must be <f4 or <f2 (bfloat16: as safetensors).", where, in_quotes(type));
}

/// The header at the start of `bytes`, which are all, or the first most_npy_header, of `size` bytes.
inline NpyHeader npy_header(const std::string& where, std::span<const std::byte> bytes, std::uint64_t size) {
  const auto* raw = reinterpret_cast<const unsigned char*>(bytes.data());
  if (bytes.size() < 12 || std::memcmp(raw, "\x93NUMPY", 6) != 0) { fail("{}: is not in NumPy's .npy format.", where); }
  if (raw[6] < 1 || raw[6] > 3) { fail("{}: is of .npy version {}.{}, must be 1.0 to 3.0.", where, raw[6], raw[7]); }
  const std::size_t begin = raw[6] == 1 ? 10 : 12;
  std::size_t length = static_cast<std::size_t>(raw[8]) | static_cast<std::size_t>(raw[9]) << 8U;
  if (raw[6] > 1) { length |= static_cast<std::size_t>(raw[10]) << 16U | static_cast<std::size_t>(raw[11]) << 24U; }
  if (begin + length > std::min<std::uint64_t>(size, most_npy_header)) {
    fail("{}: its header says that it has {} bytes; there are {} bytes, and a header has at most 65535.", where, length, size);
  }
  const NpyDictionary dictionary(where, {reinterpret_cast<const char*>(raw) + begin, length});
  if (dictionary.fortran() && dictionary.shape().size() > 1) {
    fail("{}: is in Fortran order, must be in C order (numpy.ascontiguousarray).", where);
  }
  NpyHeader header{npy_element(where, dictionary.type()), dictionary.shape(), begin + length, 0};
  header.bytes = bytes_needed(where, header.shape, header.element);
  if (size - header.data != header.bytes) {
    fail("{}: is {}: shape {} needs {} bytes, and {} follow the header.", where,
         size - header.data < header.bytes ? "truncated" : "too long", text(header.shape), header.bytes, size - header.data);
  }
  return header;
}

inline Array read_npy(const std::filesystem::path& path) {
  const auto file = std::make_shared<llama::MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  const NpyHeader header = npy_header(path.string(), bytes, bytes.size());
  return {path.string(), "", header.element, header.shape, [=] { return Bytes{file, bytes.subspan(header.data, header.bytes)}; }};
}

}  // namespace tensors
