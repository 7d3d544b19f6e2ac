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

/// A file is 8 bytes of magic, 4 of version, and sections: a kind, a number, the bytes of the content, their checksum, the content.
namespace archive {

inline constexpr char magic[8] = {'K', 'V', 'C', 'A', 'C', 'H', 'E', '\n'};
inline constexpr std::uint32_t version = 2;
/// Numbers are written as they lie in memory, and a file is little-endian with 64-bit sizes.
inline constexpr bool supported = std::endian::native == std::endian::little && sizeof(std::size_t) == 8;

enum class Kind : std::uint32_t { fingerprint = 1, layer = 2, lane = 3 };

struct Section {
  Kind kind;
  std::uint32_t number;  ///< of the layer, or of the lane over all layers
  std::uint64_t bytes;
  std::uint64_t checksum;
};

constexpr const char* name_of(Kind kind) noexcept {
  return kind == Kind::fingerprint ? "fingerprint" : kind == Kind::layer ? "layer" : "lane";
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
/// A section is built in memory, so that its size and checksum can stand before it.
class Writer {
 public:
  static constexpr bool reads = false;

  Writer(const ByteSink& sink, Checksum checksum, const Memory& memory)
      : sink_(sink), checksum_(checksum), content_(Allocator<std::byte>(memory)), shared_(Allocator<archive::SharedThing>(memory)) {
    send(archive::magic, sizeof archive::magic);
    send(&archive::version, sizeof archive::version);
  }

  /// Writes one section, whose content `work()` names.
  void section(archive::Kind kind, std::size_t number, auto&& work) {
    content_.clear();
    work();
    const archive::Section section{kind, static_cast<std::uint32_t>(number), content_.size(), checksum_(content_.data(), content_.size())};
    send(&section, sizeof section);
    send(content_.data(), content_.size());
  }

  void number(archive::Number auto x) { bytes(&x, sizeof x); }
  void count(std::size_t n, std::size_t /*each*/) { number(n); }
  template <class T>
  void vector(const Vector<T>& v) {
    number(v.size());
    bytes(v.data(), v.size() * sizeof(T));
  }
  void bytes(const void* from, std::size_t count) {
    const auto* first = static_cast<const std::byte*>(from);
    content_.insert(content_.end(), first, first + count);
  }
  /// Room for `count` bytes that the caller fills at once.
  [[nodiscard]] std::byte* room(std::size_t count) {
    content_.resize(content_.size() + count);
    return content_.data() + (content_.size() - count);
  }
  static void check(bool holds, std::string_view sentence) {
    require(holds, ErrorCode::phase, "save: ", sentence, ", as after a commit that failed: commit first");
  }

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
  void send(const void* from, std::size_t count) {
    require(sink_.write(sink_.context, from, count), ErrorCode::io, "save: the sink did not take ", count, " bytes");
  }

  ByteSink sink_;
  Checksum checksum_;
  Vector<std::byte> content_;  // of the open section
  Vector<archive::SharedThing> shared_;
};

/// Reads what a Writer wrote, section by section, each only after its checksum proved right. Never reads behind a section, and takes memory
/// only for bytes that are there, but for 32 MiB. The checksum finds damage, not forgery: what `persist` functions check beyond it are sizes and places.
class Reader {
 public:
  static constexpr bool reads = true;

  Reader(const ByteSource& source, Checksum checksum, const Memory& memory)
      : source_(source), checksum_(checksum), memory_(memory), content_(Allocator<std::byte>(memory)),
        shared_(Allocator<archive::SharedThing>(memory)) {
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
    fetch(found.bytes);
    check(checksum_(content_.data(), size_) == found.checksum, "its checksum is wrong: the file is damaged");
    at_ = 0;
    work();
    check(at_ == size_, "it is longer than its content");
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
    check(each == 0 || n <= (size_ - at_) / each, "a count is larger than the section");
  }
  template <class T>
  void vector(Vector<T>& v) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::size_t size = 0;
    count(size, sizeof(T));
    v.resize(size);
    bytes(v.data(), size * sizeof(T));
  }
  void bytes(void* to, std::size_t count) {
    const std::byte* from = take(count);
    if (count > 0) { std::memcpy(to, from, count); }
  }
  /// The next `count` bytes, valid until the section ends.
  [[nodiscard]] const std::byte* take(std::size_t count) {
    expect(count, 1);
    at_ += count;
    return content_.data() + (at_ - count);
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
    const std::byte* from = take(length);
    const std::string_view found(reinterpret_cast<const char*>(from), length);
    equal(name, found == text, found, text);
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
  std::uint64_t entry(std::string_view name, char kind) {
    std::uint8_t length = 0;
    number(length);
    const std::byte* from = take(length);
    const std::string_view found_name(reinterpret_cast<const char*>(from), length);
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
  /// Reads the content of a section. Memory grows with the bytes that come, whatever size the file claims.
  void fetch(std::uint64_t bytes) {
    constexpr std::size_t step = std::size_t{32} << 20U;
    size_ = 0;
    while (size_ < bytes) {
      const std::size_t more = std::min<std::uint64_t>(bytes - size_, std::max({step, size_, content_.size() - size_}));
      if (content_.size() < size_ + more) { content_.resize(size_ + more); }
      check(receive(content_.data() + size_, more), "the file ends in it");
      size_ += more;
    }
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
  Vector<std::byte> content_;  // at least as long as the longest section so far
  std::size_t size_ = 0;       // of the section
  std::size_t at_ = 0;
  Vector<archive::SharedThing> shared_;
};

}  // namespace kvcompress
