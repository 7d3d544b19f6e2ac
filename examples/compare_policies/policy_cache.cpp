// examples/compare_policies/policy_cache.cpp - the library's cache behind it, see policy_cache.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/policy_cache.hpp"

#include <numeric>
#include <optional>
#include <utility>

#include "compare_policies/clock.hpp"
#include "compare_policies/make_cache.hpp"

namespace comparison {

struct PolicyCache::Parts {
  kvcompress::AnyCache cache;
  kvcompress::Memory memory;
  std::optional<kvcompress::Workspace> workspace = {};  // made when first needed: a prompt needs none
  const BlockType* type = nullptr;
  std::vector<float> keys = {};
  std::vector<float> values = {};
  double seconds = 0.0;

  [[nodiscard]] kvcompress::Rows rows(const float* data, std::size_t tokens, std::size_t heads) const {
    return kvcompress::Rows::tokens_first(data, tokens, heads, cache.shape().head_dim);
  }
};

PolicyCache::PolicyCache(const std::string& policy, const kvcompress::Shape& shape, const kvcompress::Memory& memory)
    : parts_(new Parts{make_cache(policy, shape, memory), memory}) {}
PolicyCache::PolicyCache(std::unique_ptr<Parts> parts) noexcept : parts_(std::move(parts)) {}
PolicyCache::PolicyCache(PolicyCache&&) noexcept = default;
PolicyCache::~PolicyCache() = default;

void PolicyCache::give_prompt(const std::vector<LayerRows>& layers) {
  const kvcompress::Shape& shape = parts_->cache.shape();
  const auto rows = [&](const std::vector<float>& data, std::size_t heads) {
    return parts_->rows(data.data(), data.size() / (heads * shape.head_dim), heads);
  };
  std::vector<kvcompress::Position> positions(layers.front().keys.size() / (shape.kv_heads * shape.head_dim));
  std::iota(positions.begin(), positions.end(), kvcompress::Position{0});
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    parts_->cache.append(layer, rows(layers[layer].keys, shape.kv_heads), rows(layers[layer].values, shape.kv_heads));
    parts_->cache.observe(layer, rows(layers[layer].queries, shape.query_heads), positions, {}, nullptr);
    parts_->cache.end_prompt(layer);
  }
}

PolicyCache PolicyCache::fork() const { return PolicyCache(std::unique_ptr<Parts>(new Parts{parts_->cache.fork(), {}})); }
void PolicyCache::round_to(const BlockType& type) noexcept { parts_->type = &type; }

void PolicyCache::append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) {
  const kvcompress::Shape& shape = parts_->cache.shape();
  if (parts_->type != nullptr) {
    const std::size_t width = tokens * shape.kv_heads * shape.head_dim;
    parts_->keys.assign(keys, keys + width);
    parts_->values.assign(values, values + width);
    round_rows(*parts_->type, parts_->keys);
    round_rows(*parts_->type, parts_->values);
    keys = parts_->keys.data();
    values = parts_->values.data();
  }
  const Stopwatch watch(parts_->seconds);
  parts_->cache.append(layer, parts_->rows(keys, tokens, shape.kv_heads), parts_->rows(values, tokens, shape.kv_heads));
}

void PolicyCache::attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
                         std::size_t last_kv_head) {
  const Stopwatch watch(parts_->seconds);
  const kvcompress::Shape& shape = parts_->cache.shape();
  if (!parts_->workspace) { parts_->workspace.emplace(shape, parts_->memory); }
  parts_->cache.attend(layer, parts_->rows(queries, tokens, shape.query_heads),
                       kvcompress::Output::tokens_first(out, tokens, shape.query_heads, shape.head_dim), *parts_->workspace, {},
                       {first_kv_head, last_kv_head});
}

void PolicyCache::end_prompt(std::size_t layer) {
  const Stopwatch watch(parts_->seconds);
  parts_->cache.end_prompt(layer);
}

void PolicyCache::commit() {
  const Stopwatch watch(parts_->seconds);
  for (std::size_t layer = 0; layer < parts_->cache.shape().layers; ++layer) { parts_->cache.commit(layer); }
}

namespace {
std::size_t bytes_of(const kvcompress::MemoryReport& report) noexcept { return report.fast() - report.scratch; }
}  // namespace

double PolicyCache::seconds() const noexcept { return parts_->seconds; }
std::size_t PolicyCache::bytes() const noexcept { return bytes_of(parts_->cache.memory()); }
std::size_t PolicyCache::slow_bytes() const noexcept {
  const kvcompress::MemoryReport report = parts_->cache.memory();
  return report.slow_tier + report.slow_file;
}
std::size_t PolicyCache::fetched() const noexcept { return parts_->cache.fetched(); }

std::vector<double> PolicyCache::layer_bytes() const {
  const kvcompress::AnyCache& cache = parts_->cache;
  const kvcompress::Shape& shape = cache.shape();
  std::vector<double> bytes_by_layer;
  double sum = 0.0;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    kvcompress::MemoryReport report;
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      if (cache.keys(layer, head).facts().scope == kvcompress::Scope::lane) { cache.keys(layer, head).account(report); }
      if (cache.values(layer, head).facts().scope == kvcompress::Scope::lane) { cache.values(layer, head).account(report); }
      cache.state(layer, head).account(report);
      cache.index(layer, head).account(report);
    }
    bytes_by_layer.push_back(static_cast<double>(bytes_of(report)));
    sum += bytes_by_layer.back();
  }
  const double rest = (static_cast<double>(bytes()) - sum) / static_cast<double>(shape.layers);
  for (double& layer : bytes_by_layer) { layer += rest; }
  return bytes_by_layer;
}

}  // namespace comparison
