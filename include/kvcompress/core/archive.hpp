// include/kvcompress/core/archive.hpp - saved caches as bytes: where they go and come from, and the two archives that write and read them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Takes the bytes of a saved cache: a function and a context, by value. write returns false if it cannot take them all.
struct ByteSink {
  bool (*write)(void* context, const void* from, std::size_t bytes) = nullptr;
  void* context = nullptr;
};

/// Gives the bytes of a saved cache. read returns how many it gave, fewer than asked for only at the end; or `failed`.
struct ByteSource {
  static constexpr std::size_t failed = static_cast<std::size_t>(-1);
  std::size_t (*read)(void* context, void* to, std::size_t bytes) = nullptr;
  void* context = nullptr;
};

/// A hash of some bytes; the same function must write and read a file.
using Checksum = std::uint64_t (*)(const void* from, std::size_t bytes) noexcept;

/// A file is 8 bytes of magic, 4 of version, and sections: a kind, a number, the bytes of the content, the checksum of its first chunk, that
/// chunk, and further chunks, each behind its checksum. All chunks have `chunk_bytes` bytes but the last of a section.
namespace archive {

inline constexpr char magic[8] = {'K', 'V', 'C', 'A', 'C', 'H', 'E', '\n'};
inline constexpr std::uint32_t version = 6;
inline constexpr std::size_t chunk_bytes = std::size_t{256} << 10U;
/// Numbers are written as they lie in memory, and a file is little-endian with 64-bit sizes.
inline constexpr bool supported = std::endian::native == std::endian::little && sizeof(std::size_t) == 8;

enum class Kind : std::uint32_t { fingerprint = 1, layer = 2, lane = 3, tokens = 4 };

struct Section {
  Kind kind;
  std::uint32_t number;    ///< of the layer, or of the lane over all layers
  std::uint64_t bytes;     ///< of the content, checksums not counted
  std::uint64_t checksum;  ///< of the first chunk
};

constexpr const char* name_of(Kind kind) noexcept {
  switch (kind) {
    case Kind::fingerprint:
      return "fingerprint";
    case Kind::layer:
      return "layer";
    case Kind::lane:
      return "lane";
    case Kind::tokens:
      break;
  }
  return "tokens";
}

/// Numbers that are written as they lie in memory.
template <class T>
concept Number = std::is_arithmetic_v<T> || std::is_enum_v<T>;

/// What lanes hold together: written once, later only referred to.
struct SharedThing {
  const void* address;
  const void* type;
  std::size_t bytes;
};
/// An address per type.
template <class T>
inline constexpr char type_of = 0;

}  // namespace archive

/// Writes what `persist` functions name. Both archives have the same verbs, so that one function describes both directions:
///
/// number(x), vector(v), bytes(p, n): contents.   count(n, each): a number of things of at least `each` bytes, which follow.
/// check(holds, sentence): what must hold for what is read, and so for what is written.
/// same(name, value): a part of the fingerprint, which must be equal in file and cache.   Archive::reads: which of the two it is.
///
/// A section's content is named twice, first to count its bytes. Memory: one chunk, and 24 bytes per thing that lanes hold together.
class Writer {
 public:
  static constexpr bool reads = false;

  Writer(const ByteSink& sink, Checksum checksum, const Memory& memory)
      : sink_(sink), checksum_(checksum), content_(Allocator<std::byte>(memory)), shared_(Allocator<archive::SharedThing>(memory)) {
    require(sink.write != nullptr, ErrorCode::input, "save: sink.write is null, must be a function");
    require(checksum != nullptr, ErrorCode::input, "save: checksum is null, must be a function");
    send(archive::magic, sizeof archive::magic);
    send(&archive::version, sizeof archive::version);
  }

