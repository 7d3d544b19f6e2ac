// include/kvcompress/offload/row_cache.hpp - exact copies of some rows of a store that holds them elsewhere.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows in T by chunks of `chunk` rows: which chunks are here, and where. Memory: chunk * dim * sizeof(T) + 8 bytes per chunk.
template <class T>
class RowCache {
 public:
  RowCache(std::size_t dim, const Memory& memory)
      : dim_(dim), chunks_(Allocator<Chunk>(memory)), free_(Allocator<Position>(memory)), rows_(Allocator<T>(memory)) {}
  /// With room for all places among the free ones, which a copied vector lacks: giving chunks up must not allocate.
  RowCache(const RowCache& other)
      : dim_(other.dim_), chunk_(other.chunk_), chunks_(other.chunks_), free_(other.free_.get_allocator()), rows_(other.rows_) {
    free_.reserve(slots());
    free_.assign(other.free_.begin(), other.free_.end());
  }
  RowCache(RowCache&&) noexcept = default;
  RowCache& operator=(const RowCache& other) { return *this = RowCache(other); }
  RowCache& operator=(RowCache&&) noexcept = default;
  ~RowCache() = default;

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t chunk() const noexcept { return chunk_; }
  [[nodiscard]] std::size_t size() const noexcept { return chunks_.size(); }
  [[nodiscard]] bool has(std::size_t chunk) const noexcept { return rows(chunk).these != nullptr; }
  /// Rows of a chunk, dim numbers each, and those of the chunk here that comes after it; null if not here, or if it is the last.
  struct Found {
    const T* these = nullptr;
    const T* next = nullptr;
  };
  [[nodiscard]] Found rows(std::size_t chunk) const noexcept {
    const auto place =
        std::lower_bound(chunks_.begin(), chunks_.end(), chunk, [](const Chunk& one, std::size_t wanted) { return one.id < wanted; });
    if (place == chunks_.end() || place->id != chunk) { return {}; }
    return {at(place->slot), place + 1 == chunks_.end() ? nullptr : at((place + 1)->slot)};
  }

  /// A chunk that is to be loaded, and where to.
  struct Missing {
    Position chunk = no_position;
    T* to = nullptr;
  };

  /// Makes the chunks (ascending) those that are here. The ones that were here already stay as they are; load(one, next) fills the others, of
  /// which `next` comes after it (no_position: none does). Returns how many were loaded. If load fails, the chunks not loaded yet are missing.
  std::size_t hold(std::size_t chunk_rows, std::span<const Position> chunks, auto&& load) {
    if (chunk_ != chunk_rows) { clear(); }
    chunk_ = chunk_rows;
    chunks_.reserve(chunks.size());  // what can fail comes first
    free_.reserve(std::max(chunks.size(), slots()));
    keep_only(chunks);
    const std::size_t missing = chunks.size() - chunks_.size();
    const std::size_t before = slots();
    if (missing > free_.size()) { rows_.resize(rows_.size() + (missing - free_.size()) * chunk_ * dim_); }
    for (std::size_t slot = slots(); slot > before; --slot) { free_.push_back(static_cast<Position>(slot - 1)); }
    list(chunks);
    const struct Unlist {  // also if load throws
      Vector<Chunk>& listed;
      ~Unlist() {
        std::erase_if(listed, [](const Chunk& chunk) { return chunk.slot == no_position; });
      }
    } unlist_what_failed{chunks_};
    for (std::size_t i = next_missing(0); i < chunks_.size();) {
      const std::size_t next = next_missing(i + 1);
      const auto to = [this](std::size_t from_last) { return rows_.data() + free_[free_.size() - from_last] * chunk_ * dim_; };
      load(Missing{chunks_[i].id, to(1)}, next < chunks_.size() ? Missing{chunks_[next].id, to(2)} : Missing{});
      chunks_[i].slot = free_.back();
      free_.pop_back();
      i = next;
    }
    return missing;
  }
  /// The `count` chunks from `first` on have left, later ones have moved up.
  void erase(std::size_t first, std::size_t count) noexcept {
    std::erase_if(chunks_, [&](const Chunk& chunk) {
      if (chunk.id < first || chunk.id >= first + count) { return false; }
      free_.push_back(chunk.slot);
      return true;
    });
    for (Chunk& chunk : chunks_) { chunk.id -= chunk.id >= first ? static_cast<Position>(count) : 0; }
  }
  /// No chunk is here any more; their places stay.
  void forget() noexcept {
    for (const Chunk& chunk : chunks_) { free_.push_back(chunk.slot); }
    chunks_.clear();
  }
  /// Forgets everything; the memory stays.
  void clear() noexcept {
    chunks_.clear();
    free_.clear();
    rows_.clear();
  }
  /// Chunks of the first `rows` rows; where they lie is not saved.
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.number(self.chunk_);
    std::size_t count = self.size();
    archive.count(count, sizeof(Position));
    archive.check(self.chunk_ < no_position && (count == 0 || (self.chunk_ > 0 && count <= rows / self.chunk_)),
                  "there are more rows at hand than rows");
    const std::size_t numbers = self.chunk_ * self.dim_;
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      archive.expect(count, numbers * sizeof(T));
      self.chunks_.resize(count);
      self.free_.reserve(count);
      self.rows_.resize(count * numbers);
      for (std::size_t slot = 0; slot < count; ++slot) {
        Chunk& chunk = self.chunks_[slot];
        archive.number(chunk.id);
        archive.check((slot == 0 || chunk.id > self.chunks_[slot - 1].id) && chunk.id < rows / self.chunk_,
                      "rows at hand are out of order");
        archive.bytes(self.rows_.data() + slot * numbers, numbers * sizeof(T));
        chunk.slot = static_cast<Position>(slot);
      }
    } else {
      for (const Chunk& chunk : self.chunks_) {
        archive.number(chunk.id);
        archive.bytes(self.at(chunk.slot), numbers * sizeof(T));
      }
    }
  }
  void account(MemoryReport& report) const noexcept {
    const std::size_t used = chunks_.size() * chunk_ * dim_ * sizeof(T);
    report.exact_rows += used;
    report.spare += rows_.capacity() * sizeof(T) - used;
    report.add(&MemoryReport::indices, chunks_);
    report.add(&MemoryReport::indices, free_);
  }

 private:
  struct Chunk {
    Position id;
    Position slot;
  };

  [[nodiscard]] std::size_t slots() const noexcept { return chunk_ == 0 ? 0 : rows_.size() / (chunk_ * dim_); }
  [[nodiscard]] const T* at(std::size_t slot) const noexcept { return rows_.data() + slot * chunk_ * dim_; }
  [[nodiscard]] std::size_t next_missing(std::size_t from) const noexcept {
    while (from < chunks_.size() && chunks_[from].slot != no_position) { ++from; }
    return from;
  }
  void keep_only(std::span<const Position> wanted) noexcept {
    std::size_t next = 0;
    std::erase_if(chunks_, [&](const Chunk& chunk) {
      while (next < wanted.size() && wanted[next] < chunk.id) { ++next; }
      if (next < wanted.size() && wanted[next] == chunk.id) { return false; }
      free_.push_back(chunk.slot);
      return true;
    });
  }
  /// Lists all of `wanted`, which hold those that are here; the others have no slot yet.
  void list(std::span<const Position> wanted) noexcept {
    std::size_t here = chunks_.size();
    chunks_.resize(wanted.size());
    for (std::size_t i = wanted.size(); i-- > 0;) {
      const bool held = here > 0 && chunks_[here - 1].id == wanted[i];
      chunks_[i] = held ? chunks_[--here] : Chunk{wanted[i], no_position};
    }
  }

  std::size_t dim_;
  std::size_t chunk_ = 0;
  Vector<Chunk> chunks_;   // ascending ids
  Vector<Position> free_;  // slots that hold nothing; room for all of them
  Vector<T> rows_;         // (slots, chunk, dim)
};

