#!/bin/sh
# tests/package/headers_only.sh COMPILER INCLUDE UMBRELLA WORK [FLAGS...] - two source files against headers and nothing else, linked and run.
# SPDX-License-Identifier: MIT
set -eu
compiler=$1 include=$2 umbrella=$3 work=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
for unit in unit_a unit_b; do
  "$compiler" "$@" -Wall -Wextra -Werror -I "$include" -D "KVCOMPRESS_UMBRELLA=\"$umbrella\"" -c "$here/$unit.cpp" -o "$work/$unit.o"
done
"$compiler" "$work/unit_a.o" "$work/unit_b.o" -o "$work/program"
"$work/program"
