// tests/lifecycle/executors_test.cpp - executors that break their word, and what attending through one takes of memory: nothing.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/policies/full.hpp"
#include "support/counting_memory.hpp"
#include "support/errors.hpp"
#include "support/policies.hpp"

static std::atomic<std::size_t> allocations{0};  // by operator new, in this program

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* address = std::malloc(bytes)) { return address; }
  throw std::bad_alloc();
}
void operator delete(void* address) noexcept { std::free(address); }
void operator delete(void* address, std::size_t) noexcept { std::free(address); }

namespace executors_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};

/// Executors that break their word: what they left out is missing, but it is said.
TEST(Executors, ThatDoOtherThanTheyMust) {
  const Text text(small, 20, 72);
  KVCache<Full<float>> cache(small);
  for (const std::size_t count : {std::size_t{19}, std::size_t{1}}) {
    cache.append(0, text.key_rows(20 - count, count), text.value_rows(20 - count, count), cache.tokens(0) == 0 ? 0 : 19);
    Outputs out(count * 64);
    std::vector<Workspace> workspaces(2, Workspace(small));
    const auto attend = [&](auto&& executor) {
      cache.attend(0, text.query_rows(20 - count, count), Output::tokens_first(out.data(), count, 4, 16), workspaces, executor);
    };
    expect_error_with(ErrorCode::input, {"worker is 2", "less than workspaces.size() = 2"}, [&] {
      attend([](std::size_t tasks, auto&& run) {
        for (std::size_t task = 0; task < tasks; ++task) { run(task, 2 * task); }
      });
    });
    expect_error_with(ErrorCode::input, {"task is 2", "less than 2"},
                      [&] { attend([](std::size_t tasks, auto&& run) { run(tasks, std::size_t{0}); }); });
    expect_error_with(ErrorCode::input, {"has run 0 tasks", "must run 2"}, [&] { attend([](std::size_t, auto&&) {}); });
    const Outputs before = out;
    attend(SerialExecutor{});
    EXPECT_NE(out, before);
  }
  auto any = any_cache<Full<float>>(small);
  any.append(0, text.key_rows(0, 1), text.value_rows(0, 1));
  std::vector<Workspace> workspaces(1, Workspace(small));
  Outputs out(64);
  expect_error_with(ErrorCode::input, {"executor is empty"}, [&] {
    any.attend(0, text.query_rows(0, 1), Output::tokens_first(out.data(), 1, 4, 16), workspaces, AnyExecutor{}, {});
  });
}

/// Neither the rows that threads share nor the heads take memory, from the heap or the handle.
TEST(Executors, ChosenAtRunTimeTakeNoMemory) {
  const Text text(small, 20, 73);
  CountingMemory memory;
  auto cache = any_cache<Full<float>>(small, {}, memory.handle());
  cache.append(0, text.key_rows(0, 20), text.value_rows(0, 20));
  std::vector<Workspace> workspaces(2, Workspace(small, memory.handle()));
  Outputs out(2 * 64);
  const AnyExecutor executor = [](std::size_t tasks, const std::function<void(std::size_t, std::size_t)>& run) {
    for (std::size_t task = 0; task < tasks; ++task) { run(task, task % 2); }
  };
  for (const std::size_t count : {std::size_t{1}, std::size_t{2}}) {
    const auto attend = [&] {
      cache.attend(0, text.query_rows(20 - count, count), Output::tokens_first(out.data(), count, 4, 16), workspaces, executor);
    };
    attend();
    memory.restart();
    const std::size_t before = allocations;
    attend();
    EXPECT_EQ(allocations - before, 0U) << count;
    EXPECT_EQ(memory.calls, 0U) << count;
  }
}

}  // namespace executors_test
