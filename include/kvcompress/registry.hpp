// include/kvcompress/registry.hpp - policies by name: "h2o:budget=256,recent=128+kivi2:residual=64" becomes a cache.
// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcompress/any_cache.hpp"
#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/eviction/observation_window.hpp"

namespace kvcompress {

/// One part of a policy's name with its settings: "h2o:budget=256,recent=128".
struct PartSpec {
  struct Setting {
    std::string key;
    std::string value;
  };
  std::string name;
  std::vector<Setting> settings;
};

/// Splits "part:key=value,key=value+part" at '+', ':', ',' and '='; raises an Error where a piece is empty.
[[nodiscard]] inline std::vector<PartSpec> parse_policy(std::string_view text) {
  const auto cut = [](std::string_view& rest, char at) {
    const std::size_t end = std::min(rest.find(at), rest.size());
    const std::string_view piece = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    return piece;
  };
  require(!text.empty() && text.back() != '+', ErrorCode::option, "policy \"", text, "\" has an empty part");
  std::vector<PartSpec> parts;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view part = cut(rest, '+');
    PartSpec spec{std::string(cut(part, ':')), {}};
    require(!spec.name.empty(), ErrorCode::option, "policy \"", text, "\" has an empty part");
    while (!part.empty()) {
      std::string_view setting = cut(part, ',');
      const std::string key(cut(setting, '='));
      require(!key.empty() && !setting.empty(), ErrorCode::option, "policy \"", text, "\": \"", key,
              "\" is no setting, must be key=value");
      spec.settings.push_back({key, std::string(setting)});
    }
    parts.push_back(std::move(spec));
  }
  return parts;
}

