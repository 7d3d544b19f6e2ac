// include/kvcompress/eviction/writes.hpp - what a decision writes to rows that stay: keys, values, weights.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/site.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows that a commit is going to write, before others leave: see RowSet::write and RowSet::weigh. Nothing happens to the rows until all that
/// can fail has been done.
class Writes {
 public:
  struct Write {
    std::size_t kv_head;
    std::size_t row;
    std::size_t first;  ///< where its numbers begin
    bool key;           ///< they begin with a key
    bool value;         ///< and go on with a value
    bool weighs;        ///< the row, in all lanes that keep the same, gets another weight
    float log_weight;
  };

  explicit Writes(const Memory& memory) : writes_(Allocator<Write>(memory)), numbers_(Allocator<float>(memory)) {}

  void clear() noexcept {
    writes_.clear();
    numbers_.clear();
  }
  /// `key`, `value`: empty for what stays as it is.
  void add(const Site& site, std::size_t row, std::span<const float> key, std::span<const float> value) {
    writes_.push_back({site.kv_head, row, numbers_.size(), !key.empty(), !value.empty(), false, 0.0F});
    numbers_.insert(numbers_.end(), key.begin(), key.end());
    numbers_.insert(numbers_.end(), value.begin(), value.end());
  }
  void weigh(const Site& site, std::size_t row, float log_weight) {
    writes_.push_back({site.kv_head, row, numbers_.size(), false, false, true, log_weight});
  }
  [[nodiscard]] std::span<const Write> all() const noexcept { return {writes_.data(), writes_.size()}; }
  [[nodiscard]] const float* key(const Write& write) const noexcept { return numbers_.data() + write.first; }
  [[nodiscard]] const float* value(const Write& write, std::size_t key_width) const noexcept {
    return key(write) + (write.key ? key_width : 0);
  }
  void shrink() noexcept {
    if (numbers_.capacity() <= 4096) { return; }
    Vector<Write>(writes_.get_allocator()).swap(writes_);
    Vector<float>(numbers_.get_allocator()).swap(numbers_);
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, writes_);
    report.add(&MemoryReport::scratch, numbers_);
  }

 private:
  Vector<Write> writes_;
  Vector<float> numbers_;
};

}  // namespace kvcompress