  /// Writes one section, whose content `work()` names.
  void section(archive::Kind kind, std::size_t number, auto&& work) {
    const std::size_t shared_before = shared_.size();
    section_ = {kind, static_cast<std::uint32_t>(number), 0, 0};
    counting_ = true;
    work();
    counting_ = false;
    shared_.resize(shared_before);
    left_ = section_.bytes;
    size_ = 0;
    if (content_.size() < std::min<std::size_t>(left_, archive::chunk_bytes)) {
      content_.resize(std::min<std::size_t>(left_, archive::chunk_bytes));
    }
    if (left_ == 0) { send_chunk(); }
    work();
  }

  void number(archive::Number auto x) { bytes(&x, sizeof x); }
  void count(std::size_t n, std::size_t /*each*/) { number(n); }
  template <class T>
  void vector(const Vector<T>& v) {
    number(v.size());
    bytes(v.data(), v.size() * sizeof(T));
  }
  void bytes(const void* from, std::size_t count) {
    pieces(count, [from](std::size_t offset, std::byte* to, std::size_t size) {
      std::memcpy(to, static_cast<const std::byte*>(from) + offset, size);
    });
  }
  /// `count` bytes: fill(offset, to, size) writes those from `offset` on, piece by piece.
  void pieces(std::size_t count, auto&& fill) {
    if (counting_) {
      section_.bytes += count;
      return;
    }
    for (std::size_t done = 0; done < count;) {
      const std::size_t size = std::min({count - done, archive::chunk_bytes - size_, static_cast<std::size_t>(left_)});
      fill(done, content_.data() + size_, size);
      done += size;
      size_ += size;
      left_ -= size;
      if (size_ == archive::chunk_bytes || left_ == 0) { send_chunk(); }
    }
  }
  static void check(bool holds, std::string_view sentence) { require(holds, ErrorCode::phase, "save: ", sentence); }

  void same(std::string_view name, std::integral auto value) { entry(name, 'n', static_cast<std::uint64_t>(value)); }
  void same(std::string_view name, double value) { entry(name, 'd', std::bit_cast<std::uint64_t>(value)); }
  void same(std::string_view name, std::string_view text) {
    entry(name, 't', text.size());
    bytes(text.data(), text.size());
  }

  /// Whether something that lanes hold together comes for the first time: then its content must follow.
  template <class T>
  [[nodiscard]] bool first(const T* address, std::size_t bytes) {
    const auto known = std::find_if(shared_.begin(), shared_.end(), [&](const auto& thing) { return thing.address == address; });
    number(static_cast<std::uint32_t>(known - shared_.begin()));
    if (known != shared_.end()) { return false; }
    shared_.push_back({address, &archive::type_of<T>, bytes});
    return true;
  }
  /// What comes now shares nothing with what came before.
  void forget_shared() noexcept { shared_.clear(); }

 private:
  void entry(std::string_view name, char kind, std::uint64_t value) {
    number(static_cast<std::uint8_t>(name.size()));
    bytes(name.data(), name.size());
    number(kind);
    number(value);
  }
  void send_chunk() {
    section_.checksum = checksum_(content_.data(), size_);
    const bool first = left_ + size_ == section_.bytes;
    first ? send(&section_, sizeof section_) : send(&section_.checksum, sizeof section_.checksum);
    if (size_ > 0) { send(content_.data(), size_); }
    size_ = 0;
  }
  void send(const void* from, std::size_t count) {
    require(sink_.write(sink_.context, from, count), ErrorCode::io, "save: the sink did not take ", count, " bytes");
  }

  ByteSink sink_;
  Checksum checksum_;
  archive::Section section_{archive::Kind::fingerprint, 0, 0, 0};
  bool counting_ = false;
  std::uint64_t left_ = 0;     // bytes of the section that are still to come
  std::size_t size_ = 0;       // of the open chunk
  Vector<std::byte> content_;  // the open chunk
  Vector<archive::SharedThing> shared_;
};

