// include/kvcompress/cache/facts.hpp - facts and options by name and value, to an archive that writes or compares them.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "kvcompress/concepts/persistence.hpp"
#include "kvcompress/core/archive.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Names facts to an archive below a prefix: "shape." + "layers".
template <class Archive>
class Facts {
 public:
  Facts(Archive& archive, std::string_view prefix) noexcept : archive_(archive) { prefix_.add(prefix); }

  template <class T>
  void operator()(std::string_view name, const T& value) const {
    Sentence full = prefix_;
    full.add(name);
    const std::string_view path(full.c_str());
    if constexpr (requires { names_of(value); }) {
      archive_.same(path, std::string_view(names_of(value)[static_cast<std::size_t>(value)]));
    } else if constexpr (std::is_enum_v<T>) {
      archive_.same(path, static_cast<std::size_t>(value));
    } else if constexpr (std::floating_point<T>) {
      archive_.same(path, static_cast<double>(value));
    } else if constexpr (std::integral<T>) {
      archive_.same(path, value);
    } else if constexpr (ListsFields<T>) {
      full.add(".");
      T::fields(value, Facts(archive_, full.c_str()));
    } else {
      archive_.same(path, std::string_view(value));
    }
  }

 private:
  Archive& archive_;
  Sentence prefix_;
};

/// Options that a policy's name cannot set, where there are such, beside those that it can. A text says where something lies, which may differ.
inline void describe_options(const auto& options, auto& archive, std::string_view prefix) {
  const Facts fact(archive, prefix);
  const auto field = [&](std::string_view name, const auto& value) {
    if constexpr (!std::convertible_to<decltype(value), std::string_view>) { fact(name, value); }
  };
  if constexpr (requires { options.chosen.ops->saving; }) {  // of a part that is chosen at run time
    options.chosen.ops->saving.options(options.chosen.options.get(), archive, prefix);
  } else if constexpr (requires { options.own_fields(options, field); }) {
    options.own_fields(options, field);
    options.parts(options, [&](const auto& part) { describe_options(part, archive, prefix); });
  } else {
    options.fields(options, field);
    if constexpr (requires { options.unnamed_fields(options, field); }) { options.unnamed_fields(options, field); }
  }
}

}  // namespace kvcompress::detail
