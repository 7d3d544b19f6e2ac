// examples/compare_policies/policies.cpp - caches by name, from the same registry that an engine would use.
// SPDX-License-Identifier: MIT
#include "compare_policies/policies.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "compare_policies/make_cache.hpp"
#include "kvcompress/capabilities.hpp"
#include "registry/registry.hpp"

namespace comparison {

kvcompress::AnyCache make_cache(const std::string& policy, const kvcompress::Shape& shape, const kvcompress::Memory& memory) {
  return examples::registry().make(policy, shape, memory);
}

const std::vector<Part>& parts() {
  static const std::vector<Part> all = [] {
    std::vector<Part> some;
    for (kvcompress::PartInfo& part : examples::registry().parts()) {
      some.push_back({std::move(part.name), std::move(part.kind), std::move(part.defaults)});
    }
    return some;
  }();
  return all;
}

void check(const std::vector<Policy>& policies, const kvcompress::Shape& shape) {
  for (const Policy& policy : policies) {
    try {
      const kvcompress::AnyCache cache = make_cache(policy.settings, shape, {});
      if (kvcompress::capabilities<kvcompress::AnyPolicy>(shape, cache.options()).needs_kept_queries) {
        throw BadArgument(
            fmt::format("policy {}: it needs queries that repeat the prompt, a second pass that is not run here", policy.settings));
      }
    } catch (const kvcompress::Error& error) {
      std::string_view sentence = error.what();
      if (sentence.starts_with("kvcompress: ")) { sentence.remove_prefix(12); }
      if (sentence.starts_with("policy \"")) { throw BadArgument(std::string(sentence)); }
      throw BadArgument(fmt::format("policy {}: {}", policy.settings, sentence));
    }
  }
}

bool retrieves(const std::string& policy) {
  return std::any_of(parts().begin(), parts().end(), [&](const Part& part) {
    return part.kind.find("retrieval") != std::string::npos && policy.find(part.name) != std::string::npos;
  });
}

std::string list_of_parts() {
  std::string text =
      "A policy is made of parts joined by '+', at most one of each kind: snapkv:budget=128+kivi4\n"
      "  eviction: which rows stay (none: all); behind it allocators, selectors and agreements: snapkv+adakv+chunkkv\n"
      "  storage: how rows are held (none: f16, also called full)\n"
      "  retrieval: which of the rows that stay a query reads (none: all)\n"
      "The options stand with their defaults in the library; --help says what --budget changes. A rank of 0 follows the model's size.\n\n";
  const auto cell = [](const std::string& info) { return info.empty() ? std::string("(no options)") : info; };
  for (const Part& part : parts()) { text += fmt::format("  {:<9}  {:<21}  {}\n", part.name, part.kind, cell(part.defaults)); }
  text += "\nWhat goes together:\n";
  std::string line(1, ' ');
  for (const std::string& policy : examples::registry().policies()) {
    if (line.size() + 1 + policy.size() > 110) {
      text += line + "\n";
      line.resize(1);
    }
    line.append(" ").append(policy);
  }
  return text + line + "\n";
}

std::string simd_backend() { return kvcompress::simd::backend; }

}  // namespace comparison
