# cmake/warnings.cmake - kvcompress_warnings: the warnings that everything we build is free of.
# SPDX-License-Identifier: MIT
add_library(kvcompress_warnings INTERFACE)
target_compile_options(kvcompress_warnings INTERFACE
  -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow $<$<BOOL:${KVCOMPRESS_WERROR}>:-Werror>)
