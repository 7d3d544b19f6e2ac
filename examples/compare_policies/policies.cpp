// examples/compare_policies/policies.cpp - the registry, the same one that an engine would use; compiling it takes a while.
// SPDX-License-Identifier: MIT
#include "compare_policies/policies.hpp"

#include <fmt/format.h>

#include "kvcompress/registry.hpp"

namespace comparison {
namespace {

const kvcompress::Registry& registry() {
  static const kvcompress::Registry standard = kvcompress::Registry::standard();
  return standard;
}

}  // namespace

std::unique_ptr<kvcompress::AnyCache> make_cache(const std::string& policy, const kvcompress::Shape& shape,
                                                 const kvcompress::Memory& memory) {
  return registry().make(policy, shape, memory);
}

std::string list_of_parts() {
  std::string text = "A policy is an eviction, a storage, or both joined by '+': snapkv:budget=128+kivi4\n\n";
  for (const kvcompress::PartInfo& part : registry().parts()) {
    text += fmt::format("  {:<10}  {:<8}  {}\n", part.name, part.kind, part.defaults.empty() ? "(no options)" : part.defaults);
  }
  return text + "\n\"full\" is another name of f16. The options stand with their defaults in the library; see --help for --budget.\n";
}

std::string simd_backend() { return kvcompress::simd::backend; }

}  // namespace comparison
