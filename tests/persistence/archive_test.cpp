// tests/persistence/archive_test.cpp - the two archives: what one writes the other reads, and nothing beyond it.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <sstream>

#include "kvcompress/persistence/streams.hpp"
#include "support/counting_memory.hpp"
#include "support/saved.hpp"

namespace archive_test {

using namespace kvcompress;
using namespace kvcompress::test;
using archive::Kind;

File written(auto&& work) {
  File file;
  Writer writer(sink(file), detail::xxh3, {});
  writer.section(Kind::layer, 7, [&] { work(writer); });
  return file;
}
void read(std::span<const std::byte> file, auto&& work) {
  Reader reader(source(file), detail::xxh3, {});
  reader.section(Kind::layer, 7, [&] { work(reader); });
}
/// Reading must end in this sentence.
void expect_error(const std::string& sentence, auto&& action, ErrorCode code = ErrorCode::format) {
  try {
    action();
    ADD_FAILURE() << "no error, expected: " << sentence;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(error.what(), "kvcompress: " + sentence);
  }
}

TEST(Archive, ReadsWhatWasWritten) {
  const Vector<half> halves{half(1.0F), half(-2.0F)};
  const auto all = [&](auto& to, auto&& flag, auto&& size, auto&& real, auto&& vector) {
    to.number(flag);
    to.number(size);
    to.number(real);
    to.vector(vector);
    to.bytes(&real, sizeof real);
  };
  const File file = written([&](Writer& writer) { all(writer, true, std::size_t{1} << 40U, 0.1, halves); });
  bool flag = false;
  std::size_t size = 0;
  double real = 0.0;
  Vector<half> vector;
  read(file, [&](Reader& reader) { all(reader, flag, size, real, vector); });
  EXPECT_TRUE(flag && size == std::size_t{1} << 40U && real == 0.1 && vector == halves);
}

TEST(Archive, NeverReadsBeyondItsSection) {
  const File file = written([](Writer& writer) { writer.number(std::size_t{1000}); });
  Vector<float> vector;
  std::size_t count = 0;
  std::byte bytes[9];
  expect_error("load: section layer 7: a count is larger than the section", [&] { read(file, [&](Reader& r) { r.vector(vector); }); });
  expect_error("load: section layer 7: a count is larger than the section", [&] { read(file, [&](Reader& r) { r.count(count, 1); }); });
  expect_error("load: section layer 7: a count is larger than the section", [&] { read(file, [&](Reader& r) { r.bytes(bytes, 9); }); });
  expect_error("load: section layer 7: it is longer than its content", [&] { read(file, [](Reader&) {}); });
  expect_error("load: section layer 7: a flag is neither 0 nor 1", [&] {
    read(written([](Writer& writer) { writer.number(std::uint8_t{2}); }), [&](Reader& reader) {
      bool flag = false;
      reader.number(flag);
    });
  });
}

TEST(Archive, NamesWhatDiffers) {
  const File file = written([](Writer& writer) {
    writer.same("size", std::size_t{5});
    writer.same("share", 0.25);
    writer.same("flag", true);
    writer.same("name", "kivi");
  });
  const auto expect = [&](const std::string& sentence, std::size_t size, double share, bool flag, const char* name) {
    expect_error("load: " + sentence, [&] {
      read(file, [&](Reader& reader) {
        reader.same("size", size);
        reader.same("share", share);
        reader.same("flag", flag);
        reader.same("name", name);
      });
    });
  };
  expect("size is 5 in the file, 6 here", 6, 0.25, true, "kivi");
  expect("share is 0.25 in the file, 0.5 here", 5, 0.5, true, "kivi");
  expect("flag is true in the file, false here", 5, 0.25, false, "kivi");
  expect("name is kivi in the file, gear here", 5, 0.25, true, "gear");
  expect_error("load: size is in the file where bits is here", [&] { read(file, [](Reader& reader) { reader.same("bits", 5); }); });
  expect_error("load: size is of another type in the file", [&] { read(file, [](Reader& reader) { reader.same("size", 5.0); }); });
}

TEST(Archive, TakesNoMemoryForBytesThatAreNotThere) {
  File file = written([](Writer& writer) { writer.number(1.0); });
  const std::uint64_t huge = std::uint64_t{1} << 60U;
  std::memcpy(file.data() + contents(file)[0].header + offsetof(archive::Section, bytes), &huge, sizeof huge);
  CountingMemory memory;
  std::span<const std::byte> from(file);
  Reader reader(source(from), detail::xxh3, memory.handle());
  expect_error("load: section layer 7: the file ends in it", [&] { reader.section(Kind::layer, 7, [] {}); });
  EXPECT_LE(memory.peak, std::size_t{32} << 20U);
}

TEST(Archive, LongSectionsComeInPieces) {
  Vector<std::uint32_t> numbers(20'000'000);
  for (std::size_t i = 0; i < numbers.size(); ++i) { numbers[i] = static_cast<std::uint32_t>(i * 2654435761U); }
  const File file = written([&](Writer& writer) { writer.vector(numbers); });
  Vector<std::uint32_t> again;
  read(file, [&](Reader& reader) { reader.vector(again); });
  EXPECT_TRUE(again == numbers);
}

TEST(Archive, SharedThingsComeOnce) {
  const int things[2] = {3, 4};
  const File file = written([&](Writer& writer) {
    for (const int which : {0, 1, 0}) {
      if (writer.first(&things[which], sizeof(int))) { writer.number(things[which]); }
    }
  });
  int held[2] = {};
  read(file, [&](Reader& reader) {
    for (int& thing : held) {
      EXPECT_EQ(reader.known<int>(sizeof(int)), nullptr);
      reader.number(thing);
      reader.remember(&thing, sizeof(int));
    }
    EXPECT_EQ(reader.known<int>(sizeof(int)), &held[0]);
  });
  EXPECT_EQ(held[1], 4);
  expect_error("load: section layer 7: it refers to something of another type or size", [&] {
    read(file, [&](Reader& reader) {
      for (int& thing : held) {
        static_cast<void>(reader.known<int>(sizeof(int)));
        reader.number(thing);
        reader.remember(&thing, sizeof(int));
      }
      static_cast<void>(reader.known<float>(sizeof(int)));
    });
  });
}

TEST(Archive, StreamsAreSinksAndSources) {
  std::stringstream stream;
  Writer writer(sink(stream), detail::xxh3, {});
  writer.section(Kind::layer, 0, [&] { writer.number(42); });
  stream << "more";
  Reader reader(source(stream), detail::xxh3, {});
  int number = 0;
  reader.section(Kind::layer, 0, [&] { reader.number(number); });
  EXPECT_EQ(number, 42);
  std::string rest;
  stream >> rest;
  EXPECT_EQ(rest, "more");
  stream.setstate(std::ios::badbit);
  expect_error(
      "save: the sink did not take 8 bytes", [&] { Writer(sink(stream), detail::xxh3, {}); }, ErrorCode::io);
  expect_error(
      "load: the source did not give 8 bytes", [&] { Reader(source(stream), detail::xxh3, {}); }, ErrorCode::io);
}

}  // namespace archive_test
