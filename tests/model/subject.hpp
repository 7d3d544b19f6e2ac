// tests/model/subject.hpp - a cache, its fork and what they held so far: performs a verb and compares with the model.
// SPDX-License-Identifier: MIT
#pragma once

#include <rapidcheck.h>

#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>

#include "kvcompress/persistence/buffers.hpp"
#include "model/numbers.hpp"
#include "registry/registry.hpp"

namespace kvcompress::test::model {

// What does not hold yet, and is not asked for.
/// Counts bytes, for several threads; can refuse the n-th allocation from now on, once.
class SharedMemory {
 public:
  [[nodiscard]] Memory handle() {
    return {[](void* self, std::size_t size, std::size_t alignment) { return static_cast<SharedMemory*>(self)->allocate(size, alignment); },
            [](void* self, void* address, std::size_t size, std::size_t) { static_cast<SharedMemory*>(self)->release(address, size); },
            this};
  }
  void refuse(std::size_t nth) { refused_ = nth; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void* allocate(std::size_t size, std::size_t alignment) {
    const std::lock_guard lock(mutex_);
    if (refused_ > 0 && --refused_ == 0) { return nullptr; }
    bytes_ += size;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  }
  void release(void* address, std::size_t size) {
    const std::lock_guard lock(mutex_);
    bytes_ -= size;
    std::free(address);
  }
  std::mutex mutex_;
  std::size_t refused_ = 0;
  std::size_t bytes_ = 0;
};

inline std::vector<std::byte> saved(const AnyCache& cache) {
  std::vector<std::byte> file;
  save(cache, sink(file));
  return file;
}

/// One of two caches: what it held after the last verb, by layer and head.
struct Tried {
  std::optional<AnyCache> cache{};
  std::array<std::array<std::vector<Position>, 2>, 2> kept{};
};

struct Subject {
  explicit Subject(const PolicyCase& of) : policy(of) { now.cache = examples::registry().make(of.spec, shape, memory.handle()); }

  /// Performs a verb that the model `before` allows; a refused allocation must leave all as it was, and the verb then works.
  void run(const Call& call, const Model& before) {
    Model after = before;
    after.apply(call);
    if (call.refused > 0) {
      perform_refused(call, before);
    } else {
      perform(call, before);
    }
    check(call, after);
  }

  const PolicyCase& policy;
  SharedMemory memory;
  Tried now;
  Tried fork;

 private:
  AnyCache& cache() { return *now.cache; }

  [[nodiscard]] std::vector<Held> all_held() {
    std::vector<Held> rows;
    for (std::size_t lane = 0; lane < 4; ++lane) { rows.push_back(held(cache(), lane / 2, lane % 2)); }
    return rows;
  }

  /// Tries a verb that is refused memory, then performs it; a twin that was never refused anything must then be saved in the same bytes.
  void perform_refused(const Call& call, const Model& before) {
    const std::vector<Held> rows = all_held();
    AnyCache twin = examples::registry().make(policy.spec, shape, memory.handle());
    const std::vector<std::byte> file = saved(cache());
    std::span<const std::byte> rest(file);
    load(twin, source(rest));
    memory.refuse(call.refused);
    bool refused = false;
    try {
      perform(call, before);
    } catch (const Error& error) {
      RC_ASSERT(error.code() == ErrorCode::memory);
      refused = true;
    }
    memory.refuse(0);
    if (!refused) { return; }
    RC_ASSERT(all_held() == rows);
    for (std::size_t layer = 0; layer < 2; ++layer) { RC_ASSERT(cache().tokens(layer) == before.now.layers[layer].next); }
    perform(call, before);
    if (call.kind == Kind::fork || call.kind == Kind::swap || call.kind == Kind::drop_fork) { return; }
    std::swap(*now.cache, twin);
    perform(call, before);
    std::swap(*now.cache, twin);
    RC_ASSERT(saved(cache()) == saved(twin));
  }