/// What a store keeps at hand of encoded rows that it holds in a dearer form: chunks that every query reads, and those that the last query
/// chose.
template <class T>
class AtHand {
 public:
  AtHand(std::size_t dim, const Memory& memory) : always_(dim, memory), chosen_(dim, memory), wanted_(Allocator<Position>(memory)) {}

  RowCache<T>& always() noexcept { return always_; }
  [[nodiscard]] std::size_t chunk() const noexcept { return always_.chunk(); }

  /// Brings the chunks of `ranges` below row `border` here, and drops chosen ones that are not among them. Returns how many were loaded.
  std::size_t choose(std::span<const RowRange> ranges, std::size_t border, bool reuse, auto&& load) {
    wanted_.clear();
    for (const RowRange range : ranges) {
      for (std::size_t row = range.first; row < std::min(range.last, border); row += chunk()) {
        if (!always_.has(row / chunk())) { wanted_.push_back(static_cast<Position>(row / chunk())); }
      }
    }
    if (!reuse) { chosen_.forget(); }
    return chosen_.hold(chunk(), {wanted_.data(), wanted_.size()}, load);
  }
  /// Calls run(rows, rows to fetch meanwhile or null, offset in the range, count) for the stretches of `range`, whose chunks must all be here;
  /// elsewhere(row, offset, count) for those that are not.
  void for_runs(RowRange range, auto&& run, auto&& elsewhere) const noexcept {
    for (std::size_t row = range.first; row < range.last;) {
      const std::size_t id = row / chunk();
      const std::size_t count = std::min(range.last, (id + 1) * chunk()) - row;
      auto found = chosen_.rows(id);
      if (found.these == nullptr) { found = always_.rows(id); }
      if (found.these != nullptr) {
        run(found.these + row % chunk() * dim(), found.next, row - range.first, count);
      } else {
        elsewhere(row, row - range.first, count);
      }
      row += count;
    }
  }
  void clear() noexcept {
    always_.clear();
    chosen_.clear();
  }
  void erase(RowRange rows) noexcept {
    always_.erase(rows.first / chunk(), rows.size() / chunk());
    chosen_.erase(rows.first / chunk(), rows.size() / chunk());
  }
  /// Upper bound of what `rows` rows at hand take, chunks of at least four rows, in vectors that double.
  [[nodiscard]] static constexpr std::size_t most_bytes(std::size_t rows, std::size_t dim) noexcept {
    return 2 * rows * (dim * sizeof(T) + 4);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    RowCache<T>::persist(self.always_, archive, rows);
    RowCache<T>::persist(self.chosen_, archive, rows);
    archive.check((rows == 0 || self.chunk() > 0) && (self.chosen_.size() == 0 || self.chosen_.chunk() == self.chunk()),
                  "rows at hand have chunks of two sizes");
  }
  void account(MemoryReport& report) const noexcept {
    always_.account(report);
    chosen_.account(report);
    report.add(&MemoryReport::indices, wanted_);
  }

 private:
  [[nodiscard]] std::size_t dim() const noexcept { return always_.dim(); }

  RowCache<T> always_;
  RowCache<T> chosen_;
  Vector<Position> wanted_;
};

/// The chunks of `chunk` rows in ascending ranges.
inline void chunks_of(std::span<const RowRange> ranges, std::size_t chunk, Vector<Position>& chunks) {
  chunks.clear();
  for (const RowRange range : ranges) {
    for (std::size_t row = range.first; row < range.last; row += chunk) { chunks.push_back(static_cast<Position>(row / chunk)); }
  }
}

}  // namespace kvcompress
