// examples/compare_policies/report_file.hpp - an output file that appears complete or not at all, and harms nothing else.
// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "compare_policies/policy_list.hpp"

namespace comparison {

/// The file behind an option. Constructing it only looks, so that a bad path is known before the work and a run that is refused leaves
/// everything as it was. write() puts the text into a new file beside the target and renames it over a regular file, or where nothing
/// is. A link is followed to its target; a device or a pipe is written to as it stands.
class ReportFile {
 public:
  ReportFile(std::string option, std::filesystem::path path) : option_(std::move(option)), path_(std::move(path)) {
    if (const std::string refusal = target().refusal; !refusal.empty()) {
      throw BadArgument(option_ + " " + path_.string() + ": cannot be written: " + refusal);
    }
  }

  void write(std::string_view text) const {
    const Target to = target();
    if (!to.refusal.empty()) { fail(to.refusal); }
    if (!to.replaceable) {
      put(to.path, text);
      return;
    }
    const std::filesystem::path part = unused_name_beside(to.path);
    try {
      put(part, text);
      if (to.exists) { std::filesystem::permissions(part, std::filesystem::status(to.path).permissions()); }
      std::filesystem::rename(part, to.path);
    } catch (const std::exception& error) {
      std::error_code ignored;
      std::filesystem::remove(part, ignored);
      fail(error.what());
    }
  }

 private:
  struct Target {
    std::filesystem::path path;
    bool exists = false;
    bool replaceable = true;  // a regular file, or nothing yet
    std::string refusal;      // why it cannot be written; empty when nothing speaks against it
  };

  [[nodiscard]] Target target() const {
    namespace fs = std::filesystem;
    std::error_code error;
    Target to;
    to.path = path_;
    const fs::file_status status = fs::status(path_, error);  // of what a link points to
    to.exists = fs::exists(status);
    if (!to.exists && fs::is_symlink(fs::symlink_status(path_, error))) {
      to.refusal = "is a link to nothing";
    } else if (!to.exists && path_.filename().empty()) {
      to.refusal = "names no file";
    } else if (to.exists && (fs::is_directory(status) || fs::is_socket(status) || fs::is_block_file(status))) {
      to.refusal = fs::is_directory(status) ? "is a directory" : "is neither a file nor a pipe";
    } else if (to.exists && !fs::is_regular_file(status)) {
      to.replaceable = false;
      if (!may_write(path_)) { to.refusal = "permission denied"; }
    } else {
      error.clear();  // that nothing is there is no error
      if (to.exists) { to.path = fs::canonical(path_, error); }
      fs::path folder = to.path.parent_path();
      if (folder.empty()) { folder = "."; }
      if (error) {
        to.refusal = error.message();
      } else if (std::error_code ignored; !fs::is_directory(folder, ignored)) {
        to.refusal = folder.string() + " is no directory";
      } else if (!may_write(folder) || (to.exists && !may_write(to.path))) {
        to.refusal = "permission denied";
      }
    }
    return to;
  }

  static bool may_write(const std::filesystem::path& path) {
#if defined(__unix__) || defined(__APPLE__)
    return ::access(path.c_str(), W_OK) == 0;
#else
    static_cast<void>(path);
    return true;  // write() will say
#endif
  }

  static std::filesystem::path unused_name_beside(const std::filesystem::path& path) {
    std::random_device random;
    while (true) {
      std::filesystem::path name = path;
      name += "." + std::to_string(random()) + ".part";
      if (!std::filesystem::exists(std::filesystem::symlink_status(name))) { return name; }
    }
  }

  static void put(const std::filesystem::path& path, std::string_view text) {
    std::ofstream file(path, std::ios::binary);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    file.close();
    if (!file) { throw std::runtime_error("writing failed"); }
  }

  [[noreturn]] void fail(const std::string& why) const { throw std::runtime_error(option_ + " " + path_.string() + ": " + why); }

  std::string option_;
  std::filesystem::path path_;
};

}  // namespace comparison
