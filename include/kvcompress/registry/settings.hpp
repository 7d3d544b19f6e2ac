// include/kvcompress/registry/settings.hpp - policies as text: cutting a name into parts and settings, reading and showing values.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvcompress/core/accumulation.hpp"
#include "kvcompress/core/error.hpp"
#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/registry/clauses.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// One part of a policy's name with its settings: "h2o:budget=256,recent=128", or "keys=kivi4:residual=64", of which only the store of the keys
/// is meant.
struct PartSpec {
  enum class Half { both, keys, values };
  struct Setting {
    std::string key;
    std::string value;
  };
  std::string name;
  std::vector<Setting> settings;
  Half half = Half::both;
};

/// Splits "part:key=value,key=value+part" at '+', ':', ',' and '='; raises an Error where a piece is empty or a key comes twice. Beside '+',
/// ",keys=" and ",values=" begin another part: "keys=kivi4:residual=64,values=kivi2".
[[nodiscard]] inline std::vector<PartSpec> parse_policy(std::string_view text) {
  require(!text.empty() && text.back() != '+', ErrorCode::option, "policy \"", text, "\" has an empty part");
  const auto cut_part = [](std::string_view& rest) {
    std::size_t end = std::min(rest.find('+'), rest.size());
    if (rest.starts_with("keys=") || rest.starts_with("values=")) { end = std::min({end, rest.find(",keys="), rest.find(",values=")}); }
    const std::string_view piece = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    return piece;
  };
  std::vector<PartSpec> parts;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view part = cut_part(rest);
    const bool has_settings = part.find(':') != std::string_view::npos;
    PartSpec spec{std::string(detail::cut(part, ':')), {}};
    for (const auto& [prefix, half] : {std::pair{"keys=", PartSpec::Half::keys}, {"values=", PartSpec::Half::values}}) {
      if (spec.name.starts_with(prefix)) {
        spec.name.erase(0, std::string_view(prefix).size());
        spec.half = half;
      }
    }
    require(!spec.name.empty(), ErrorCode::option, "policy \"", text, "\" has an empty part");
    for (bool more = has_settings; more;) {  // also behind a ':' or ',' with nothing after it
      more = part.find(',') != std::string_view::npos;
      std::string_view setting = detail::cut(part, ',');
      const std::string key(detail::cut(setting, '='));
      require(!key.empty() && !setting.empty(), ErrorCode::option, "policy \"", text, "\": \"", key, "\" is no setting, must be key=value");
      for (const PartSpec::Setting& other : spec.settings) {
        require(other.key != key, ErrorCode::option, "policy \"", text, "\": option ", spec.name, ":", key, " is given as ", other.value,
                " and as ", setting, ", must be given once");
      }
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
  if (text == "max") {
    value = static_cast<std::size_t>(-1);
  } else if (!parse_number(text, value)) {
    bad_setting(key, text, "a whole number");
  }
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
    if (!parse_number(rest.substr(0, rest.size() - 1), percent)) {
      bad_setting(key, text, "rows, a percentage like 20% or bytes like 1000000B");
    }
    value = Budget::fraction(percent / 100.0);
    return;
  }
  const bool bytes = rest.ends_with('B');
  if (!parse_number(rest.substr(0, rest.size() - (bytes ? 1 : 0)), count)) {
    bad_setting(key, text, "rows, a percentage like 20% or bytes like 1000000B");
  }
  value = bytes ? Budget::bytes(count) : Budget(count);
}
inline void read_setting(const std::string& key, const std::string& text, double& value) {
  if (!parse_number(text, value)) { bad_setting(key, text, "a number"); }
}
inline void read_setting(const std::string&, const std::string& text, std::string& value) { value = text; }

/// Beside an enumeration stands names_of, which says what its values are called, in their order.
template <class Enum>
requires std::is_enum_v<Enum>
void read_setting(const std::string& key, const std::string& text, Enum& value) {
  constexpr auto names = names_of(Enum{});
  std::string known;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (text == names[i]) {
      value = static_cast<Enum>(i);
      return;
    }
    known += std::string(i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  }
  bad_setting(key, text, known.c_str());
}

template <class T>
requires(!std::is_enum_v<T>) void read_setting(const std::string&, const std::string&, T&) {
  static_assert(sizeof(T) == 0, "what Options::fields names must be std::size_t, bool, double, std::string, Budget or an enumeration");
}

inline std::string show_setting(std::size_t value) { return value == static_cast<std::size_t>(-1) ? "max" : std::to_string(value); }
inline std::string show_setting(bool value) { return value ? "true" : "false"; }
inline std::string show_setting(double value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}
inline std::string show_setting(const std::string& value) { return value; }
inline std::string show_setting(const Budget& value) {
  if (value.fraction_of > 0.0) { return show_setting(100.0 * value.fraction_of) + "%"; }
  return value.bytes_of > 0 ? std::to_string(value.bytes_of) + "B" : std::to_string(value.rows_of);
}
template <class Enum>
requires std::is_enum_v<Enum> std::string show_setting(Enum value) { return names_of(Enum{})[static_cast<std::size_t>(value)]; }

/// How an option of some type is set from text and shown as text.
struct OptionFunctions {
  void (*read)(const std::string& key, const std::string& text, void* value);
  std::string (*show)(const void* value);
};
template <class T>
inline constexpr OptionFunctions option_functions_of{
    [](const std::string& key, const std::string& text, void* value) { read_setting(key, text, *static_cast<T*>(value)); },
    [](const void* value) { return show_setting(*static_cast<const T*>(value)); }};

/// Options of some part under their names; they last as long as the part's.
class NamedOptions {
 public:
  struct Option {
    const char* name;
    void* value;
    const OptionFunctions* functions;
  };
  [[nodiscard]] const std::vector<Option>& all() const noexcept { return all_; }
  [[nodiscard]] auto visitor() {
    return [this]<class T>(const char* name, T& field) { add(name, &field, option_functions_of<T>); };
  }
  /// Those that `options` lists.
  void list(auto& options) { options.fields(options, visitor()); }

 private:
  void add(const char* name, void* value, const OptionFunctions& functions);
  std::vector<Option> all_;
};
inline void NamedOptions::add(const char* name, void* value, const OptionFunctions& functions) {
  all_.push_back({name, value, &functions});
}

/// Sets the options that a part's settings name; raises an Error that lists them if there is no such one.
inline void apply_settings(const PartSpec& part, const NamedOptions& options) {
  for (const PartSpec::Setting& setting : part.settings) {
    const auto found =
        std::find_if(options.all().begin(), options.all().end(), [&](const auto& option) { return setting.key == option.name; });
    if (found != options.all().end()) {
      found->functions->read(part.name + ":" + setting.key, setting.value, found->value);
      continue;
    }
    std::string known;
    for (const NamedOptions::Option& option : options.all()) { known += std::string(known.empty() ? "" : ", ") + option.name; }
    fail(ErrorCode::option, part.name, " has no option \"", setting.key, "\", must be ",
         known.empty() ? "without options" : "one of " + known);
  }
}
/// "key=value,..." of every option; raises an Error if two of `part` have one name.
inline std::string defaults_of(std::string_view part, const NamedOptions& options) {
  std::string defaults;
  for (const NamedOptions::Option& option : options.all()) {
    const std::string setting = std::string(option.name) + "=";
    require(("," + defaults).find("," + setting) == std::string::npos, ErrorCode::option, "registry: ", part, " has two options named \"",
            option.name, "\"");
    defaults += (defaults.empty() ? "" : ",") + setting + option.functions->show(option.value);
  }
  return defaults;
}

}  // namespace detail
}  // namespace kvcompress
