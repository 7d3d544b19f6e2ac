// include/kvcompress/attention/workspace.hpp - the buffers of one calling thread.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/attention/rope.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Scratch for attend and observe; one per thread that calls them at the same time. It grows to what a call needs and stays: a few
/// tens of KiB, plus 4 bytes per row and query (a block of at most 32, or one token's group) for policies that observe attention.
/// It serves caches of the shape it was made for; only the number of layers may differ.
class Workspace {
 public:
  explicit Workspace(const Shape& shape, const Memory& memory = {})
      : rotation(shape, memory), queries(Allocator<float>(memory)), framed(Allocator<float>(memory)), turned(Allocator<float>(memory)),
        logits(Allocator<float>(memory)), weights(Allocator<float>(memory)), outputs(Allocator<float>(memory)),
        parts(Allocator<float>(memory)), store(Allocator<float>(memory)), chosen(Allocator<float>(memory)),
        positions(Allocator<Position>(memory)), limits(Allocator<std::size_t>(memory)), order(Allocator<Position>(memory)),
        ranges(Allocator<RowRange>(memory)), other_rotations_(Allocator<Rotation>(memory)), which_(Allocator<std::uint32_t>(memory)),
        query_heads_(shape.of(0).query_heads), kv_heads_(shape.of(0).kv_heads), key_width_(shape.of(0).key_width()),
        value_width_(shape.of(0).value_width()) {
    if (shape.each != nullptr) { tell_layers_apart(shape, memory); }
  }

  /// The rotation of a layer.
  [[nodiscard]] Rotation& rotation_of(std::size_t layer) noexcept {
    const std::size_t which = which_.empty() ? 0 : which_[layer];
    return which == 0 ? rotation : other_rotations_[which - 1];
  }
  /// From now on it serves a layer, whose rotation is turning().
  void serve(std::size_t layer) noexcept { served_ = which_.empty() ? 0 : which_[layer]; }
  [[nodiscard]] Rotation& turning() noexcept { return served_ == 0 ? rotation : other_rotations_[served_ - 1]; }

  /// Raises an Error unless this workspace serves caches of `shape`, as one that was made for it, `own`, does.
  void check(const char* verb, const Shape& shape, const Workspace& own) const {
    const auto equal = [verb](const char* name, std::size_t here, std::size_t there) {
      require(here == there, ErrorCode::shape, verb, ": the workspace was made for a shape whose ", name, " is ", here, ", must be ",
              there);
    };
    equal("query_heads", query_heads_, shape.of(0).query_heads);
    equal("kv_heads", kv_heads_, shape.of(0).kv_heads);
    equal("key width", key_width_, shape.of(0).key_width());
    equal("value width", value_width_, shape.of(0).value_width());
    require(which_.size() == own.which_.size() && layers_print_ == own.layers_print_, ErrorCode::shape, verb,
            ": the workspace was made for a shape with other layers than the cache's, must be the same");
    require(rotation.fingerprint() == own.rotation.fingerprint(), ErrorCode::shape, verb,
            ": the workspace was made for a shape with another rope than the cache's, must be the same");
  }
  /// At least `count` floats; never shrinks, doubles when it grows.
  static float* ensure(Vector<float>& buffer, std::size_t count) {
    if (buffer.size() < count) { buffer.resize(std::max(count, 2 * buffer.size())); }
    return buffer.data();
  }
  /// Room for one token's queries over `rows` rows, all logits kept, as a policy that observes every query needs.
  void reserve(const Shape& shape, std::size_t rows) {
    require(rows <= most_rows, ErrorCode::shape, "reserve: rows is ", rows, ", must be at most ", most_rows);
    std::size_t group = 0;
    for (std::size_t layer = 0; layer < shape.kinds(); ++layer) { group = std::max(group, shape.of(layer).group()); }
    ensure(logits, group * rows);
    ensure(weights, rows);
  }
  void account(MemoryReport& report) const noexcept {
    rotation.account(report);
    for (const Rotation& other : other_rotations_) { other.account(report); }
    report.add(&MemoryReport::scratch, other_rotations_);
    report.add(&MemoryReport::scratch, which_);
    for (const auto* buffer : {&queries, &framed, &turned, &logits, &weights, &outputs, &parts, &store, &chosen}) {
      report.add(&MemoryReport::scratch, *buffer);
    }
    report.add(&MemoryReport::scratch, positions);
    report.add(&MemoryReport::scratch, limits);
    report.add(&MemoryReport::scratch, order);
    report.add(&MemoryReport::scratch, ranges);
  }
  /// Bytes held.
  [[nodiscard]] std::size_t bytes() const noexcept {
    MemoryReport report;
    account(report);
    return report.total();
  }

  Rotation rotation;           // of the first layer
  Vector<float> queries;       // (queries, key width), scaled
  Vector<float> framed;        // the same, as the rows of keys with a frame of their own meet them
  Vector<float> turned;        // queries, rotated for rows whose slot and position differ by another distance
  Vector<float> logits;        // (queries, rows of a chunk), or all rows if the policy observes
  Vector<float> weights;       // (queries, rows of a chunk), e^(logit - maximum); later one query's probabilities
  Vector<float> outputs;       // (2, queries, value width + 2): sums so far, of all rows and of a part of them
  Vector<float> parts;         // (KV heads, parts, group, value width + 2): what threads that share rows found
  Vector<float> store;         // what the stores need
  Vector<float> chosen;        // what a retrieval scores, and what stores prepare
  Vector<Position> positions;  // (tokens) of the queries
  Vector<std::size_t> limits;  // (tokens) rows each query may see
  Vector<Position> order;      // what a retrieval sorts
  Vector<RowRange> ranges;     // what a retrieval chose

 private:
  /// One rotation for every rope there is.
  void tell_layers_apart(const Shape& shape, const Memory& memory) {
    const auto mix = [&](std::uint64_t more) { layers_print_ = (layers_print_ ^ more) * 0x9E37'79B9'7F4A'7C15U; };
    Vector<std::uint32_t> first(which_.get_allocator());  // layers that had them first
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const Shape& own = shape.of(layer);
      std::size_t which = 0;
      while (which < first.size() && !own.turns_like(shape.of(first[which]))) { ++which; }
      if (which == first.size()) {
        first.push_back(static_cast<std::uint32_t>(layer));
        if (which > 0) { other_rotations_.emplace_back(own, memory); }
      }
      which_.push_back(static_cast<std::uint32_t>(which));
      for (const std::size_t number : {own.query_heads, own.kv_heads, own.key_width(), own.value_width()}) { mix(number); }
      mix(rotation_of(layer).fingerprint());
    }
  }

  Vector<Rotation> other_rotations_;  // of layers whose rope is not that of the first
  Vector<std::uint32_t> which_;       // (layers) 0 for the first; empty where all layers are alike
  std::size_t served_ = 0;
  std::uint64_t layers_print_ = 0;
  std::size_t query_heads_;
  std::size_t kv_heads_;
  std::size_t key_width_;
  std::size_t value_width_;
};

}  // namespace kvcompress
