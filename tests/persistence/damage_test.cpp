// tests/persistence/damage_test.cpp - damaged, short and forged files, sinks, sources and memory that fail: an error, and nothing has changed.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <random>

#include "registry/registry.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace damage_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape small{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr std::size_t prompt = 148;
constexpr std::size_t tokens = 156;

const std::vector<std::string>& policies() {
  static const std::vector<std::string> some{"f16",
                                             "h2o:budget=80+kivi4:residual=32",
                                             "streaming:window=80+kivi2:residual=32",
                                             "snapkv:budget=40,window=8",
                                             "gear4:buffer=8",
                                             "xkv",
                                             "shadowkv:budget=16,outlier_chunks=2,rank=16",
                                             "quest:budget=32,dense_layers=0",
                                             "landmarks:budget=16,outlier_chunks=2"};
  return some;
}
/// A prompt and some tokens; the last is open in the first layer.
void fill(AnyCache& cache, const Text& text) {
  for (const std::size_t layer : {0U, 1U}) { static_cast<void>(step(cache, text, 0, prompt, layer)); }
  for (const std::size_t layer : {0U, 1U}) { cache.end_prompt(layer); }
  for (std::size_t t = prompt; t < tokens; ++t) {
    for (std::size_t layer = 0; layer < (t + 1 < tokens ? 2U : 1U); ++layer) { static_cast<void>(step(cache, text, t, 1, layer)); }
  }
}

/// Loads, which must fail with `code`.
void expect_error(AnyCache& cache, std::span<const std::byte> file, const std::string& where, ErrorCode code = ErrorCode::format) {
  try {
    load(cache, source(file));
    ADD_FAILURE() << where << " is loaded";
  } catch (const Error& error) { EXPECT_EQ(error.code(), code) << where << ": " << error.what(); }
}

class Damage : public ::testing::TestWithParam<std::string> {
 protected:
  Damage() {
    fill(original, text);
    file = saved(original);
    const Text other(small, 20, 92);
    static_cast<void>(step(cache, other, 0, 20));
    before = saved(cache);
  }
  const Text text{small, tokens + 2, 91};
  AnyCache original = registry().make(GetParam(), small);
  AnyCache cache = registry().make(GetParam(), small);
  File file;
  File before;
};
INSTANTIATE_TEST_SUITE_P(Policies, Damage, ::testing::ValuesIn(policies()), [](const auto& of) {
  std::string name = of.param.substr(0, of.param.find(':'));
  std::erase(name, '+');
  return name;
});

TEST_P(Damage, AFileThatIsCutShortIsRefused) {
  for (std::size_t length = 0; length < file.size(); length += length < 700 ? 1 : 1 + file.size() / 211) {
    expect_error(cache, {file.data(), length}, std::to_string(length) + " bytes");
  }
  for (const Content& content : contents(file)) { expect_error(cache, {file.data(), content.first}, "without a content"); }
  EXPECT_TRUE(saved(cache) == before);
}

TEST_P(Damage, AChangedByteIsRefused) {
  for (std::size_t at = 0; at < file.size(); at += at < 700 ? 1 : 1 + file.size() / 211) {
    file[at] ^= std::byte{0x10};
    expect_error(cache, file, "byte " + std::to_string(at));
    file[at] ^= std::byte{0x10};
  }
  EXPECT_TRUE(saved(cache) == before);
  load_from(cache, file);
  EXPECT_TRUE(saved(cache) == file);
}

/// A forged file may be loaded, since nothing tells wrong numbers from right ones; but it leads nowhere outside of the cache.
TEST_P(Damage, AForgedFileIsRefusedOrRead) {
  const std::vector<Content> all = contents(file);
  std::mt19937 rng(93);
  std::size_t read = 0;
  for (std::size_t round = 0; round < 400; ++round) {
    const Content& content = all[1 + rng() % (all.size() - 1)];
    const std::size_t front = std::min<std::size_t>(content.bytes, round % 2 == 0 ? 100 : content.bytes);  // sizes stand there
    File forged = file;
    for (std::size_t changes = 1 + rng() % 2; changes > 0; --changes) {
      forged[content.first + rng() % front] = static_cast<std::byte>(rng());
    }
    seal(forged, content);
    auto victim = registry().make(GetParam(), small);
    std::span<const std::byte> from(forged);
    try {
      load(victim, source(from));
      ++read;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::format) << error.what();
      continue;
    }
    static_cast<void>(saved(victim));
    static_cast<void>(victim.memory());
    static_cast<void>(AnyCache(victim));
    try {
      for (std::size_t layer = 0; layer < 2; ++layer) {
        if (victim.tokens(layer) < no_position - 1) { static_cast<void>(step(victim, text, tokens, 1, layer)); }
      }
    } catch (const Error&) {  // forged phases
    }
  }
  EXPECT_GT(read, 0U);
  EXPECT_LT(read, 400U);
}

TEST_P(Damage, ASinkThatFailsIsAnError) {
  struct Short {
    std::size_t left;
  } target{file.size() / 2};
  const ByteSink half_of_it{[](void* context, const void*, std::size_t bytes) {
    auto& to = *static_cast<Short*>(context);
    const bool fits = bytes <= to.left;
    to.left -= fits ? bytes : to.left;
    return fits;
                            },
                            &target};
  try {
    save(original, half_of_it);
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
    EXPECT_NE(std::string(error.what()).find("the sink did not take"), std::string::npos);
  }
  EXPECT_TRUE(saved(original) == file);
}

TEST_P(Damage, ASourceThatFailsIsAnError) {
  for (const std::size_t calls : {0U, 1U, 2U, 3U, 7U}) {
    struct Failing {
      std::span<const std::byte> from;
      std::size_t left;
    } origin{file, calls};
    const ByteSource failing{[](void* context, void* to, std::size_t bytes) {
      auto& self = *static_cast<Failing*>(context);
      if (self.left == 0) { return ByteSource::failed; }
      --self.left;
      const ByteSource inner = source(self.from);
      return inner.read(inner.context, to, bytes);
                             },
                             &origin};
    try {
      load(cache, failing);
      ADD_FAILURE() << "loaded";
    } catch (const Error& error) { EXPECT_EQ(error.code(), ErrorCode::io) << error.what(); }
    EXPECT_TRUE(saved(cache) == before);
  }
}

TEST_P(Damage, MemoryThatFailsIsAnErrorAndLosesNothing) {
  CountingMemory memory;
  {
    auto victim = registry().make(GetParam(), small, memory.handle());
    static_cast<void>(step(victim, text, 0, 20));
    const File held = saved(victim);
    const std::size_t live = memory.live;
    bool failed = true;
    for (std::size_t allowed = 0; failed; allowed += 1 + allowed / 16) {
      memory.refuse_after(allowed);
      std::span<const std::byte> from(file);
      failed = false;
      try {
        load(victim, source(from));
      } catch (const Error& error) {
        failed = true;
        EXPECT_EQ(error.code(), ErrorCode::memory) << error.what();
      }
      memory.allow();
      if (!failed) { break; }
      ASSERT_EQ(memory.live, live) << allowed;
      ASSERT_TRUE(saved(victim) == held) << allowed;
    }
    EXPECT_TRUE(saved(victim) == file);
    memory.refuse_after(0);
    File none;
    EXPECT_THROW(save(victim, sink(none)), Error);
    memory.allow();
  }
  EXPECT_EQ(memory.live, 0U);
}

}  // namespace damage_test
