// bench/runner/machine.hpp - what the machine says about itself.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <string>

namespace bench {

/// The rest of the first line of a file that starts with `key`, without the colon; empty if there is none.
inline std::string line_of(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) { return line.substr(std::min(line.size(), line.find_first_not_of(" \t:", key.size()))); }
  }
  return {};
}

inline std::string cpu_model() {
  const std::string name = line_of("/proc/cpuinfo", "model name");
  return name.empty() ? "unknown" : name;
}

inline std::size_t available_memory() {
  const std::string kib = line_of("/proc/meminfo", "MemAvailable");
  return kib.empty() ? std::size_t{8} << 30U : std::stoul(kib) * 1024;
}

/// Bytes of the largest cache of the first processor; 32 MiB if it does not say.
inline std::size_t last_level_cache() {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    const std::string size = line_of(("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size").c_str(), "");
    if (!size.empty()) {
      largest = std::max(largest, std::stoul(size) * (size.back() == 'M' ? std::size_t{1} << 20U : std::size_t{1} << 10U));
    }
  }
  return largest != 0 ? largest : std::size_t{32} << 20U;
}

/// What must be read before the same bytes are read again, so that they come from memory.
inline std::size_t cold_bytes() {
  static const std::size_t bytes = std::min(4 * last_level_cache(), available_memory() / 16);
  return bytes;
}

}  // namespace bench
