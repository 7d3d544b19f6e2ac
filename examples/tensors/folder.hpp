// examples/tensors/folder.hpp - the arrays that lie in a folder, or in one file, whose names say what they are for.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "tensors/array.hpp"
#include "tensors/names.hpp"
#include "tensors/npy.hpp"
#include "tensors/npz.hpp"
#include "tensors/safetensors.hpp"

namespace tensors {

struct Found {
  Array array;
  Place place;  // with a role
};

/// Whether an array is one of keys, values or queries: others are not looked at, whatever their type.
inline bool has_role(const std::filesystem::path& file, const std::string& name) {
  return place_of(file.string(), file.stem().string(), name).role.has_value();
}

inline std::vector<Array> read_file(const std::filesystem::path& path) {
  const std::string kind = path.extension().string();
  const auto wanted = [&](const std::string& name) { return has_role(path, name); };
  std::vector<Array> arrays;
  if (kind == ".npz") { return read_npz(path, wanted); }
  if (kind == ".safetensors") { return read_safetensors(path, wanted); }
  if (kind == ".npy" && wanted(path.stem().string())) { arrays.push_back(read_npy(path)); }
  return arrays;
}

/// The arrays with a role, in the order of the files' names.
inline std::vector<Found> find_arrays(const std::filesystem::path& path) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path, error)) {
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.is_regular_file()) { files.push_back(entry.path()); }
    }
    std::sort(files.begin(), files.end());
  } else if (std::filesystem::exists(path, error)) {
    files.push_back(path);
  } else {
    fail("{}: is neither a folder nor a file.", path.string());
  }
  std::vector<Found> found;
  for (const std::filesystem::path& file : files) {
    for (Array& array : read_file(file)) {
      const Place place = place_of(array.where(), file.stem().string(), array.name.empty() ? file.stem().string() : array.name);
      found.push_back({std::move(array), place});
    }
  }
  if (found.empty()) { fail("{}: has no array of keys, values or queries among its .npy, .npz and .safetensors files.", path.string()); }
  return found;
}

}  // namespace tensors
