// include/kvcompress/adapters/llama_cpp/sequence.hpp - what one of llama.cpp's sequences holds: a cache per kind of layer.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <tuple>

#include "kvcompress/adapters/llama_cpp/held.hpp"
#include "kvcompress/adapters/llama_cpp/nodes.hpp"
#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/cache/persist.hpp"
#include "llama.h"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// Layers of one kind share a cache, each at its own number, so that policies see the whole model: those of equal widths, rotary embedding
/// and policy.
struct Kind {
  std::size_t query_heads, kv_heads, key_width, value_width;
  RotaryEmbedding rotary;
  std::string policy;

  /// For a model of so many layers; its rotary embedding points into this object.
  [[nodiscard]] Shape shape(std::size_t layers) const noexcept {
    return {.layers = layers,
            .query_heads = query_heads,
            .kv_heads = kv_heads,
            .head_dim = key_width,
            .value_dim = value_width,
            .rope = rotary.linked()};
  }
  friend bool operator<(const Kind& a, const Kind& b) {
    const auto members = [](const Kind& k) {
      return std::tie(k.query_heads, k.kv_heads, k.key_width, k.value_width, k.rotary.rope.theta, k.rotary.rope.scale,
                      k.rotary.rope.pairing, k.rotary.rope.rotary_dim, k.rotary.factors, k.policy);
    };
    return members(a) < members(b);
  }
};

struct Sequence {
  std::map<Kind, AnyCache> caches;
  Position first = 0;  ///< position of its oldest token
  Position next = 0;   ///< the position after its newest token
  Held held;           ///< what llama.cpp's book has; our caches may have evicted some
  bool prompt_ended = false;
  std::size_t family =
      0;                ///< in a unified memory: sequences of one family (0: of none) were copied from one another and have cells in common
  Position shared = 0;  ///< two of a family have no cells in common from the smaller of their `shared` on

  /// A batch with tokens at [begin, end) went through.
  void add(Position begin, Position end) {
    held.add(begin, end);
    next = end;
  }
  /// Calls visit(cache, layer) for all layers that hold rows.
  void for_layers(auto&& visit) {
    for (auto& [kind, cache] : caches) {
      for (std::size_t layer = 0; layer < cache.shape().layers; ++layer) {
        if (cache.tokens(layer) > 0) { visit(cache, layer); }
      }
    }
  }
  void end_prompt() {
    if (prompt_ended) { return; }
    for_layers([](AnyCache& cache, std::size_t layer) { cache.end_prompt(layer); });
    prompt_ended = next > 0;
  }
  void begin_prompt() {
    if (!prompt_ended) { return; }
    for_layers([](AnyCache& cache, std::size_t layer) { cache.begin_prompt(layer); });
    prompt_ended = false;
  }
  /// Forgets all rows from a position on; raises an Error, with nothing changed, where a policy cannot.
  void truncate(Position position) {
    if (position >= next) { return; }
    if (position <= first) {
      *this = {};
      return;
    }
    Sequence cut = fork();
    for (auto& [kind, cache] : cut.caches) { cache.truncate(position); }
    cut.next = position;
    cut.held.remove(position, no_position);
    cut.shared = std::min(shared, position);
    *this = std::move(cut);
  }
  /// Forgets the rows at [begin, end), negative: from the beginning, to the end; in the middle once the prompt has ended.
  void remove(llama_pos begin, llama_pos end) {
    const Position from = begin < 0 ? 0 : static_cast<Position>(begin);
    const Position to = end < 0 ? next : static_cast<Position>(end);
    if (from >= to || from >= next) { return; }
    if (to >= next) { return truncate(from); }
    Sequence left = fork();
    left.for_layers([](AnyCache& cache, std::size_t layer) { cache.commit(layer); });
    for (auto& [kind, cache] : left.caches) { cache.remove(from, to); }
    left.held.remove(from, to);
    if (from <= first) { left.first = std::max(first, to); }
    if (from < shared && to >= shared) { left.shared = from; }
    *this = std::move(left);
  }
  /// Moves the rows at [begin, end), negative as above, by `delta` positions once the prompt has ended; rows that would stand before position 0
  /// go. Raises an Error, with nothing changed, where a row would pass another, or a policy cannot.
  void shift(llama_pos begin, llama_pos end, llama_pos delta) {
    const Position from = begin < 0 ? 0 : static_cast<Position>(begin);
    const Position to = end < 0 ? next : std::min(next, static_cast<Position>(end));
    if (delta == 0 || from >= to) { return; }
    require(prompt_ended, ErrorCode::phase, "llama_cpp: shift: the sequence's prompt is open, must have ended");
    require(std::int64_t{next} + delta <= std::numeric_limits<llama_pos>::max(), ErrorCode::position, "llama_cpp: shift: delta is ", delta,
            ", must leave positions of at most ", std::numeric_limits<llama_pos>::max());
    Sequence moved = fork();
    const Position lowest = delta < 0 ? static_cast<Position>(-std::int64_t{delta}) : 0;
    if (from < lowest) { moved.remove(static_cast<llama_pos>(from), static_cast<llama_pos>(std::min(lowest, to))); }
    const Position start = std::max(from, lowest);
    if (start < to) {
      moved.for_layers([](AnyCache& cache, std::size_t layer) { cache.commit(layer); });
      for (auto& [kind, cache] : moved.caches) { cache.shift(start, to, delta); }
      moved.held.shift(start, to, delta);
      const auto place = [delta](Position position) { return static_cast<Position>(std::int64_t{position} + delta); };
      if (start <= moved.first && moved.first < to) { moved.first = place(moved.first); }
      if (to == next) { moved.next = place(next); }
    }
    *this = std::move(moved);
  }
  [[nodiscard]] Sequence fork() const {
    Sequence copy;
    for (const auto& [kind, cache] : caches) { copy.caches.emplace(kind, cache.fork()); }
    copy.first = first, copy.next = next, copy.prompt_ended = prompt_ended;
    copy.held = held;
    copy.family = family, copy.shared = shared;
    return copy;
  }
  void account(MemoryReport& report) const noexcept {
    for (const auto& [kind, cache] : caches) { report.add(cache.memory()); }
  }

