// tests/support/npy.hpp - reads little-endian .npy files in C order, every size checked.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvcompress::npy {

/// Numbers of a file, as doubles: exact for every supported type (int64 only up to 2^53, which is checked).
struct Array {
  std::vector<std::size_t> shape;
  std::vector<double> values;

  template <class T>
  [[nodiscard]] std::vector<T> as() const {
    std::vector<T> out;
    out.reserve(values.size());
    for (const double value : values) { out.push_back(static_cast<T>(value)); }
    return out;
  }
};

namespace detail {

[[noreturn]] inline void fail(const std::filesystem::path& path, const std::string& what) {
  throw std::runtime_error(path.string() + ": " + what);
}

/// The text that follows `'key':` in a header, up to the end of the header.
inline std::string after(const std::filesystem::path& path, const std::string& header, const std::string& key) {
  const std::size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) { fail(path, "the header has no entry '" + key + "'"); }
  const std::size_t start = header.find_first_not_of(' ', at + key.size() + 3);
  return start == std::string::npos ? std::string() : header.substr(start);
}

inline std::vector<std::size_t> parse_shape(const std::filesystem::path& path, const std::string& text) {
  const std::size_t end = text.find(')');
  if (text.empty() || text[0] != '(' || end == std::string::npos) { fail(path, "the shape is not a tuple"); }
  std::vector<std::size_t> shape;
  std::istringstream numbers(text.substr(1, end - 1));
  for (std::string item; std::getline(numbers, item, ',');) {
    const std::size_t start = item.find_first_not_of(' ');
    if (start == std::string::npos) { continue; }
    const std::string digits = item.substr(start);
    if (digits.size() > 12 || digits.find_first_not_of("0123456789") != std::string::npos) {
      fail(path, "'" + digits + "' is not a size of at most 12 digits");
    }
    shape.push_back(static_cast<std::size_t>(std::stoull(digits)));
  }
  return shape;
}

template <class T>
std::vector<double> convert(const std::filesystem::path& path, const std::string& bytes, std::size_t offset,
                            const std::vector<std::size_t>& shape) {
  const std::size_t present = (bytes.size() - offset) / sizeof(T);
  std::size_t count = 1;
  for (const std::size_t size : shape) {
    if (size != 0 && count > std::numeric_limits<std::size_t>::max() / size) { fail(path, "the shape overflows"); }
    count *= size;
  }
  if (count != present || (bytes.size() - offset) % sizeof(T) != 0) {
    fail(path, "the shape asks for " + std::to_string(count) + " numbers, the file holds " + std::to_string(bytes.size() - offset) +
                   " bytes of data");
  }
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    T value{};
    std::memcpy(&value, bytes.data() + offset + i * sizeof(T), sizeof(T));
    values[i] = static_cast<double>(value);
    if (sizeof(T) == 8 && (values[i] > 9007199254740992.0 || values[i] < -9007199254740992.0)) {
      fail(path, "number " + std::to_string(i) + " does not fit a double exactly");
    }
  }
  return values;
}

}  // namespace detail

/// Reads float32, int32, int64 or uint8; throws std::runtime_error with a sentence that names the file.
inline Array read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) { detail::fail(path, "the file cannot be opened"); }
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (bytes.size() < 12 || bytes.compare(0, 6, "\x93NUMPY") != 0) { detail::fail(path, "not an .npy file"); }
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
  const std::size_t version = byte(6);
  if (version < 1 || version > 3) { detail::fail(path, "unknown format version " + std::to_string(version)); }
  const std::size_t start = version == 1 ? 10 : 12;
  std::size_t length = byte(8) + (byte(9) << 8U);
  if (version > 1) { length += (byte(10) << 16U) + (byte(11) << 24U); }
  if (length > bytes.size() - start) { detail::fail(path, "the header is longer than the file"); }
  const std::string header = bytes.substr(start, length);

  if (detail::after(path, header, "fortran_order").rfind("False", 0) != 0) { detail::fail(path, "only C order is supported"); }
  const std::string type = detail::after(path, header, "descr").substr(0, 5);
  const std::vector<std::size_t> shape = detail::parse_shape(path, detail::after(path, header, "shape"));
  const std::size_t data = start + length;
  if (type == "'<f4'") { return {shape, detail::convert<float>(path, bytes, data, shape)}; }
  if (type == "'<i4'") { return {shape, detail::convert<std::int32_t>(path, bytes, data, shape)}; }
  if (type == "'<i8'") { return {shape, detail::convert<std::int64_t>(path, bytes, data, shape)}; }
  if (type == "'|u1'") { return {shape, detail::convert<std::uint8_t>(path, bytes, data, shape)}; }
  detail::fail(path, "type " + type + " is not one of <f4, <i4, <i8, |u1");
}

}  // namespace kvcompress::npy
