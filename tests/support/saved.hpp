// tests/support/saved.hpp - saved caches as bytes: saving, loading, the sections of a file, and errors of a load.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kvcompress/cache/persist.hpp"
#include "kvcompress/persistence/buffers.hpp"

namespace kvcompress::test {

using File = std::vector<std::byte>;

template <class Cache>
File saved(const Cache& cache) {
  File file;
  save(cache, sink(file));
  return file;
}
template <class Cache>
void load_from(Cache& cache, std::span<const std::byte> file) {
  load(cache, source(file));
  EXPECT_TRUE(file.empty()) << file.size() << " bytes were not read";
}

/// Loading must raise that error, with a sentence that begins so, and leave the cache as it is.
template <class Cache>
void expect_refused(Cache& cache, const File& file, const std::string& sentence, ErrorCode code = ErrorCode::format) {
  const File before = saved(cache);
  try {
    std::span<const std::byte> from(file);
    load(cache, source(from));
    ADD_FAILURE() << "loaded, expected: " << sentence;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(std::string(error.what()).find("kvcompress: " + sentence), 0U) << error.what() << "\nexpected: " << sentence;
  }
  EXPECT_TRUE(saved(cache) == before) << sentence;
}

/// Where the contents of a file's sections lie; of one in several chunks, the first and all that is behind it.
struct Content {
  std::size_t header;
  std::size_t first;
  std::size_t bytes;
};
inline std::vector<Content> contents(const File& file) {
  std::vector<Content> all;
  for (std::size_t at = sizeof archive::magic + sizeof archive::version; at < file.size();) {
    archive::Section section{};
    std::memcpy(&section, file.data() + at, sizeof section);
    const std::size_t more = section.bytes == 0 ? 0 : (section.bytes - 1) / archive::chunk_bytes;  // chunks, each behind its checksum
    all.push_back({at, at + sizeof section, section.bytes});
    at += sizeof section + section.bytes + more * sizeof section.checksum;
  }
  return all;
}
/// Makes the checksum of a section of one chunk right again.
inline void seal(File& file, const Content& content) {
  const std::uint64_t checksum = detail::xxh3(file.data() + content.first, content.bytes);
  std::memcpy(file.data() + content.header + offsetof(archive::Section, checksum), &checksum, sizeof checksum);
}

}  // namespace kvcompress::test
