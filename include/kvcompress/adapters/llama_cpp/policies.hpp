// include/kvcompress/adapters/llama_cpp/policies.hpp - which policy a layer of the model gets.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// One policy for all layers, "snapkv:budget=25%+kivi4", or several, separated by ';', the first that names a layer wins:
/// "layers 0-1: full; layers 7: kivi8; rest: kivi4". Every layer must be covered, so "rest" comes last.
class LayerPolicies {
 public:
  explicit LayerPolicies(std::string_view text) {
    for (std::string_view rest = text; !rest.empty() || entries_.empty();) {
      const std::size_t end = std::min(rest.find(';'), rest.size());
      entries_.push_back(entry(trimmed(rest.substr(0, end)), text));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    require(entries_.back().last == every_layer && entries_.back().first == 0, ErrorCode::option, "policies \"", text,
            "\" do not say what all other layers get, must end with \"rest: POLICY\"");
  }
  [[nodiscard]] const std::string& of(std::size_t layer) const noexcept {
    const auto names = [layer](const Entry& entry) { return layer >= entry.first && layer <= entry.last; };
    return std::find_if(entries_.begin(), entries_.end(), names)->policy;
  }

  /// Whether every one of them can move rows to other positions (KVCache::shift), in a model of so many layers. Tried on empty caches.
  [[nodiscard]] bool can_shift(const Registry& registry, std::size_t layers) const {
    return std::all_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      try {
        registry.make(entry.policy, {.layers = layers, .query_heads = 8, .kv_heads = 8, .head_dim = 128}).shift(0, 0, 0);
        return true;
      } catch (const Error&) { return false; }
    });
  }

  /// The same policy for a layer with a sliding window, which never reads older rows: they go, and no other eviction is needed.
  [[nodiscard]] static std::string windowed(const Registry& registry, const std::string& policy, std::size_t window) {
    std::string name = "streaming:sinks=0,in_cache_positions=false,window=" + std::to_string(window);
    std::string_view rest = policy;
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find('+'), rest.size());
      const std::string_view part = rest.substr(0, end);
      const std::string_view part_name = part.substr(0, part.find(':'));
      const auto& known = registry.parts();
      const bool evicts = std::any_of(known.begin(), known.end(), [&](const PartInfo& info) {
        return info.name == part_name && (info.kind == "eviction" || info.stands_behind_eviction());
      });
      if (!evicts && part_name != "streaming_llm") { name += "+" + std::string(part); }
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return name;
  }

 private:
  static constexpr std::size_t every_layer = static_cast<std::size_t>(-1);
  struct Entry {
    std::size_t first = 0;
    std::size_t last = every_layer;
    std::string policy;
  };

  static std::string_view trimmed(std::string_view text) noexcept {
    while (!text.empty() && text.front() == ' ') { text.remove_prefix(1); }
    while (!text.empty() && text.back() == ' ') { text.remove_suffix(1); }
    return text;
  }
  static Entry entry(std::string_view text, std::string_view whole) {
    if (text.starts_with("rest:")) { return {0, every_layer, std::string(trimmed(text.substr(5)))}; }
    if (!text.starts_with("layers ")) { return {0, every_layer, std::string(text)}; }
    const std::size_t colon = text.find(':');
    require(colon != std::string_view::npos, ErrorCode::option, "policies \"", whole, "\": \"", text,
            "\" must be \"layers FIRST-LAST: POLICY\"");
    const std::string_view range = trimmed(text.substr(7, colon - 7));
    Entry found{0, 0, std::string(trimmed(text.substr(colon + 1)))};
    const char* end = range.data() + range.size();
    auto [after, error] = std::from_chars(range.data(), end, found.first);
    found.last = found.first;
    if (error == std::errc{} && after != end && *after == '-') { std::tie(after, error) = read(after + 1, end, found.last); }
    require(error == std::errc{} && after == end && found.first <= found.last, ErrorCode::option, "policies \"", whole, "\": \"", range,
            "\" is no range of layers, must be like 3 or 0-1");
    return found;
  }
  static std::pair<const char*, std::errc> read(const char* from, const char* end, std::size_t& value) {
    const auto [after, error] = std::from_chars(from, end, value);
    return {after, error};
  }

  std::vector<Entry> entries_;
};

}  // namespace kvcompress::llama_cpp