namespace detail {

[[noreturn]] inline void bad_setting(const std::string& key, const std::string& text, const char* wanted) {
  fail(ErrorCode::option, "option ", key, " is \"", text, "\", must be ", wanted);
}
template <class Number>
bool parse_number(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

inline void read_setting(const std::string& key, const std::string& text, std::size_t& value) {
  if (!parse_number(text, value)) { bad_setting(key, text, "a whole number"); }
}
inline void read_setting(const std::string& key, const std::string& text, bool& value) {
  if (text != "true" && text != "false" && text != "1" && text != "0") { bad_setting(key, text, "true or false"); }
  value = text == "true" || text == "1";
}
inline void read_setting(const std::string& key, const std::string& text, Budget& value) {
  std::string_view rest = text;
  std::size_t count = 0;
  double percent = 0.0;
  if (rest.ends_with('%')) {
    if (!parse_number(rest.substr(0, rest.size() - 1), percent)) { bad_setting(key, text, "rows, a percentage like 20% or bytes like 1000000B"); }
    value = Budget::fraction(percent / 100.0);
    return;
  }
  const bool bytes = rest.ends_with('B');
  if (!parse_number(rest.substr(0, rest.size() - (bytes ? 1 : 0)), count)) {
    bad_setting(key, text, "rows, a percentage like 20% or bytes like 1000000B");
  }
  value = bytes ? Budget::bytes(count) : Budget(count);
}
inline void read_setting(const std::string& key, const std::string& text, Reduction& value) {
  if (text != "mean" && text != "max" && text != "sum") { bad_setting(key, text, "mean, max or sum"); }
  value = text == "mean" ? Reduction::mean : text == "max" ? Reduction::max : Reduction::sum;
}
inline void read_setting(const std::string& key, const std::string& text, Pooling& value) {
  if (text != "average" && text != "max") { bad_setting(key, text, "average or max"); }
  value = text == "max" ? Pooling::max : Pooling::average;
}

inline std::string show_setting(std::size_t value) { return std::to_string(value); }
inline std::string show_setting(bool value) { return value ? "true" : "false"; }
inline std::string show_setting(const Budget& value) {
  if (value.fraction_of > 0.0) { return std::to_string(100.0 * value.fraction_of) + "%"; }
  return value.bytes_of > 0 ? std::to_string(value.bytes_of) + "B" : std::to_string(value.rows_of);
}
inline std::string show_setting(Reduction value) { return value == Reduction::mean ? "mean" : value == Reduction::max ? "max" : "sum"; }
inline std::string show_setting(Pooling value) { return value == Pooling::max ? "max" : "average"; }

/// Sets the named fields of an options struct; raises an Error that lists the fields if there is no such one.
template <class Options>
Options with_settings(const PartSpec& part) {
  Options options{};
  for (const PartSpec::Setting& setting : part.settings) {
    bool found = false;
    std::string known;
    Options::fields(options, [&](const char* name, auto& field) {
      known += std::string(known.empty() ? "" : ", ") + name;
      if (setting.key == name) {
        read_setting(part.name + ":" + setting.key, setting.value, field);
        found = true;
      }
    });
    require(found, ErrorCode::option, part.name, " has no option \"", setting.key, "\", must be ", known.empty() ? "without options" : "one of " + known);
  }
  return options;
}
template <class Options>
std::string show_settings() {
  Options options{};
  std::string text;
  Options::fields(options, [&](const char* name, auto& field) { text += (text.empty() ? "" : ",") + std::string(name) + "=" + show_setting(field); });
  return text;
}

}  // namespace detail

/// What one name stands for.
struct PartInfo {
  std::string name;
  std::string kind;      ///< "eviction" or "storage"
  std::string defaults;  ///< "key=value,..." of every option
};

/// Policies by name; standard_registry.hpp has all of the library's. A name is an eviction, a storage, or both joined by '+'; no eviction keeps all, no storage is f16 ("full").
class Registry {
 public:
  /// Adds policy P under the names of its two parts ("" for no eviction); a policy of your own works like the library's.
  template <class P>
  void add(std::string_view eviction, std::string_view storage) {
    using Eviction = typename detail::Axes<P>::Eviction::Options;
    using Storage = typename detail::Axes<P>::Storage::Options;
    note<Eviction>(eviction, "eviction");
    note<Storage>(storage, "storage");
    entries_.push_back({std::string(eviction), std::string(storage),
                        [](const PartSpec& evict, const PartSpec& store, const Shape& shape, const Memory& memory) {
                          PolicyOptions<P> options{};
                          options.eviction = detail::with_settings<Eviction>(evict);
                          options.storage = detail::with_settings<Storage>(store);
                          return AnyCache::of<P>(shape, options, memory);
                        }});
  }
  /// Makes the cache that `policy` names; raises an Error that names an unknown part, option or value and what there is instead.
  [[nodiscard]] std::unique_ptr<AnyCache> make(std::string_view policy, const Shape& shape, const Memory& memory = {}) const {
    PartSpec eviction{};
    PartSpec storage{"f16", {}};
    bool storage_named = false;
    for (PartSpec& part : parse_policy(policy)) {
      if (part.name == "full") { part.name = "f16"; }
      const std::string kind = kind_of(part.name);
      const bool is_storage = kind == "storage";
      require(is_storage ? !storage_named : eviction.name.empty(), ErrorCode::option, "policy \"", policy, "\" names two ",
              is_storage ? "storages" : "evictions");
      (is_storage ? storage : eviction) = std::move(part);
      storage_named = storage_named || is_storage;
    }
    for (const Entry& entry : entries_) {
      if (entry.eviction == eviction.name && entry.storage == storage.name) { return entry.make(eviction, storage, shape, memory); }
    }
    fail(ErrorCode::option, "policy \"", policy, "\" combines parts that are not registered together");
  }
  [[nodiscard]] const std::vector<PartInfo>& parts() const noexcept { return parts_; }

 private:
  struct Entry {
    std::string eviction;
    std::string storage;
    std::function<std::unique_ptr<AnyCache>(const PartSpec&, const PartSpec&, const Shape&, const Memory&)> make;
  };

  template <class Options>
  void note(std::string_view name, const char* kind) {
    for (const PartInfo& part : parts_) {
      if (part.name == name) { return; }
    }
    if (!name.empty()) { parts_.push_back({std::string(name), kind, detail::show_settings<Options>()}); }
  }
  [[nodiscard]] std::string kind_of(const std::string& name) const {
    std::string known;
    for (const PartInfo& part : parts_) {
      if (part.name == name) { return part.kind; }
      known += (known.empty() ? "" : ", ") + part.name;
    }
    fail(ErrorCode::option, "\"", name, "\" is no part of a policy, must be one of full, ", known);
  }

  std::vector<Entry> entries_;
  std::vector<PartInfo> parts_;
};

}  // namespace kvcompress
