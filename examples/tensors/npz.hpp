// examples/tensors/npz.hpp - NumPy's .npz format: a ZIP archive of .npy files, stored or deflated.
// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tensors/array.hpp"

#if defined(KVCOMPRESS_HAS_LIBZIP)
#include <zip.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "tensors/npy.hpp"
#endif

namespace tensors {

#if defined(KVCOMPRESS_HAS_LIBZIP)

/// An archive that is open for reading; one thread at a time.
class NpzArchive {
 public:
  explicit NpzArchive(const std::filesystem::path& path) : path_(path.string()) {
    int code = 0;
    zip_.reset(zip_open(path_.c_str(), ZIP_RDONLY, &code));
    if (zip_) { return; }
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string sentence = zip_error_strerror(&error);
    zip_error_fini(&error);
    fail("{}: is truncated or no ZIP archive: {}.", path_, sentence);
  }

  [[nodiscard]] zip_uint64_t members() const {
    return static_cast<zip_uint64_t>(std::max<zip_int64_t>(0, zip_get_num_entries(zip_.get(), 0)));
  }
  /// The name of a member; without ".npy" if it has that, else empty.
  [[nodiscard]] std::string array_name(zip_uint64_t member) const {
    const char* name = zip_get_name(zip_.get(), member, ZIP_FL_ENC_GUESS);
    const std::string text = name != nullptr ? name : "";
    return text.ends_with(".npy") ? text.substr(0, text.size() - 4) : "";
  }
  /// What the member declares, checked against its size in the archive before anything of that size is asked for.
  [[nodiscard]] NpyHeader header(const std::string& where, zip_uint64_t member) const {
    const Sizes sizes = checked_sizes(where, member);
    const Member file = open(where, member);
    std::vector<std::byte> start(std::min(sizes.unpacked, static_cast<std::size_t>(most_npy_header)));
    read(where, file, start);
    const NpyHeader header = npy_header(where, start, sizes.unpacked);
    constexpr std::size_t most_ratio = 1032;  // of deflate: 258 bytes in two bits
    if (sizes.unpacked / most_ratio > sizes.packed) {
      fail("{}: {} bytes cannot unpack to the {} of shape {}.", where, sizes.packed, sizes.unpacked, text(header.shape));
    }
    return header;
  }
  /// The numbers of a member; its checksum is compared.
  [[nodiscard]] Bytes numbers(const std::string& where, zip_uint64_t member, const NpyHeader& header) const {
    const Member file = open(where, member);
    const auto all = std::make_shared<std::vector<std::byte>>(header.data + header.bytes);
    read(where, file, *all);
    std::byte more{};
    const zip_int64_t count = zip_fread(file.get(), &more, 1);  // the end, where libzip compares the checksum
    if (count != 0) {
      fail("{}: {}.", where, count > 0 ? "unpacks to more than its shape needs" : zip_error_strerror(zip_file_get_error(file.get())));
    }
    return {all, std::span<const std::byte>(*all).subspan(header.data)};
  }

 private:
  struct Sizes {
    std::size_t packed;
    std::size_t unpacked;
  };
  struct Close {
    void operator()(zip_t* zip) const noexcept { zip_discard(zip); }
    void operator()(zip_file_t* file) const noexcept { zip_fclose(file); }
  };
  using Member = std::unique_ptr<zip_file_t, Close>;

  [[nodiscard]] Sizes checked_sizes(const std::string& where, zip_uint64_t member) const {
    zip_stat_t stat;
    constexpr zip_uint64_t wanted = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if (zip_stat_index(zip_.get(), member, 0, &stat) != 0 || (stat.valid & wanted) != wanted) {
      fail("{}: the archive does not say how large it is.", where);
    }
    if (stat.encryption_method != ZIP_EM_NONE) { fail("{}: is encrypted.", where); }
    if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE) {
      fail("{}: is packed by method {}, must be stored (0) or deflated (8).", where, stat.comp_method);
    }
    return {static_cast<std::size_t>(stat.comp_size), static_cast<std::size_t>(stat.size)};
  }
  [[nodiscard]] Member open(const std::string& where, zip_uint64_t member) const {
    Member file(zip_fopen_index(zip_.get(), member, 0));
    if (!file) { fail("{}: cannot be unpacked: {}.", where, zip_strerror(zip_.get())); }
    return file;
  }
  static void read(const std::string& where, const Member& file, std::span<std::byte> bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const zip_int64_t count = zip_fread(file.get(), bytes.data() + done, bytes.size() - done);
      if (count < 0) { fail("{}: cannot be unpacked: {}.", where, zip_error_strerror(zip_file_get_error(file.get()))); }
      if (count == 0) { fail("{}: is truncated: unpacks to {} bytes, must have {}.", where, done, bytes.size()); }
      done += static_cast<std::size_t>(count);
    }
  }

  std::string path_;
  std::unique_ptr<zip_t, Close> zip_;
};

/// The arrays of a file. Those that `wanted(name)` does not want may be of any type.
inline std::vector<Array> read_npz(const std::filesystem::path& path, auto&& wanted) {
  const auto archive = std::make_shared<NpzArchive>(path);
  std::vector<Array> arrays;
  for (zip_uint64_t member = 0; member < archive->members(); ++member) {
    Array array{path.string(), archive->array_name(member), Element::f32, {}, {}};
    if (array.name.empty() || !wanted(array.name)) { continue; }
    const std::string where = array.where();
    const NpyHeader header = archive->header(where, member);
    array.element = header.element;
    array.shape = header.shape;
    array.read = [=] { return archive->numbers(where, member, header); };
    arrays.push_back(std::move(array));
  }
  return arrays;
}

#else

inline std::vector<Array> read_npz(const std::filesystem::path& path, auto&&) {
  fail("{}: this program was built without libzip (Debian: libzip-dev), which reads .npz; save .npy or .safetensors instead.",
       path.string());
}

#endif

}  // namespace tensors
