// examples/compare_policies/policy_cache.hpp - a policy's cache as the engine's attention, with a clock.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "compare_policies/block_types.hpp"
#include "compare_policies/recording.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"
#include "llama/attention.hpp"

namespace comparison {

/// For an engine of one thread. What is behind it is compiled once, in policy_cache.cpp: few sources need the library's cache.
class PolicyCache final : public llama::Attention {
 public:
  /// The cache that a policy names; raises the registry's Error. `memory` must outlive it.
  PolicyCache(const std::string& policy, const kvcompress::Shape& shape, const kvcompress::Memory& memory = {});
  PolicyCache(PolicyCache&&) noexcept;
  PolicyCache& operator=(PolicyCache&&) = delete;
  ~PolicyCache() override;

  /// The recorded prompt: rows, queries for policies that observe, end of prompt.
  void give_prompt(const std::vector<LayerRows>& layers);
  /// The same rows in another cache, whose clock is at 0.
  [[nodiscard]] PolicyCache fork() const;
  /// From now on rows are rounded to a type of llama.cpp's before the cache has them; it must outlive this object.
  void round_to(const BlockType& type) noexcept;

  void append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) override;
  void attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
              std::size_t last_kv_head) override;
  void end_prompt(std::size_t layer) override;
  /// Ends the open step of every layer, so that the policy has seen all tokens.
  void commit();

  /// CPU seconds spent in append, attend, end_prompt and commit so far.
  [[nodiscard]] double seconds() const noexcept;
  /// All but scratch and the slow tier.
  [[nodiscard]] std::size_t bytes() const noexcept;
  [[nodiscard]] std::size_t slow_bytes() const noexcept;
  /// Bytes copied from the slow tier.
  [[nodiscard]] std::size_t fetched() const noexcept;
  /// What the cache holds, layer by layer; what stores of several layers hold together, and what belongs to none, in equal parts.
  [[nodiscard]] std::vector<double> layer_bytes() const;

 private:
  struct Parts;
  explicit PolicyCache(std::unique_ptr<Parts> parts) noexcept;
  std::unique_ptr<Parts> parts_;
};

}  // namespace comparison
