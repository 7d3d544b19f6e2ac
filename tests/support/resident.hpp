// tests/support/resident.hpp - what the process holds of the machine's memory.
// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <cstddef>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <fstream>

namespace kvcompress::test {

/// The heap gives back what earlier tests left in it, so that it does not go during this one.
inline void empty_heap() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}
/// Resident bytes of this process; 0 where the system does not say.
inline std::size_t resident_bytes() {
  std::size_t all = 0;
  std::size_t resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace kvcompress::test
