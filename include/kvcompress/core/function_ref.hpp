// include/kvcompress/core/function_ref.hpp - a reference to a function object of any type, for calls through a table of functions.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

template <class Signature>
class FunctionRef;

/// Calls a function object that lives elsewhere, for as long as that lives. Owns nothing, allocates nothing; null by default.
template <class Result, class... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  FunctionRef() = default;
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, FunctionRef> && std::is_object_v<std::remove_reference_t<F>> &&
           std::is_invocable_r_v<Result, F&, Arguments...>) explicit(false) FunctionRef(F&& function) noexcept
      : object_(const_cast<void*>(static_cast<const void*>(__builtin_addressof(function)))),
        call_([](void* object, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Arguments>(arguments)...);
        }) {}

  Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }
  explicit operator bool() const noexcept { return call_ != nullptr; }

 private:
  void* object_ = nullptr;
  Result (*call_)(void*, Arguments...) = nullptr;
};

}  // namespace kvcompress
