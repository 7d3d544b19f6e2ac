// examples/tensors/safetensors.hpp - the .safetensors format: a length, a JSON object of types, shapes and offsets, then the numbers.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "llama/mapped_file.hpp"
#include "tensors/array.hpp"

namespace tensors {

inline Element safetensors_element(const std::string& where, const std::string& type) {
  if (type == "F32") { return Element::f32; }
  if (type == "F16") { return Element::f16; }
  if (type == "BF16") { return Element::bf16; }
  fail("{}: has dtype {}, must be F32, F16 or BF16.", where, in_quotes(type));
}

/// A JSON array of whole numbers from 0.
inline Sizes whole_numbers(const std::string& where, const char* what, const nlohmann::json& json) {
  if (!json.is_array()) { fail("{}: its {} is {}, must be a list of sizes.", where, what, in_quotes(json.dump())); }
  Sizes sizes;
  for (const nlohmann::json& size : json) {
    if (!size.is_number_unsigned()) { fail("{}: its {} is {}, must be whole numbers from 0.", where, what, in_quotes(json.dump())); }
    sizes.push_back(size.get<std::size_t>());
  }
  return sizes;
}

/// Fills in what the header says of an array whose numbers lie in `data`.
inline void describe(Array& array, const nlohmann::json& entry, std::shared_ptr<const void> owner, std::span<const std::byte> data) {
  const std::string where = array.where();
  for (const char* field : {"dtype", "shape", "data_offsets"}) {
    if (!entry.is_object() || !entry.contains(field)) { fail("{}: its header has no {}.", where, field); }
  }
  if (!entry["dtype"].is_string()) { fail("{}: its dtype is {}, must be a name.", where, in_quotes(entry["dtype"].dump())); }
  array.element = safetensors_element(where, entry["dtype"].get<std::string>());
  array.shape = whole_numbers(where, "shape", entry["shape"]);
  const Sizes offsets = whole_numbers(where, "data_offsets", entry["data_offsets"]);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    fail("{}: its data_offsets are {}, must be a begin and an end.", where, text(offsets));
  }
  if (offsets[1] > data.size()) {
    fail("{}: is truncated: ends at byte {} of the data, and the file has {}.", where, offsets[1], data.size());
  }
  const std::size_t needed = bytes_needed(where, array.shape, array.element);
  if (offsets[1] - offsets[0] != needed) {
    fail("{}: has shape {}, which needs {} bytes, but its data_offsets {} span {}.", where, text(array.shape), needed, text(offsets),
         offsets[1] - offsets[0]);
  }
  array.read = [owner = std::move(owner), bytes = data.subspan(offsets[0], needed)] { return Bytes{owner, bytes}; };
}

/// The arrays of a file. Those that `wanted(name)` does not want may be of any type.
inline std::vector<Array> read_safetensors(const std::filesystem::path& path, auto&& wanted) {
  const auto file = std::make_shared<llama::MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) { fail("{}: is truncated: has {} bytes, less than a header's length.", path.string(), bytes.size()); }
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - sizeof length) {
    fail("{}: is truncated or not in the safetensors format: its header says that it has {} bytes, and {} follow.", path.string(), length,
         bytes.size() - sizeof length);
  }
  const auto* begin = reinterpret_cast<const char*>(bytes.data()) + sizeof length;
  const nlohmann::json header = nlohmann::json::parse(begin, begin + length, nullptr, false);
  if (!header.is_object()) { fail("{}: its header is no JSON object.", path.string()); }
  const std::span<const std::byte> data = bytes.subspan(sizeof length + static_cast<std::size_t>(length));
  std::vector<Array> arrays;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__" || !wanted(name)) { continue; }
    Array array{path.string(), name, Element::f32, {}, {}};
    describe(array, entry, file, data);
    arrays.push_back(std::move(array));
  }
  return arrays;
}

}  // namespace tensors
