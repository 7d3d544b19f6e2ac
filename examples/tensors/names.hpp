// examples/tensors/names.hpp - what an array is for, by its name: "layers.3.keys", "past_key_values.3.value", k_cache, layer_3.npz.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensors/array.hpp"

namespace tensors {

enum class Role { keys, values, queries };
inline constexpr std::array roles{Role::keys, Role::values, Role::queries};
constexpr std::string_view name_of(Role role) noexcept {
  constexpr std::array<std::string_view, 3> names{"keys", "values", "queries"};
  return names[static_cast<std::size_t>(role)];
}

/// The words and the numbers of a name, in lower case; names of number types are left out: "Keys_f16.layer3" is keys, layer, 3.
inline std::vector<std::string> words_of(std::string_view name) {
  const auto is_type = [](const std::string& word) {
    const std::string_view letters = std::string_view(word).substr(0, word.find_first_of("0123456789"));
    return letters.size() < word.size() &&
           (letters == "f" || letters == "fp" || letters == "bf" || letters == "float" || letters == "bfloat");
  };
  std::vector<std::string> words;
  std::string run;
  const auto end_run = [&] {
    for (std::size_t at = is_type(run) ? run.size() : 0; at < run.size();) {
      const bool digits = std::isdigit(static_cast<unsigned char>(run[at])) != 0;
      std::size_t end = at;
      while (end < run.size() && (std::isdigit(static_cast<unsigned char>(run[end])) != 0) == digits) { ++end; }
      words.push_back(run.substr(at, end - at));
      at = end;
    }
    run.clear();
  };
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      run.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
    } else {
      end_run();
    }
  }
  end_run();
  return words;
}

inline std::optional<Role> role_of(std::string_view word) {
  const auto is = [&](std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), word) != names.end(); };
  if (is({"k", "key", "keys"})) { return Role::keys; }
  if (is({"v", "value", "values"})) { return Role::values; }
  if (is({"q", "query", "queries"})) { return Role::queries; }
  return std::nullopt;
}

/// What an array is for, as far as its name says.
struct Place {
  std::optional<Role> role;
  std::optional<std::size_t> layer;
};

inline std::optional<std::size_t> number_of(std::string_view word) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (word.empty() || error != std::errc{} || end != word.data() + word.size()) { return std::nullopt; }
  return number;
}

/// The last word that names a role decides ("past_key_values.3.key"); the number behind "layer" or the like, else the only number.
inline Place place_of(const std::string& where, std::string_view name) {
  const std::vector<std::string> words = words_of(name);
  Place place;
  std::size_t numbers = 0;
  bool after_layer = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (const auto role = role_of(words[i])) { place.role = role; }
    const std::optional<std::size_t> number = number_of(words[i]);
    if (!number || after_layer) { continue; }
    const std::string_view before = i > 0 ? std::string_view(words[i - 1]) : std::string_view();
    after_layer = before == "layer" || before == "layers" || before == "l" || before == "block" || before == "blocks" || before == "h";
    place.layer = number;
    ++numbers;
  }
  if (place.role && numbers > 1 && !after_layer) {
    fail("{}: its name has {} numbers, must have one, the layer's, or \"layer\" before that one.", where, numbers);
  }
  return place;
}

/// The same for an array of an archive, whose own name says what that of the array leaves open: layer_3.npz with k; keys.npz with arr_3.
inline Place place_of(const std::string& where, std::string_view archive, std::string_view name) {
  Place place = place_of(where, name);
  const std::vector<std::string> words = words_of(archive);
  std::size_t named = 0;
  std::optional<Role> role;
  std::optional<std::size_t> layer = words.size() == 1 ? number_of(words.front()) : std::nullopt;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (role_of(words[i])) {
      role = role_of(words[i]);
      ++named;
    }
    if (i > 0 && (words[i - 1] == "layer" || words[i - 1] == "layers")) { layer = number_of(words[i]); }
  }
  if (!place.role && named == 1) { place.role = role; }
  if (!place.layer) { place.layer = layer; }
  return place;
}

}  // namespace tensors
