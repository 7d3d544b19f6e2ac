// include/kvcompress/eviction/scorers/expected_attention.hpp - Expected Attention's score: what queries to come will give a row, as far as those
// of the prompt tell.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Mean and second moment of the queries that a lane has seen, before their rotary embedding, per query head. Empty until the first one.
class QueryMoments {
 public:
  explicit QueryMoments(const Memory& memory) : means_(Allocator<double>(memory)), products_(Allocator<double>(memory)) {}

  void make_room(std::size_t group, std::size_t width, bool covariance) {
    means_.resize(group * width);
    if (covariance) { products_.resize(group * width * width); }
    width_ = width;
  }
  void add(std::size_t head, const float* query) noexcept {
    double* mean = means_.data() + head * width_;
    for (std::size_t c = 0; c < width_; ++c) { mean[c] += static_cast<double>(query[c]); }
    for (std::size_t a = 0; !products_.empty() && a < width_; ++a) {
      double* row = products_.data() + (head * width_ + a) * width_;
      for (std::size_t b = 0; b < width_; ++b) { row[b] += static_cast<double>(query[a]) * static_cast<double>(query[b]); }
    }
    count_ += head == 0 ? 1U : 0U;
  }
  [[nodiscard]] bool skips(std::size_t head, std::size_t sinks) noexcept {
    if (head == 0) { ++shown_; }
    return shown_ <= sinks;
  }
  [[nodiscard]] double mean(std::size_t head, std::size_t c) const noexcept {
    return count_ == 0 ? 0.0 : means_[head * width_ + c] / static_cast<double>(count_);
  }
  [[nodiscard]] double covariance(std::size_t head, std::size_t a, std::size_t b) const noexcept {
    if (count_ == 0) { return 0.0; }
    return products_[(head * width_ + a) * width_ + b] / static_cast<double>(count_) - mean(head, a) * mean(head, b);
  }

  static void reserve(std::size_t) noexcept {}
  static void resize(std::size_t) noexcept {}
  static void move(std::size_t, std::size_t) noexcept {}
  static void erase(std::size_t, std::size_t) noexcept {}
  /// The prompt has ended.
  void compact(std::size_t) {
    Vector<double>(means_.get_allocator()).swap(means_);
    Vector<double>(products_.get_allocator()).swap(products_);
    count_ = shown_ = 0;
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::policy_state, means_);
    report.add(&MemoryReport::policy_state, products_);
  }
  static void persist(auto& self, auto& archive, std::size_t) {
    archive.number(self.count_);
    archive.number(self.shown_);
    archive.number(self.width_);
    archive.vector(self.means_);
    archive.vector(self.products_);
    const bool fits = self.means_.empty() ? self.products_.empty()
                                          : self.width_ > 0 && self.means_.size() % self.width_ == 0 &&
                                                (self.products_.empty() || self.products_.size() == self.means_.size() * self.width_);
    archive.check(fits, "the moments of its queries are not of its shape");
  }

 private:
  std::size_t count_ = 0;
  std::size_t shown_ = 0;
  std::size_t width_ = 0;
  Vector<double> means_;     // (group, key width) sums
  Vector<double> products_;  // (group, key width, key width) sums
};

/// The attention that queries of the next `future` positions are expected to give a row, if they are drawn as those of the prompt were, times
/// the length of its value. Scores are compared over the query heads of a KV head by their mean; the first `first_rows` rows stay.
///
/// Observes: the queries of the prompt, before their rotary embedding, but for the first `first_rows`. Cost: key width^2 per query and head, and
/// per row and head at the end of a prompt; 8 * group * key width^2 bytes per lane while a prompt is open. A prompt's queries cannot be taken
/// back by truncate.
struct ExpectedQueries : ScoredRows {
  static constexpr std::string_view name = "expected_queries";
  static constexpr Needs may{.decides = Decides::once, .queries = true};
  using State = QueryMoments;
  struct Options {
    std::size_t future = 512;    ///< positions that queries are expected at, 1 to 65536
    std::size_t first_rows = 4;  ///< sinks: first rows, and queries, left out of all statistics; they stay
    bool covariance = true;      ///< the second moment counts too
    bool value_norm = true;      ///< times the length of the value
    double epsilon = 0.0;        ///< added to the probability before that, 0 to 1
    LoadedNumbers means{};       ///< (layers, query heads, key width) of queries of other texts, instead of the prompt's; or empty
    LoadedNumbers spreads{};     ///< (layers, query heads, key width, key width): their covariance; empty or not as `means`
    static void fields(auto& options, auto&& field) {
      field("future", options.future);
      field("first_rows", options.first_rows);
      field("covariance", options.covariance);
      field("value_norm", options.value_norm);
      field("epsilon", options.epsilon);
    }
    static void unnamed_fields(auto& options, auto&& field) {
      field("means", options.means);
      field("spreads", options.spreads);
    }
  };

