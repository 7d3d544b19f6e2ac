// examples/compare_policies/policies.cpp - caches by name, from the same registry that an engine would use.
// SPDX-License-Identifier: MIT
#include "compare_policies/policies.hpp"

#include <fmt/format.h>

#include "registry/registry.hpp"

namespace comparison {

std::unique_ptr<kvcompress::AnyCache> make_cache(const std::string& policy, const kvcompress::Shape& shape,
                                                 const kvcompress::Memory& memory) {
  return examples::registry().make(policy, shape, memory);
}

std::string list_of_parts() {
  std::string text = "A policy is an eviction, a storage, or both joined by '+': snapkv:budget=128+kivi4\n\n";
  for (const kvcompress::PartInfo& part : examples::registry().parts()) {
    text += fmt::format("  {:<10}  {:<8}  {}\n", part.name, part.kind, part.defaults.empty() ? "(no options)" : part.defaults);
  }
  return text + "\n\"full\" is another name of f16. The options stand with their defaults in the library; see --help for --budget.\n";
}

std::string simd_backend() { return kvcompress::simd::backend; }

}  // namespace comparison