  // ------------------------------------------------------------------ saving

  /// The kinds of layers and, behind each, its cache.
  void save(const ByteSink& sink, Checksum checksum) const {
    const Out out{sink};
    out.number(format), out.number(caches.size()), out.number(first), out.number(next), out.number(prompt_ended ? 1 : 0);
    out.number(held.runs().size());
    for (const auto& [begin, end] : held.runs()) { out.number(begin), out.number(end); }
    for (const auto& [kind, cache] : caches) {
      const RotaryEmbedding& r = kind.rotary;
      for (const std::size_t n : {cache.shape().layers, kind.query_heads, kind.kv_heads, kind.key_width, kind.value_width,
                                  r.rope.rotary_dim, static_cast<std::size_t>(r.rope.pairing), r.factors.size(), kind.policy.size()}) {
        out.number(n);
      }
      out.real(r.rope.theta), out.real(r.rope.scale);
      for (const double factor : r.factors) { out.real(factor); }
      for (const char c : kind.policy) { out.number(static_cast<unsigned char>(c)); }
      kvcompress::save(cache, sink, checksum);
    }
  }
  /// make(kind, layers) gives an empty cache.
  [[nodiscard]] static Sequence load(const ByteSource& source, Checksum checksum, auto&& make) {
    const In in{source};
    Sequence loaded;
    require(in.number() == format, ErrorCode::format, "llama_cpp: load: this is no saved sequence, or one of another version");
    const std::size_t count = in.at_most("caches", 4096);
    loaded.first = static_cast<Position>(in.number()), loaded.next = static_cast<Position>(in.number());
    loaded.prompt_ended = in.number() != 0;
    Position end = 0;
    for (std::size_t runs = in.at_most("runs", 1U << 24U); runs > 0; --runs) {
      const auto begin = static_cast<Position>(in.at_most("a run's begin", loaded.next));
      require(begin >= end, ErrorCode::format, "llama_cpp: load: a run begins at ", begin, ", must be at least ", end);
      end = static_cast<Position>(in.at_most("a run's end", loaded.next));
      require(begin < end, ErrorCode::format, "llama_cpp: load: a run ends at ", end, ", must be more than ", begin);
      loaded.held.add(begin, end);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t layers = in.at_most("layers", 1U << 20U);
      Kind kind{};
      kind.query_heads = in.at_most("query heads", 1U << 20U), kind.kv_heads = in.at_most("KV heads", 1U << 20U);
      kind.key_width = in.at_most("key width", 1U << 20U), kind.value_width = in.at_most("value width", 1U << 20U);
      kind.rotary.rope.rotary_dim = in.at_most("rotary dim", 1U << 20U);
      kind.rotary.rope.pairing = in.at_most("pairing", 1) == 0 ? RopePairing::half_split : RopePairing::interleaved;
      kind.rotary.factors.resize(in.at_most("frequency factors", 1U << 20U));
      kind.policy.resize(in.at_most("the policy's name", 1U << 16U));
      kind.rotary.rope.theta = in.real(), kind.rotary.rope.scale = in.real();
      for (double& factor : kind.rotary.factors) { factor = in.real(); }
      for (char& c : kind.policy) { c = static_cast<char>(in.number()); }
      AnyCache cache = make(kind, layers);
      kvcompress::load(cache, source, checksum);
      loaded.caches.emplace(std::move(kind), std::move(cache));
    }
    return loaded;
  }

 private:
  static constexpr std::uint64_t format = 0x32'6C'6C'61'6D'61'6B'76;  // "vkamall2"
  struct Out {
    const ByteSink& sink;
    void number(std::uint64_t value) const {
      require(sink.write(sink.context, &value, sizeof value), ErrorCode::io, "llama_cpp: save: the sink failed");
    }
    void real(double value) const { number(std::bit_cast<std::uint64_t>(value)); }
  };
  struct In {
    const ByteSource& source;
    [[nodiscard]] std::uint64_t number() const {
      std::uint64_t value = 0;
      require(source.read(source.context, &value, sizeof value) == sizeof value, ErrorCode::format,
              "llama_cpp: load: the file is cut short");
      return value;
    }
    [[nodiscard]] std::size_t at_most(const char* name, std::uint64_t bound) const {
      const std::uint64_t value = number();
      require(value <= bound, ErrorCode::format, "llama_cpp: load: ", name, ": ", value, ", must be at most ", bound);
      return static_cast<std::size_t>(value);
    }
    [[nodiscard]] double real() const { return std::bit_cast<double>(number()); }
  };
};

}  // namespace kvcompress::llama_cpp
