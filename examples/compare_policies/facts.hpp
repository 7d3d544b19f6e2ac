// examples/compare_policies/facts.hpp - what a report states about the machine and the run.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "compare_policies/results.hpp"
#include "kvcompress/core/version.hpp"

namespace comparison {

/// The list under "## Known limits" of MODEL.md beside the model, if there is one.
inline std::vector<std::string> known_limits(std::istream& card) {
  std::vector<std::string> limits;
  bool inside = false;
  for (std::string line; std::getline(card, line);) {
    if (line.starts_with("#")) {
      inside = line == "## Known limits";
    } else if (inside && line.starts_with("- ")) {
      limits.push_back(line.substr(2));
    } else if (inside && line.starts_with("  ") && !limits.empty()) {
      limits.back() += line.substr(1);
    }
  }
  return limits;
}

inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) { return line.substr(line.find(": ") + 2); }
  }
  return "unknown CPU";
}

inline std::string compiler_name() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown compiler";
#endif
}

inline std::vector<Fact> machine_facts(const std::string& simd) {
  return {
      {"CPU", fmt::format("{}, {} hardware threads", cpu_name(), std::thread::hardware_concurrency())},
      {"Program", fmt::format("kvcompress {}.{}.{}, {} kernels, {}", kvcompress::version_major, kvcompress::version_minor,
                              kvcompress::version_patch, simd, compiler_name())},
  };
}

inline std::string date_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32] = "";
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

/// The arguments of a program without the folders of this machine: "/home/me/model.gguf" -> "model.gguf".
inline std::vector<std::string> without_folders(std::span<const char* const> arguments) {
  std::vector<std::string> shown;
  for (const char* const argument : arguments) {
    const std::string text(argument);
    const std::size_t value = text.starts_with("--") && text.find("=/") != std::string::npos ? text.find("=/") + 1 : 0;
    const bool path = shown.empty() || text.substr(value).starts_with('/');
    shown.push_back(path ? text.substr(0, value) + std::filesystem::path(text.substr(value)).filename().string() : text);
  }
  return shown;
}

/// A command line that a shell reads back as the same arguments.
inline std::string shell_command(std::span<const char* const> arguments) {
  std::string command;
  for (const std::string_view argument : arguments) {
    const bool plain = !argument.empty() && argument.find_first_not_of(
                                                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                "0123456789_-+=:,./@%") == std::string_view::npos;
    command += command.empty() ? "" : " ";
    if (plain) {
      command += argument;
      continue;
    }
    command += '\'';
    for (const char c : argument) { command += c == '\'' ? std::string("'\\''") : std::string(1, c); }
    command += '\'';
  }
  return command;
}

}  // namespace comparison
