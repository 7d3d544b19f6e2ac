// include/kvcompress/concepts/persistence.hpp - what a part says so that it can be saved.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string_view>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

class Reader;
class Writer;

/// What can be saved: persist(self, archive, rows) names the members of a lane's store or state to an archive, which writes them or reads them
/// into a new one (see core/archive.hpp); `rows` are those of the lane.
template <class S>
concept Persists = requires(const S& saved, S& loaded, Writer& writer, Reader& reader, std::size_t rows) {
  S::persist(saved, writer, rows);
  S::persist(loaded, reader, rows);
};
/// A store also says what its form depends on, since a file of another form is refused: describe(fact) calls fact(name, number or text); a
/// retrieval may. A store that is encoded or evicted together with others may have alike(other): whether their encoded rows lie alike.
template <class S>
concept PersistsRows = Persists<S> && requires(void (*fact)(std::string_view, ...)) {
  S::describe(fact);
};
/// Options list themselves: fields(options, field) calls field(name, member); unnamed_fields(options, field), where there is one, for what the
/// name of a policy cannot set. All of them are part of a saved cache's fingerprint.
template <class O>
concept ListsFields = requires(const O& options, void (*field)(const char*, ...)) {
  O::fields(options, field);
};

}  // namespace kvcompress
