// include/kvcompress/eviction/scorers/prompt_queries.hpp - the queries of a prompt, kept until it ends.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A State of the queries of an open prompt, before their rotary embedding: group * key width floats per query. Empty once the prompt has ended.
class PromptQueries {
 public:
  explicit PromptQueries(const Memory& memory) : queries_(Allocator<float>(memory)) {}

  void make_room(std::size_t group, std::size_t width) {
    group_ = group;
    width_ = width;
    const std::size_t needed = queries_.size() + rows_ * group * width;  // no more than that is attended at once
    if (queries_.capacity() < needed) { queries_.reserve(needed); }
  }
  void add(const float* query) noexcept { queries_.insert(queries_.end(), query, query + width_); }
  [[nodiscard]] std::size_t count() const noexcept { return queries_.empty() ? 0 : queries_.size() / (group_ * width_); }
  /// The query of head `head` of the group that is `ago` queries older than the newest.
  [[nodiscard]] const float* query(std::size_t ago, std::size_t head) const noexcept {
    return queries_.data() + ((count() - 1 - ago) * group_ + head) * width_;
  }

  static void reserve(std::size_t) noexcept {}
  static void move(std::size_t, std::size_t) noexcept {}
  void resize(std::size_t rows) noexcept { rows_ = rows; }
  void erase(std::size_t, std::size_t count) noexcept { rows_ -= count; }
  /// The prompt has ended.
  void compact(std::size_t) { Vector<float>(queries_.get_allocator()).swap(queries_); }
  void account(MemoryReport& report) const { report.add(&MemoryReport::policy_state, queries_); }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.number(self.group_);
    archive.number(self.width_);
    archive.vector(self.queries_);
    archive.check(self.queries_.empty() || (self.group_ > 0 && self.width_ > 0 && self.queries_.size() % self.group_ == 0 &&
                                            self.queries_.size() / self.group_ % self.width_ == 0),
                  "the queries of its prompt are not of its shape");
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) { self.rows_ = rows; }
  }

 private:
  std::size_t rows_ = 0;
  std::size_t group_ = 0;
  std::size_t width_ = 0;
  Vector<float> queries_;  // (queries, group, key width)
};

/// A scorer that sees the prompt's queries when it decides, once, at the end of a prompt. Queries belong to the newest rows; rows of an earlier
/// prompt have none. Bytes: group * key width * 4 per query and lane while a prompt is open, none afterwards. A prompt's queries cannot be
/// taken back by truncate; a decoded row's draft can.
struct QueriesScoredRows : ScoredRows {
  static constexpr Needs may{.decides = Decides::once, .queries = true};
  using State = PromptQueries;

  static constexpr std::size_t row_bytes(const auto& /*options*/, const Shape&) noexcept { return 0; }
  static State state(const auto& /*options*/, const Site&, const Memory& memory) { return State(memory); }
  static void make_room_for_queries(const auto& /*options*/, State& state, const Shape& shape) {
    state.make_room(shape.group(), shape.key_width());
  }
  static void observe_query(const auto& /*options*/, State& state, std::size_t /*head*/, const float* query) noexcept { state.add(query); }
};

}  // namespace kvcompress
