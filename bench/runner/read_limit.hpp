// bench/runner/read_limit.hpp - how fast bytes can be loaded at all: the limit of everything that must read them.
// SPDX-License-Identifier: MIT
#pragma once

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "runner/threads.hpp"

namespace bench {

/// The widest integer vector of this compilation.
#if defined(__AVX512F__)
struct Widest {
  __m512i v = _mm512_setzero_si512();
  void add(const std::byte* from) { v = _mm512_add_epi64(v, _mm512_load_si512(from)); }
  void add(Widest other) { v = _mm512_add_epi64(v, other.v); }
};
#elif defined(__AVX2__)
struct Widest {
  __m256i v = _mm256_setzero_si256();
  void add(const std::byte* from) { v = _mm256_add_epi64(v, _mm256_load_si256(reinterpret_cast<const __m256i*>(from))); }
  void add(Widest other) { v = _mm256_add_epi64(v, other.v); }
};
#elif defined(__ARM_NEON)
struct Widest {
  uint64x2_t v = vdupq_n_u64(0);
  void add(const std::byte* from) { v = vaddq_u64(v, vreinterpretq_u64_u8(vld1q_u8(reinterpret_cast<const std::uint8_t*>(from)))); }
  void add(Widest other) { v = vaddq_u64(v, other.v); }
};
#else
struct Widest {
  std::uint64_t v = 0;
  void add(const std::byte* from) {
    std::uint64_t word = 0;
    std::memcpy(&word, from, sizeof word);
    v += word;
  }
  void add(Widest other) { v += other.v; }
};
#endif

/// Loads every byte of [from, from + bytes) once, in `streams` runs side by side: one run alone does not keep all of the prefetchers busy.
/// Both are multiples of 64 bytes per run.
inline Widest load_all(const std::byte* from, std::size_t bytes) {
  constexpr std::size_t streams = 4;
  constexpr std::size_t line = 64;
  Widest sums[streams][2];
  const std::size_t run = bytes / streams / line * line;
  for (std::size_t at = 0; at < run; at += line) {
    for (std::size_t s = 0; s < streams; ++s) {
      for (std::size_t part = 0; part < line / sizeof(Widest); ++part) {
        sums[s][part % 2].add(from + s * run + at + part * sizeof(Widest));
      }
    }
  }
  for (std::size_t at = streams * run; at + line <= bytes; at += line) {
    for (std::size_t part = 0; part < line / sizeof(Widest); ++part) { sums[0][part % 2].add(from + at + part * sizeof(Widest)); }
  }
  for (auto& stream : sums) {
    sums[0][0].add(stream[1]);
    if (&stream != sums) { sums[0][0].add(stream[0]); }
  }
  return sums[0][0];
}

/// A buffer that is read piece by piece, round and round: when a piece comes again, the processor's cache has forgotten it.
class ReadLimit {
 public:
  explicit ReadLimit(std::size_t bytes) : bytes_(round_up(bytes)), memory_(static_cast<std::byte*>(::operator new(bytes_, alignment))) {
    std::memset(memory_, 1, bytes_);
  }
  ReadLimit(const ReadLimit&) = delete;
  ReadLimit& operator=(const ReadLimit&) = delete;
  ~ReadLimit() { ::operator delete(memory_, alignment); }

  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  /// Loads the next `count` bytes, at most bytes(), each thread its part of them.
  void run(std::size_t count, Threads& threads) {
    count = std::min(round_up(count), bytes_);
    if (at_ + count > bytes_) { at_ = 0; }
    const std::byte* from = memory_ + at_;
    at_ += count;
    if (threads.count() == 1) { return keep(load_all(from, count)); }
    const std::size_t piece = round_up(count / (4 * threads.count()));
    threads((count + piece - 1) / piece,
            [&](std::size_t task, std::size_t) { keep(load_all(from + task * piece, std::min(piece, count - task * piece))); });
  }

 private:
  static constexpr std::align_val_t alignment{64};
  static std::size_t round_up(std::size_t bytes) { return (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64; }
  /// The compiler must not find out that nobody wants the sum.
  static void keep(Widest sum) { asm volatile("" : : "m"(sum) : "memory"); }

  std::size_t bytes_;
  std::byte* memory_;
  std::size_t at_ = 0;
};

}  // namespace bench