/// Reads what a Writer wrote, chunk by chunk, each only after its checksum proved right. Never reads behind a section. The checksum finds damage,
/// not forgery: what `persist` functions check beyond it are sizes and places.
class Reader {
 public:
  static constexpr bool reads = true;

  Reader(const ByteSource& source, Checksum checksum, const Memory& memory)
      : source_(source), checksum_(checksum), memory_(memory), content_(Allocator<std::byte>(memory)),
        shared_(Allocator<archive::SharedThing>(memory)) {
    require(source.read != nullptr, ErrorCode::input, "load: source.read is null, must be a function");
    require(checksum != nullptr, ErrorCode::input, "load: checksum is null, must be a function");
    char magic[sizeof archive::magic];
    std::uint32_t version = 0;
    require(receive(magic, sizeof magic) && std::memcmp(magic, archive::magic, sizeof magic) == 0, ErrorCode::format,
            "load: this is no saved cache: it does not begin with KVCACHE");
    require(receive(&version, sizeof version), ErrorCode::format, "load: the file ends before its format version");
    require(version == archive::version, ErrorCode::format, "load: the format version is ", version, " in the file, ", archive::version,
            " here");
  }

  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }

  /// Reads one section, whose content `work()` names. It must be the next one in the file.
  void section(archive::Kind kind, std::size_t number, auto&& work) {
    section_ = {kind, static_cast<std::uint32_t>(number), 0, 0};
    archive::Section found{};
    check(receive(&found, sizeof found), "the file ends before it");
    check(found.kind == section_.kind && found.number == section_.number, "another section stands in its place");
    check(found.bytes <= PTRDIFF_MAX, "it is longer than any");
    left_ = found.bytes;
    fetch(found.checksum);
    work();
    check(at_ == size_ && left_ == 0, "it is longer than its content");
  }

  template <archive::Number T>
  void number(T& x) {
    if constexpr (std::is_same_v<T, bool>) {
      std::uint8_t byte = 0;
      bytes(&byte, 1);
      check(byte <= 1, "a flag is neither 0 nor 1");
      x = byte == 1;
    } else {
      bytes(&x, sizeof x);
    }
  }
  void count(std::size_t& n, std::size_t each) {
    number(n);
    expect(n, each);
  }
  /// Refuses a file whose section has fewer than n * each bytes left.
  void expect(std::size_t n, std::size_t each) const {
    check(each == 0 || n <= (size_ - at_ + left_) / each, "a count is larger than the section");
  }
  template <class T>
  void vector(Vector<T>& v) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::size_t size = 0;
    count(size, sizeof(T));
    while (v.size() < size) {  // memory grows with the numbers that come, whatever size the file claims
      const std::size_t before = v.size();
      const std::size_t more = std::min(size - before, std::max(before, (std::size_t{32} << 20U) / sizeof(T)));
      v.reserve(before + more);
      v.resize(before + more);
      bytes(v.data() + before, more * sizeof(T));
    }
  }
  void bytes(void* to, std::size_t count) {
    pieces(count, [to](std::size_t offset, const std::byte* from, std::size_t size) {
      std::memcpy(static_cast<std::byte*>(to) + offset, from, size);
    });
  }
  /// `count` bytes: use(offset, from, size) is shown those from `offset` on, piece by piece.
  void pieces(std::size_t count, auto&& use) {
    expect(count, 1);
    for (std::size_t done = 0; done < count;) {
      if (at_ == size_) { fetch_next(); }
      const std::size_t size = std::min(count - done, size_ - at_);
      use(done, content_.data() + at_, size);
      at_ += size;
      done += size;
    }
  }
  void check(bool holds, std::string_view sentence) const {
    require(holds, ErrorCode::format, "load: section ", archive::name_of(section_.kind), " ", section_.number, ": ", sentence);
  }

  void same(std::string_view name, std::integral auto value) {
    const std::uint64_t found = entry(name, 'n');
    const bool equals = found == static_cast<std::uint64_t>(value);
    if constexpr (std::is_same_v<decltype(value), bool>) {
      equal(name, equals, found != 0 ? "true" : "false", value ? "true" : "false");
    } else {
      equal(name, equals, found, value);
    }
  }
  void same(std::string_view name, double value) {
    const std::uint64_t found = entry(name, 'd');
    equal(name, found == std::bit_cast<std::uint64_t>(value), std::bit_cast<double>(found), value);
  }
  void same(std::string_view name, std::string_view text) {
    const std::uint64_t length = entry(name, 't');
    Text found;
    read(found, length);
    equal(name, length == found.view().size() && found.view() == text, found.view(), text);
  }

  /// What lanes hold together, if it has been read already; null if its content follows, and then remember() must be called with it.
  template <class T>
  [[nodiscard]] T* known(std::size_t bytes) {
    std::uint32_t index = 0;
    number(index);
    check(index <= shared_.size(), "it refers to what has not come yet");
    if (index == shared_.size()) { return nullptr; }
    check(shared_[index].type == &archive::type_of<T> && shared_[index].bytes == bytes, "it refers to something of another type or size");
    return static_cast<T*>(const_cast<void*>(shared_[index].address));
  }
  template <class T>
  void remember(T* address, std::size_t bytes) {
    shared_.push_back({address, &archive::type_of<T>, bytes});
  }
  void forget_shared() noexcept { shared_.clear(); }

 private:
  /// The beginning of a text.
  struct Text {
    char letters[256];
    std::size_t length = 0;
    [[nodiscard]] std::string_view view() const noexcept { return {letters, length}; }
  };
  void read(Text& text, std::uint64_t length) {
    pieces(length, [&text](std::size_t, const std::byte* from, std::size_t size) {
      const std::size_t fits = std::min(size, sizeof text.letters - text.length);
      std::memcpy(text.letters + text.length, from, fits);
      text.length += fits;
    });
  }
  std::uint64_t entry(std::string_view name, char kind) {
    std::uint8_t length = 0;
    number(length);
    Text found_text;
    read(found_text, length);
    const std::string_view found_name = found_text.view();
    require(found_name == name, ErrorCode::format, "load: ", found_name, " is in the file where ", name, " is here");
    char found = 0;
    std::uint64_t value = 0;
    number(found);
    number(value);
    require(found == kind, ErrorCode::format, "load: ", name, " is of another type in the file");
    return value;
  }
  static void equal(std::string_view name, bool equals, const auto& file, const auto& here) {
    require(equals, ErrorCode::format, "load: ", name, " is ", file, " in the file, ", here, " here");
  }
  void fetch_next() {
    std::uint64_t checksum = 0;
    check(receive(&checksum, sizeof checksum), "the file ends in it");
    fetch(checksum);
  }
  /// Reads the next chunk.
  void fetch(std::uint64_t checksum) {
    size_ = std::min<std::size_t>(left_, archive::chunk_bytes);
    at_ = 0;
    if (content_.size() < size_) { content_.resize(size_); }
    check(receive(content_.data(), size_), "the file ends in it");
    check(checksum_(content_.data(), size_) == checksum, "its checksum is wrong: the file is damaged");
    left_ -= size_;
  }
  bool receive(void* to, std::size_t bytes) {
    const std::size_t got = source_.read(source_.context, to, bytes);
    require(got != ByteSource::failed, ErrorCode::io, "load: the source did not give ", bytes, " bytes");
    return got == bytes;
  }

  ByteSource source_;
  Checksum checksum_;
  Memory memory_;
  archive::Section section_{archive::Kind::fingerprint, 0, 0, 0};
  Vector<std::byte> content_;  // at least as long as the longest chunk so far
  std::size_t size_ = 0;       // of the chunk
  std::size_t at_ = 0;
  std::uint64_t left_ = 0;  // bytes of the section behind the chunk
  Vector<archive::SharedThing> shared_;
};

}  // namespace kvcompress