  void perform(const Call& call, const Model& before) {
    const Layer& layer = before.now.layers[call.layer];
    switch (call.kind) {
      case Kind::append: {
        Model after = before;
        after.apply(call);
        const std::size_t count = before.count(call);
        const Row* rows = after.now.layers[call.layer].rows.data() + after.now.layers[call.layer].rows.size() - count;
        const auto keys = numbers(rows, count, call.layer, Stream::key);
        const auto values = numbers(rows, count, call.layer, Stream::value);
        const Position first = before.first_position(call);
        const Rows key_rows = Rows::tokens_first(keys.data(), count, shape.kv_heads, shape.head_dim);
        const Rows value_rows = Rows::tokens_first(values.data(), count, shape.kv_heads, shape.head_dim);
        first == layer.next ? cache().append(call.layer, key_rows, value_rows) : cache().append(call.layer, key_rows, value_rows, first);
        break;
      }
      case Kind::attend:
        attend(call, layer);
        break;
      case Kind::observe: {
        const std::size_t count = queries(call, layer);
        const Row* rows = layer.rows.data() + layer.rows.size() - count;
        const auto q = numbers(rows, count, call.layer, Stream::query);
        std::vector<Position> positions;
        for (std::size_t i = 0; i < count; ++i) { positions.push_back(rows[i].position); }
        cache().observe(call.layer, Rows::tokens_first(q.data(), count, shape.query_heads, shape.head_dim), positions, {}, nullptr);
        break;
      }
      case Kind::commit:
        cache().commit(call.layer);
        break;
      case Kind::end_prompt:
        cache().end_prompt(policy.together ? 0 : call.layer);
        if (policy.together) {
          memory.refuse(0);  // what is left of a refusal concerns the first layer
          cache().end_prompt(1);
        }
        break;
      case Kind::truncate:
        cache().truncate(before.truncate_to(call));
        break;
      case Kind::remove:
        cache().remove(before.removed(call).first, before.removed(call).second);
        break;
      case Kind::fork:
        fork = {now.cache->fork(), now.kept};
        break;
      case Kind::swap:
        std::swap(now, fork);
        break;
      case Kind::drop_fork:
        fork = {};
        break;
      case Kind::save_load: {
        const std::vector<std::byte> file = saved(cache());
        std::span<const std::byte> rest(file);
        load(cache(), source(rest));
        RC_ASSERT(rest.empty());
        RC_ASSERT(saved(cache()) == file);
        break;
      }
      case Kind::copy:
        now.cache = AnyCache(*now.cache);
        break;
      case Kind::reserve:
        cache().reserve(call.a * 4);
        break;
      case Kind::clear:
        cache().clear();
        break;
    }
  }

  [[nodiscard]] std::size_t queries(const Call& call, const Layer& layer) const {
    return policy.observes ? layer.unseen() : std::min<std::size_t>(layer.open, call.a % 6 + 1);
  }

  void attend(const Call& call, const Layer& layer) {
    const std::size_t count = queries(call, layer);
    const Row* rows = layer.rows.data() + layer.rows.size() - count;
    const auto q = numbers(rows, count, call.layer, Stream::query);
    const Rows query_rows = Rows::tokens_first(q.data(), count, shape.query_heads, shape.head_dim);
    std::vector<float> out(count * shape.query_heads * shape.head_dim, -1.0F);
    const Output output = Output::tokens_first(out.data(), count, shape.query_heads, shape.head_dim);
    AttendOptions options{};
    if (call.b % 4 == 1) { options.window = call.a % 40 + 1; }
    if (call.b % 4 == 2) { options.soft_cap = 2.0F; }
    if (call.b % 4 == 3) { options.scale = 0.1F; }
    if (call.b % 8 == 5 && policy.budget == 0) { options.start = std::min<Position>(rows[0].position, static_cast<Position>(call.a)); }
    Workspace first(shape, memory.handle());
    switch (call.refused > 0 ? 0 : call.b / 8 % 3) {
      case 0:
        cache().attend(call.layer, query_rows, output, first, options, {});
        break;
      case 1: {  // a thread for each KV head
        bool failed = false;
        std::thread other([&] {
          try {
            Workspace second(shape, memory.handle());
            cache().attend(call.layer, query_rows, output, second, options, {1, 2});
          } catch (const Error&) { failed = true; }
        });
        try {
          cache().attend(call.layer, query_rows, output, first, options, {0, 1});
        } catch (...) {
          other.join();
          throw;
        }
        other.join();
        if (failed) { fail(ErrorCode::memory, "the other thread failed"); }
        break;
      }
      default: {  // tasks backwards, by two workers
        std::vector<Workspace> workers;
        workers.push_back(std::move(first));
        workers.emplace_back(shape, memory.handle());
        cache().attend(
            call.layer, query_rows, output, workers,
            [](std::size_t tasks, const auto& task) {
          for (std::size_t i = tasks; i-- > 0;) { task(i, i % 2); }
            },
            options);
        break;
      }
    }
    check_outputs(call.layer, rows, count, q, out, options);
  }

  void check_outputs(std::size_t layer, const Row* rows, std::size_t count, const std::vector<float>& q, const std::vector<float>& out,
                     const AttendOptions& options) {
    const std::array lanes{held(cache(), layer, 0), held(cache(), layer, 1)};
    const std::size_t apart = count > 8 ? 5 : 1;  // of a long prompt every fifth query, its last one among them
    for (std::size_t head = 0; head < shape.query_heads; ++head) {
      const Held& lane = lanes[head / shape.group()];
      const bool renumbers = cache().table(layer, head / shape.group()).renumbers();
      for (std::size_t t = (count - 1) % apart; t < count; t += apart) {
        const std::size_t at = (t * shape.query_heads + head) * shape.head_dim;
        std::array<double, 16> expected{};
        if (!policy.hides) { attention(lane, renumbers, q.data() + at, rows[t].position, options, expected.data()); }
        for (std::size_t c = 0; c < shape.head_dim; ++c) {
          const auto number = static_cast<double>(out[at + c]);
          if (policy.hides) {
            RC_ASSERT(std::abs(number) < 2.5);  // a mean of values
          } else {
            const double off = std::abs(number - expected[c]) / std::max(1.0, std::abs(expected[c]));
            if (!(off <= policy.tolerance)) {
              RC_FAIL("output of head " + std::to_string(head) + ", token " + std::to_string(t) + ", channel " + std::to_string(c) +
                      ": got " + std::to_string(number) + ", right " + std::to_string(expected[c]));
            }
          }
        }
      }
    }
  }