  static void validate(const Options& options, const Shape& shape) {
    if (options.means.size() > 0) {
      options.means.check("expected_queries: means", shape.sum(means_of), "layers * query_heads * the key width");
      options.spreads.check("expected_queries: spreads", options.covariance ? shape.sum(spreads_of) : 0,
                            "layers * query_heads * the key width^2, or none without covariance");
    }
    check_bounds("expected_queries: future", options.future, 1, 65536);
    check_bounds("expected_queries: first_rows", options.first_rows);
    require(options.epsilon >= 0.0 && options.epsilon <= 1.0, ErrorCode::option, "expected_queries: epsilon is ", options.epsilon,
            ", must be 0 to 1");
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory& memory) { return State(memory); }
  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 0; }

  static void make_room_for_queries(const Options& options, State& state, const Shape& shape) {
    state.make_room(shape.group(), shape.key_width(), options.covariance);
  }
  static void observe_query(const Options& options, State& state, std::size_t head, const float* query) noexcept {
    if (!state.skips(head, options.first_rows)) { state.add(head, query); }
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Shape& shape = lane.site.shape;
    const std::size_t width = shape.key_width();
    const std::size_t group = shape.group();
    const Turned turned = turned_moments(options, lane, moment);
    const auto first = static_cast<Position>(options.first_rows + moment.padding);
    const auto counts = [&](std::size_t r) { return rows.alive(r) && rows.position(r) >= first; };
    constexpr float none = -std::numeric_limits<float>::infinity();
    Vector<float> logits = numbers_of<float>(moment, group * rows.rows());  // (group, rows)
    std::fill(logits.begin(), logits.end(), none);
    const float scale = 1.0F / math::sqrt(static_cast<float>(width));
    for_each_key(lane, rows, moment, [&](std::size_t r, const float* key) {
      for (std::size_t head = 0; counts(r) && head < group; ++head) {
        float logit = detail::dot_of(turned.means.data() + head * width, key, width) * scale;
        for (std::size_t a = 0; options.covariance && a < width; ++a) {
          logit += 0.5F * scale * scale * key[a] * detail::dot_of(turned.spreads.data() + (head * width + a) * width, key, width);
        }
        logits[head * rows.rows() + r] = logit;
      }
    });
    std::fill(out.begin(), out.end(), 0.0F);
    for (std::size_t head = 0; head < group; ++head) {
      const std::span<const float> own(logits.data() + head * rows.rows(), rows.rows());
      const float top = kernels::largest_of(own.data(), own.size());
      double sum = 0.0;
      for (const float logit : own) { sum += logit == none ? 0.0 : static_cast<double>(math::exp(logit - top)); }
      for (std::size_t r = 0; r < own.size(); ++r) {
        if (own[r] != none) { out[r] += math::exp(own[r] - top) / static_cast<float>(sum * static_cast<double>(group)); }
      }
    }
    if (options.value_norm) {
      for_each_value(lane, rows, moment, [&](std::size_t r, const float* value) {
        out[r] = (out[r] + static_cast<float>(options.epsilon)) * math::sqrt(detail::dot_of(value, value, shape.value_width()));
      });
    }
    for (std::size_t r = 0; r < out.size(); ++r) {
      if (!counts(r)) { out[r] = std::numeric_limits<float>::max(); }
    }
    return out;
  }

 protected:
  /// What the mean query of the prompt is at the next `future` positions, on average: (group, key width).
  static Vector<float> mean_queries(std::size_t future, const LaneView& lane, const Moment& moment) {
    const Shape& shape = lane.site.shape;
    const std::size_t width = shape.key_width();
    const State& state = lane.state<State>();
    const Vector<float> turn = mean_turn(future, lane, moment);
    Vector<float> means = numbers_of<float>(moment, shape.group() * width);
    for (std::size_t i = 0; i < means.size(); ++i) {
      means[i] = static_cast<float>(turned(shape, turn, i % width, [&](std::size_t c) { return state.mean(i / width, c); }));
    }
    return means;
  }

 private:
  /// The channel that turns together with `c`, and whether `c` is the first of the two; c itself if it does not turn.
  static std::pair<std::size_t, bool> partner(const Shape& shape, std::size_t c) noexcept {
    const std::size_t pairs = shape.rotary_pairs();
    if (c >= 2 * pairs) { return {c, true}; }
    if (shape.rope.pairing == RopePairing::interleaved) { return {c ^ 1U, c % 2 == 0}; }
    return {c < pairs ? c + pairs : c - pairs, c < pairs};
  }
  /// The mean rotation of the positions to come: cosines where a pair's first channel is, sines at its second.
  static Vector<float> mean_turn(std::size_t future, const LaneView& lane, const Moment& moment) {
    const Shape& shape = lane.site.shape;
    const std::size_t width = shape.key_width();
    Vector<float> turn = numbers_of<float>(moment, width);
    Vector<float> unit = numbers_of<float>(moment, width);
    for (std::size_t t = 0; t < future; ++t) {
      for (std::size_t c = 0; c < width; ++c) { unit[c] = partner(shape, c).second ? 1.0F : 0.0F; }
      lane.turn(static_cast<std::int64_t>(moment.prompt_tokens + t), unit.data());
      for (std::size_t c = 0; c < width; ++c) { turn[c] += unit[c] / static_cast<float>(future); }
    }
    return turn;
  }
  /// One row of moments, `from(c)`, turned by the mean rotation: channel c of it.
  static double turned(const Shape& shape, std::span<const float> turn, std::size_t c, auto&& from) noexcept {
    const auto [other, first] = partner(shape, c);
    if (other == c) { return from(c); }
    const double cosine = static_cast<double>(turn[first ? c : other]);
    const double sine = static_cast<double>(turn[first ? other : c]);
    return first ? from(c) * cosine - from(other) * sine : from(other) * sine + from(c) * cosine;
  }
  /// What the queries to come are like, per head of the group.
  struct Turned {
    Vector<float> means;    // (group, width)
    Vector<float> spreads;  // (group, width, width) covariance; empty without
  };
  static std::size_t means_of(const Shape& layer) noexcept { return layer.query_heads * layer.key_width(); }
  static std::size_t spreads_of(const Shape& layer) noexcept { return means_of(layer) * layer.key_width(); }
  static Turned turned_moments(const Options& options, const LaneView& lane, const Moment& moment) {
    const Shape& shape = lane.site.shape;
    const State& state = lane.state<State>();
    const std::size_t width = shape.key_width();
    const std::size_t group = shape.group();
    const Vector<float> turn = mean_turn(options.future, lane, moment);
    const Site& site = lane.site;  // in what is given its numbers lie behind these
    const std::size_t means_before = site.model.sum_before(site.layer, means_of) + site.kv_head * group * width;
    const std::size_t spreads_before = site.model.sum_before(site.layer, spreads_of) + site.kv_head * group * width * width;
    const bool given = options.means.size() > 0;
    const auto mean = [&](std::size_t head, std::size_t c) {
      return given ? static_cast<double>(options.means.all()[means_before + head * width + c]) : state.mean(head, c);
    };
    const auto covariance = [&](std::size_t head, std::size_t a, std::size_t b) {
      return given ? static_cast<double>(options.spreads.all()[spreads_before + (head * width + a) * width + b])
                   : state.covariance(head, a, b);
    };
    Turned all{numbers_of<float>(moment, group * width), numbers_of<float>(moment, options.covariance ? group * width * width : 0)};
    for (std::size_t head = 0; head < group; ++head) {
      for (std::size_t a = 0; a < width; ++a) {
        all.means[head * width + a] = static_cast<float>(turned(shape, turn, a, [&](std::size_t c) { return mean(head, c); }));
        for (std::size_t b = 0; options.covariance && b < width; ++b) {
          all.spreads[(head * width + a) * width + b] = static_cast<float>(turned(shape, turn, a, [&](std::size_t c) {
            return turned(shape, turn, b, [&](std::size_t d) { return covariance(head, c, d); });
          }));
        }
      }
    }
    return all;
  }
};

}  // namespace kvcompress
