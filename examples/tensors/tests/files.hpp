// examples/tensors/tests/files.hpp - files of other programs, written byte by byte, and the sentence that refuses them.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensors/dump.hpp"

namespace tensors::testing {

/// A folder that goes away with the object.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("kvcompress-tensors-" + std::to_string(std::random_device{}()));
  Folder() { std::filesystem::create_directory(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path put(const std::string& name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

/// The number's bytes, the lowest first.
inline std::string bytes_of_number(std::uint64_t number, std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) { bytes.push_back(static_cast<char>(number >> (8 * i) & 0xFFU)); }
  return bytes;
}

inline std::string floats(const std::vector<float>& numbers) {
  std::string bytes;
  for (const float number : numbers) { bytes += bytes_of_number(std::bit_cast<std::uint32_t>(number), 4); }
  return bytes;
}
/// 0, 1, 2, ... `count` - 1 as f32.
inline std::string counted_floats(std::size_t count) {
  std::vector<float> numbers(count);
  for (std::size_t i = 0; i < count; ++i) { numbers[i] = static_cast<float>(i); }
  return floats(numbers);
}

/// An .npy with this dictionary. The header is not padded: the numbers begin wherever it ends.
inline std::string npy(const std::string& dictionary, const std::string& data, char version = 1) {
  return std::string("\x93NUMPY") + version + '\0' + bytes_of_number(dictionary.size(), version == 1 ? 2 : 4) + dictionary + data;
}
inline std::string npy_of(const std::string& type, const std::string& shape, const std::string& data) {
  return npy("{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n", data);
}
inline std::string npy_f32(const Sizes& shape) {
  std::size_t count = 1;
  for (const std::size_t size : shape) { count *= size; }
  return npy_of("<f4", text(shape), counted_floats(count));
}

struct Tensor {
  std::string name;
  std::string type;
  std::string shape;  // as JSON
  std::string data;
};
inline std::string safetensors(const std::vector<Tensor>& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::string data;
  for (const Tensor& t : tensors) {
    const std::size_t end = data.size() + t.data.size();
    header += ",\"" + t.name + R"(":{"dtype":")" + t.type + R"(","shape":)" + t.shape + ",\"data_offsets\":[" +
              std::to_string(data.size()) + "," + std::to_string(end) + "]}";
    data += t.data;
  }
  header += "}";
  return bytes_of_number(header.size(), 8) + header + data;
}

inline std::uint32_t crc32(std::string_view bytes) {
  std::uint32_t crc = 0xFFFF'FFFFU;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) { crc = crc >> 1U ^ ((crc & 1U) != 0 ? 0xEDB8'8320U : 0U); }
  }
  return ~crc;
}

struct Member {
  std::string name;
  std::string unpacked;
  bool deflated = false;        // as deflate's blocks of bytes that are left as they are
  std::uint16_t method = 0;     // another one than the two above
  std::uint32_t wrong_crc = 0;  // added to the right one
  std::int64_t says = -1;       // instead of the size unpacked
};
/// A ZIP archive as NumPy writes it: sizes as 64-bit numbers in an extra field of each local header.
inline std::string zip(const std::vector<Member>& members) {
  std::string archive;
  std::string directory;
  for (const Member& m : members) {
    std::string packed = m.unpacked;
    if (m.deflated) {
      packed.clear();
      constexpr std::size_t most = 65535;
      for (std::size_t at = 0; at < m.unpacked.size(); at += most) {
        const std::string block = m.unpacked.substr(at, most);
        packed += static_cast<char>(at + most >= m.unpacked.size() ? 1 : 0) + bytes_of_number(block.size(), 2) +
                  bytes_of_number(~block.size(), 2) + block;
      }
    }
    const std::uint64_t size = m.says < 0 ? m.unpacked.size() : static_cast<std::uint64_t>(m.says);
    const std::string method = bytes_of_number(m.deflated ? 8 : m.method, 2);
    const std::string common = bytes_of_number(45, 2) + bytes_of_number(0, 2) + method + bytes_of_number(0, 4) +
                               bytes_of_number(crc32(m.unpacked) + m.wrong_crc, 4);
    directory += "PK\x01\x02" + bytes_of_number(45, 2) + common + bytes_of_number(packed.size(), 4) + bytes_of_number(size, 4) +
                 bytes_of_number(m.name.size(), 2) + bytes_of_number(0, 12) + bytes_of_number(archive.size(), 4) + m.name;
    archive += "PK\x03\x04" + common + std::string(8, '\xFF') + bytes_of_number(m.name.size(), 2) + bytes_of_number(20, 2) + m.name +
               bytes_of_number(1, 2) + bytes_of_number(16, 2) + bytes_of_number(size, 8) + bytes_of_number(packed.size(), 8) + packed;
  }
  return archive + directory + "PK\x05\x06" + bytes_of_number(0, 4) + bytes_of_number(members.size(), 2) +
         bytes_of_number(members.size(), 2) + bytes_of_number(directory.size(), 4) + bytes_of_number(archive.size(), 4) +
         bytes_of_number(0, 2);
}

/// What `read()` refuses with, without the folder's name; empty if it does not.
inline std::string refusal(const Folder& folder, auto&& read) {
  try {
    read();
  } catch (const std::exception& error) {
    std::string sentence = error.what();
    const std::string prefix = folder.path.string() + "/";
    for (std::size_t at = 0; (at = sentence.find(prefix)) != std::string::npos;) { sentence.erase(at, prefix.size()); }
    return sentence;
  }
  return {};
}

inline std::string refusal(const Folder& folder) {
  return refusal(folder, [&] { read_dump(folder.path, "--layout", {}); });
}

}  // namespace tensors::testing
