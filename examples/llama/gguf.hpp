// examples/llama/gguf.hpp - reads the GGUF container, every length checked against the file.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "byte_reader.hpp"
#include "error.hpp"
#include "mapped_file.hpp"
#include "tensor.hpp"

namespace llama {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place, so the machine must be little-endian");

/// A mapped GGUF file (versions 2 and 3). What it hands out points into the mapping and lives as long as the
/// object.
class Gguf {
 public:
  explicit Gguf(const std::filesystem::path& path);

  /// The path, for messages.
  [[nodiscard]] const std::string& file() const noexcept { return file_; }

  /// All keys of the metadata, in alphabetical order.
  [[nodiscard]] std::vector<std::string_view> keys() const;
  // Metadata. The plain forms raise an Error when the key is missing; all of them do when it has another
  // type.
  [[nodiscard]] bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  [[nodiscard]] bool is_array(std::string_view key) const { return has(key) && value(key).is_array; }
  [[nodiscard]] std::uint64_t integer(std::string_view key) const { return integer_at(key, scalar(key), 0); }
  [[nodiscard]] std::uint64_t integer_or(std::string_view key, std::uint64_t other) const { return has(key) ? integer(key) : other; }
  [[nodiscard]] double real(std::string_view key) const { return real_at(key, scalar(key), 0); }
  [[nodiscard]] double real_or(std::string_view key, double other) const { return has(key) ? real(key) : other; }
  [[nodiscard]] bool flag_or(std::string_view key, bool other) const;
  [[nodiscard]] std::string_view text(std::string_view key) const;
  [[nodiscard]] std::string_view text_or(std::string_view key, std::string_view other) const { return has(key) ? text(key) : other; }
  [[nodiscard]] std::vector<std::string_view> texts(std::string_view key) const;
  [[nodiscard]] std::vector<std::uint64_t> integers(std::string_view key) const;
  [[nodiscard]] std::vector<double> reals(std::string_view key) const;

  /// All tensors by name; their bytes are known to lie inside the file.
  [[nodiscard]] const std::map<std::string, Tensor, std::less<>>& tensors() const noexcept { return tensors_; }

 private:
  // clang-format off
  enum class Type : std::uint32_t {
    u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64, end
  };
  // clang-format on
  static constexpr std::array<std::size_t, 13> type_bytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

  /// A value still in the file: `count` elements of `type` that start at byte `at`.
  struct Value {
    Type type = Type::u8;
    bool is_array = false;
    std::uint64_t count = 1;
    std::size_t at = 0;
  };

  // The parser.
  void refuse_part() const;
  Type read_type(std::string_view what);
  void parse_value();
  struct Unplaced {
    std::pair<const std::string, Tensor>* entry;
    std::uint64_t offset;
  };
  Unplaced parse_tensor();
  void place_tensors(const std::vector<Unplaced>& unplaced);

  [[nodiscard]] const Value& value(std::string_view key) const;
  [[nodiscard]] const Value& scalar(std::string_view key) const;
  [[nodiscard]] const Value& array(std::string_view key) const;
  [[nodiscard]] std::uint64_t integer_at(std::string_view key, const Value& value, std::size_t index) const;
  [[nodiscard]] double real_at(std::string_view key, const Value& value, std::size_t index) const;