  // ------------------------------------------------------------------ what holds after every verb

  void check(const Call& call, const Model& after) {
    const std::size_t shared = fork.cache ? cache().memory().shared : 0;
    RC_ASSERT(cache().memory().total() + (fork.cache ? fork.cache->memory().total() : 0) - shared == memory.bytes());
    for (std::size_t layer = 0; layer < 2; ++layer) {
      RC_ASSERT(cache().tokens(layer) == after.now.layers[layer].next);
      for (std::size_t head = 0; head < 2; ++head) { check_rows(call, after.now.layers[layer], layer, head); }
    }
    if (call.kind == Kind::swap || call.kind == Kind::save_load || call.kind == Kind::truncate || call.kind == Kind::end_prompt) {
      for (std::size_t lane = 0; lane < 4; ++lane) { check_numbers(after.now.layers[lane / 2], lane / 2, lane % 2); }
    }
  }

  void check_rows(const Call& call, const Layer& layer, std::size_t layer_index, std::size_t head) {
    const std::vector<Position> kept = cache().kept(layer_index, head);
    std::vector<Position>& before = now.kept[layer_index][head];
    std::vector<Position> possible;  // those it had, and new ones, that were neither removed nor truncated
    const Position known = before.empty() ? 0 : before.back() + 1;
    for (const Row& row : layer.rows) {
      const bool appended = call.kind == Kind::append && call.layer == layer_index && row.position >= known;
      if (appended || std::binary_search(before.begin(), before.end(), row.position)) { possible.push_back(row.position); }
    }
    const bool decides = policy.budget > 0 && call.layer == layer_index &&
                         (call.kind == Kind::commit || call.kind == Kind::end_prompt || call.kind == Kind::append);
    if (!decides) {
      RC_ASSERT(kept == possible);
    } else {
      RC_ASSERT(std::includes(possible.begin(), possible.end(), kept.begin(), kept.end()));
      const std::size_t open = layer.open;
      const std::size_t committed = kept.size() - std::min(kept.size(), open);
      if (!layer.in_prompt) { RC_ASSERT(committed <= policy.budget + (call.kind == Kind::end_prompt ? 0 : policy.decoded)); }
      const std::size_t stay = std::min(possible.size(), open + policy.recent);  // the newest, and all that are open
      RC_ASSERT(kept.size() >= stay &&
                std::equal(kept.end() - static_cast<std::ptrdiff_t>(stay), kept.end(), possible.end() - static_cast<std::ptrdiff_t>(stay)));
      const auto sinks = static_cast<std::ptrdiff_t>(std::min(possible.size(), policy.sinks));
      RC_ASSERT(std::equal(possible.begin(), possible.begin() + sinks, kept.begin()));
      const std::size_t always = policy.decoded > 0 ? std::min(policy.budget, policy.decoded) : policy.budget;
      if (possible.size() <= always) { RC_ASSERT(kept == possible); }  // decoded rows may have a budget of their own
    }
    before = kept;
  }

  /// Decoded numbers are those that were appended, within the policy's error.
  void check_numbers(const Layer& layer, std::size_t layer_index, std::size_t head) {
    if (policy.row_error == unknown) { return; }
    const Held lane = held(cache(), layer_index, head);
    for (std::size_t i = 0; i < lane.positions.size(); ++i) {
      const auto row = std::lower_bound(layer.rows.begin(), layer.rows.end(), lane.positions[i],
                                        [](const Row& one, Position at) { return one.position < at; });
      RC_ASSERT(row != layer.rows.end() && row->position == lane.positions[i]);
      for (const bool key : {true, false}) {
        const auto right = numbers(&*row, 1, layer_index, key ? Stream::key : Stream::value);
        const std::vector<float>& got = key ? lane.keys : lane.values;
        for (std::size_t c = 0; c < shape.head_dim; ++c) {
          const double off =
              std::abs(static_cast<double>(got[i * shape.head_dim + c]) - static_cast<double>(right[head * shape.head_dim + c]));
          RC_ASSERT(off <= policy.row_error);
        }
      }
    }
  }
};

}  // namespace kvcompress::test::model
