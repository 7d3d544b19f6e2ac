// include/kvcompress/any_cache.hpp - a KVCache whose policy is chosen at run time.
// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kvcompress/cache.hpp"
#include "kvcompress/cache/persist.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The verbs of KVCache behind virtual functions; see there for what they do and raise. Attention itself is not slower: one virtual
/// call per attend. AnyCache::of<Policy>(...) makes one; registry.hpp makes one from a name.
class AnyCache {
 public:
  virtual ~AnyCache() = default;

  [[nodiscard]] virtual const Shape& shape() const noexcept = 0;
  [[nodiscard]] virtual std::size_t tokens(std::size_t layer) const = 0;
  virtual void append(std::size_t layer, const Rows& keys, const Rows& values) = 0;
  virtual void append(std::size_t layer, const Rows& keys, const Rows& values, Position first_position) = 0;
  virtual void attend(std::size_t layer, const Rows& queries, const Output& out, Workspace& workspace, const AttendOptions& options,
                      HeadRange heads) = 0;
  /// An executor that may be chosen at run time: see KVCache::attend.
  using Executor = std::function<void(std::size_t tasks, const std::function<void(std::size_t task, std::size_t worker)>& run)>;
  virtual void attend(std::size_t layer, const Rows& queries, const Output& out, std::span<Workspace> workspaces, const Executor& executor,
                      const AttendOptions& options) = 0;
  virtual void observe(std::size_t layer, const Rows& queries, std::span<const Position> positions, const AttendOptions& options,
                       const float* log_sum_exp) = 0;
  virtual void commit(std::size_t layer) = 0;
  virtual void begin_prompt(std::size_t layer) = 0;
  virtual void end_prompt(std::size_t layer) = 0;
  virtual void truncate(Position position) = 0;
  virtual void remove(Position first, Position last) = 0;
  virtual void clear() = 0;
  virtual void reserve(std::size_t tokens) = 0;
  /// With the checksum of one's choice; kvcompress/persistence.hpp has both with one, and says what they promise.
  virtual void save(const ByteSink& sink, Checksum checksum) const = 0;
  virtual void load(const ByteSource& source, Checksum checksum) = 0;
  [[nodiscard]] virtual std::unique_ptr<AnyCache> copy() const = 0;
  [[nodiscard]] virtual std::unique_ptr<AnyCache> fork() const = 0;
  [[nodiscard]] virtual MemoryReport memory() const noexcept = 0;
  [[nodiscard]] virtual double bits_per_value() const noexcept = 0;
  [[nodiscard]] virtual std::size_t fetched() const noexcept = 0;
  [[nodiscard]] virtual std::vector<Position> kept(std::size_t layer, std::size_t kv_head) const = 0;
  [[nodiscard]] virtual const RowTable& table(std::size_t layer, std::size_t kv_head) const = 0;
  virtual void read(std::size_t layer, std::size_t kv_head, std::size_t row, float* key, float* value) = 0;

  template <class P>
  [[nodiscard]] static std::unique_ptr<AnyCache> of(const Shape& shape, const PolicyOptions<P>& options = {}, const Memory& memory = {});
};

namespace detail {

template <class P>
class CacheOf final : public AnyCache {
 public:
  explicit CacheOf(KVCache<P>&& cache) : cache_(std::move(cache)) {}

  [[nodiscard]] const Shape& shape() const noexcept override { return cache_.shape(); }
  [[nodiscard]] std::size_t tokens(std::size_t layer) const override { return cache_.tokens(layer); }
  void append(std::size_t layer, const Rows& keys, const Rows& values) override { cache_.append(layer, keys, values); }
  void append(std::size_t layer, const Rows& keys, const Rows& values, Position first_position) override {
    cache_.append(layer, keys, values, first_position);
  }
  void attend(std::size_t layer, const Rows& queries, const Output& out, Workspace& workspace, const AttendOptions& options,
              HeadRange heads) override {
    cache_.attend(layer, queries, out, workspace, options, heads);
  }
  void attend(std::size_t layer, const Rows& queries, const Output& out, std::span<Workspace> workspaces, const Executor& executor,
              const AttendOptions& options) override {
    require(static_cast<bool>(executor), ErrorCode::input, "attend: executor is empty, must be a function");
    cache_.attend(layer, queries, out, workspaces, executor, options);
  }
  void observe(std::size_t layer, const Rows& queries, std::span<const Position> positions, const AttendOptions& options,
               const float* log_sum_exp) override {
    cache_.observe(layer, queries, positions, options, log_sum_exp);
  }
  void commit(std::size_t layer) override { cache_.commit(layer); }
  void begin_prompt(std::size_t layer) override { cache_.begin_prompt(layer); }
  void end_prompt(std::size_t layer) override { cache_.end_prompt(layer); }
  void truncate(Position position) override { cache_.truncate(position); }
  void remove(Position first, Position last) override { cache_.remove(first, last); }
  void clear() override { cache_.clear(); }
  void reserve(std::size_t tokens) override { cache_.reserve(tokens); }
  void save(const ByteSink& sink, Checksum checksum) const override {
    if constexpr (Saved<P>) {
      Persistence<P>::save(cache_, sink, checksum);
    } else {
      fail(ErrorCode::option, "save: ", unsaved);
    }
  }
  void load(const ByteSource& source, Checksum checksum) override {
    if constexpr (Saved<P>) {
      Persistence<P>::load(cache_, source, checksum);
    } else {
      fail(ErrorCode::option, "load: ", unsaved);
    }
  }
  [[nodiscard]] std::unique_ptr<AnyCache> copy() const override { return std::make_unique<CacheOf>(KVCache<P>(cache_)); }
  [[nodiscard]] std::unique_ptr<AnyCache> fork() const override { return std::make_unique<CacheOf>(cache_.fork()); }
  [[nodiscard]] MemoryReport memory() const noexcept override { return cache_.memory(); }
  [[nodiscard]] double bits_per_value() const noexcept override { return cache_.bits_per_value(); }
  [[nodiscard]] std::size_t fetched() const noexcept override { return cache_.fetched(); }
  [[nodiscard]] std::vector<Position> kept(std::size_t layer, std::size_t kv_head) const override { return cache_.kept(layer, kv_head); }
  [[nodiscard]] const RowTable& table(std::size_t layer, std::size_t kv_head) const override { return cache_.table(layer, kv_head); }
  void read(std::size_t layer, std::size_t kv_head, std::size_t row, float* key, float* value) override {
    cache_.read(layer, kv_head, row, key, value);
  }

 private:
  static constexpr const char* unsaved =
      "a part of the policy does not say how it is saved; saving a KVCache of it does not compile, and says which";

  KVCache<P> cache_;
};

}  // namespace detail

template <class P>
std::unique_ptr<AnyCache> AnyCache::of(const Shape& shape, const PolicyOptions<P>& options, const Memory& memory) {
  return std::make_unique<detail::CacheOf<P>>(KVCache<P>(shape, options, memory));
}

}  // namespace kvcompress