  std::string file_;
  MappedFile mapped_;
  ByteReader reader_;
  std::map<std::string, Value, std::less<>> values_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// ---- parsing ----

inline Gguf::Gguf(const std::filesystem::path& path) : file_(path.string()), mapped_(path), reader_(file_, mapped_.bytes()) {
  if (std::memcmp(reader_.take(4, "the magic"), "GGUF", 4) != 0) {
    fail("{}: is not a GGUF file: it does not start with \"GGUF\".", file_);
  }
  const auto version = reader_.number<std::uint32_t>("the version");
  if ((version & 0xFFFFU) == 0 && version != 0) { fail("{}: is a big-endian GGUF file, which this engine does not read.", file_); }
  if (version != 2 && version != 3) { fail("{}: has GGUF version {}; this engine reads 2 and 3.", file_, version); }
  const auto tensors = reader_.number<std::uint64_t>("the tensor count");
  const auto values = reader_.number<std::uint64_t>("the metadata count");
  // Nothing is reserved from a count: each entry takes bytes, so a false count runs into the end of the file.
  for (std::uint64_t i = 0; i < values; ++i) { parse_value(); }
  refuse_part();
  std::vector<Unplaced> unplaced;
  for (std::uint64_t i = 0; i < tensors; ++i) { unplaced.push_back(parse_tensor()); }
  place_tensors(unplaced);
}

/// A model in several files: any one of them would seem to lack something.
inline void Gguf::refuse_part() const {
  const std::uint64_t number = integer_or("split.no", 0);
  const std::uint64_t count = integer_or("split.count", 0);
  if (number > 0 || count > 1) {
    fail("{}: is file {} of {} of a split model (\"split.no\", \"split.count\"); this engine reads whole ones, so merge them first.", file_,
         number + 1, count);
  }
}

inline Gguf::Type Gguf::read_type(std::string_view what) {
  const auto raw = reader_.number<std::uint32_t>(what);
  if (raw >= static_cast<std::uint32_t>(Type::end)) {
    fail("{}: is corrupt: {} at byte {} is {}; the types of GGUF values are 0 to 12.", file_, what, reader_.at() - 4, raw);
  }
  return static_cast<Type>(raw);
}

inline void Gguf::parse_value() {
  const std::string key(reader_.string("a metadata key"));
  Value value;
  value.type = read_type("a value type");
  if (value.type == Type::array) {
    value.is_array = true;
    value.type = read_type("an element type");
    if (value.type == Type::array) {
      fail("{}: metadata {} is an array of arrays, which this engine does not read.", file_, in_quotes(key));
    }
    value.count = reader_.number<std::uint64_t>("an array length");
  }
  value.at = reader_.at();
  if (value.type == Type::string) {
    for (std::uint64_t i = 0; i < value.count; ++i) { reader_.string("a metadata string"); }
  } else {
    const std::size_t size = type_bytes[static_cast<std::size_t>(value.type)];
    if (value.count > mapped_.bytes().size() / size) {
      fail("{}: is truncated or corrupt: metadata {} claims {} elements, and the file has {} bytes.", file_, in_quotes(key), value.count,
           mapped_.bytes().size());
    }
    reader_.take(value.count * size, "a metadata value");
  }
  if (!values_.emplace(key, value).second) { fail("{}: metadata {} appears twice.", file_, in_quotes(key)); }
}

inline Gguf::Unplaced Gguf::parse_tensor() {
  const std::string name(reader_.string("a tensor name"));
  const auto dimensions = reader_.number<std::uint32_t>("a tensor's dimension count");
  if (dimensions < 1 || dimensions > 4) {
    fail("{}: tensor {} has {} dimensions; GGUF allows 1 to 4.", file_, in_quotes(name), dimensions);
  }
  Tensor tensor;
  std::array<std::uint64_t, 4> shape = {1, 1, 1, 1};
  for (std::uint32_t i = 0; i < dimensions; ++i) { shape.at(i) = reader_.number<std::uint64_t>("a tensor dimension"); }
  const auto raw_format = reader_.number<std::uint32_t>("a tensor type");
  const FormatInfo* format = find_format(raw_format);
  if (format == nullptr) { fail("{}: tensor {} has type {}; this engine reads {}.", file_, in_quotes(name), raw_format, format_names()); }
  tensor.format = format->format;
  // No tensor has more elements than four per byte of the file: this bounds every product below.
  const std::uint64_t most = 4 * static_cast<std::uint64_t>(mapped_.bytes().size());
  std::uint64_t elements = 1;
  for (const std::uint64_t extent : shape) {
    if (extent == 0 || extent > most / elements) {
      fail("{}: tensor {} has shape {}x{}x{}x{}, more than the file's {} bytes can hold, or empty.", file_, in_quotes(name), shape[0],
           shape[1], shape[2], shape[3], mapped_.bytes().size());
    }
    elements *= extent;
  }
  tensor.columns = static_cast<std::size_t>(shape[0]);
  tensor.rows = static_cast<std::size_t>(elements / shape[0]);
  if (tensor.columns % format->values != 0) {
    fail("{}: tensor {} is quantised in blocks of {}, but its rows have {} values.", file_, in_quotes(name), format->values,
         tensor.columns);
  }
  const auto offset = reader_.number<std::uint64_t>("a tensor offset");
  const auto [place, fresh] = tensors_.emplace(name, tensor);
  if (!fresh) { fail("{}: tensor {} appears twice.", file_, in_quotes(name)); }
  return {&*place, offset};
}

inline void Gguf::place_tensors(const std::vector<Unplaced>& unplaced) {
  const std::uint64_t alignment = integer_or("general.alignment", 32);
  if (!std::has_single_bit(alignment) || alignment > (1U << 20)) {
    fail("{}: general.alignment is {}; it must be a power of two up to 1048576.", file_, alignment);
  }
  const std::uint64_t size = mapped_.bytes().size();
  const std::uint64_t start = (reader_.at() + alignment - 1) / alignment * alignment;
  for (const auto& [entry, offset] : unplaced) {
    auto& [name, tensor] = *entry;
    const std::uint64_t bytes = static_cast<std::uint64_t>(tensor.rows) * tensor.row_bytes();
    if (offset % alignment != 0) {
      fail("{}: tensor {} has offset {}, which is not a multiple of the alignment {}.", file_, in_quotes(name), offset, alignment);
    }
    if (start > size || offset > size - start || bytes > size - start - offset) {
      fail(
          "{}: is truncated or corrupt: tensor {} needs {} bytes at offset {} of the data, which starts at "
          "byte {} of {}.",
          file_, in_quotes(name), bytes, offset, start, size);
    }
    tensor.data = mapped_.bytes().data() + start + offset;
  }
}

// ---- metadata ----

inline std::vector<std::string_view> Gguf::keys() const {
  std::vector<std::string_view> result;
  for (const auto& [key, value] : values_) { result.push_back(key); }
  return result;
}

inline const Gguf::Value& Gguf::value(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) { fail("{}: metadata {} is missing.", file_, in_quotes(key)); }
  return found->second;
}

inline const Gguf::Value& Gguf::scalar(std::string_view key) const {
  const Value& found = value(key);
  if (found.is_array) { fail("{}: metadata {} must be a single value, not an array.", file_, in_quotes(key)); }
  return found;
}

inline const Gguf::Value& Gguf::array(std::string_view key) const {
  const Value& found = value(key);
  if (!found.is_array) { fail("{}: metadata {} must be an array.", file_, in_quotes(key)); }
  return found;
}

inline std::uint64_t Gguf::integer_at(std::string_view key, const Value& value, std::size_t index) const {
  std::int64_t result = -1;
  const std::size_t at = value.at + index * type_bytes[static_cast<std::size_t>(value.type)];
  // clang-format off
  switch (value.type) {
    case Type::u8: result = reader_.peek<std::uint8_t>(at); break;
    case Type::i8: result = reader_.peek<std::int8_t>(at); break;
    case Type::u16: result = reader_.peek<std::uint16_t>(at); break;
    case Type::i16: result = reader_.peek<std::int16_t>(at); break;
    case Type::u32: result = reader_.peek<std::uint32_t>(at); break;
    case Type::i32: result = reader_.peek<std::int32_t>(at); break;
    case Type::u64:
    case Type::i64: result = reader_.peek<std::int64_t>(at); break;  // above 2^63 it is negative
    default: fail("{}: metadata {} must be an integer.", file_, in_quotes(key));
  }
  // clang-format on
  if (result < 0) { fail("{}: metadata {} must be an integer from 0 to 2^63-1.", file_, in_quotes(key)); }
  return static_cast<std::uint64_t>(result);
}

inline double Gguf::real_at(std::string_view key, const Value& value, std::size_t index) const {
  if (value.type == Type::f32) { return static_cast<double>(reader_.peek<float>(value.at + 4 * index)); }
  if (value.type == Type::f64) { return reader_.peek<double>(value.at + 8 * index); }
  return static_cast<double>(integer_at(key, value, index));
}

inline bool Gguf::flag_or(std::string_view key, bool other) const {
  if (!has(key)) { return other; }
  const Value& found = scalar(key);
  if (found.type != Type::boolean) { fail("{}: metadata {} must be true or false.", file_, in_quotes(key)); }
  return reader_.peek<std::uint8_t>(found.at) != 0;
}

inline std::string_view Gguf::text(std::string_view key) const {
  const Value& found = scalar(key);
  if (found.type != Type::string) { fail("{}: metadata {} must be a string.", file_, in_quotes(key)); }
  return reader_.peek_string(found.at);
}

inline std::vector<std::string_view> Gguf::texts(std::string_view key) const {
  const Value& found = array(key);
  if (found.type != Type::string) { fail("{}: metadata {} must be an array of strings.", file_, in_quotes(key)); }
  std::vector<std::string_view> result;
  std::size_t at = found.at;
  for (std::uint64_t i = 0; i < found.count; ++i) {
    result.push_back(reader_.peek_string(at));
    at += 8 + result.back().size();
  }
  return result;
}

inline std::vector<std::uint64_t> Gguf::integers(std::string_view key) const {
  const Value& found = array(key);
  std::vector<std::uint64_t> result;
  for (std::size_t i = 0; i < found.count; ++i) { result.push_back(integer_at(key, found, i)); }
  return result;
}

inline std::vector<double> Gguf::reals(std::string_view key) const {
  const Value& found = array(key);
  std::vector<double> result;
  for (std::size_t i = 0; i < found.count; ++i) { result.push_back(real_at(key, found, i)); }
  return result;
}

}  // namespace llama
