#!/usr/bin/env bash
# bench/bounds/compile_cost.sh - what the library costs to compile: CPU seconds, memory, program text. Lines of "NAME VALUE BOUND".
# SPDX-License-Identifier: MIT
set -euo pipefail

# compile_cost.sh <compiler> <include folder> <flags ...>; fails if a bound is missed.
compiler=$1 include=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
missed=0

# bound <name> <value> <bound>
bound() {
  echo "$1 $2 $3"
  if awk -v value="$2" -v bound="$3" 'BEGIN { exit !(value > bound) }'; then missed=1; fi
}
# compile <source>: sets `seconds` of CPU and `megabytes`, the most that the compiler proper held; leaves $work/unit.o.
compile() {
  local TIMEFORMAT='%U %S' user system peak=0 held
  echo "$1" >"$work/unit.cpp"
  { time "$compiler" "${flags[@]}" -I "$include" -c "$work/unit.cpp" -o "$work/unit.o" 2>"$work/log"; } 2>"$work/time" &
  local job=$!
  while kill -0 "$job" 2>/dev/null; do
    for process in $(pgrep -f "cc1plus.*$work/unit.cpp|clang.*-cc1.*$work/unit.cpp" || true); do
      held=$(awk '/VmHWM/ { print $2 }' "/proc/$process/status" 2>/dev/null || true)
      ((${held:-0} > peak)) && peak=$held
    done
    sleep 0.05
  done
  wait "$job" || { cat "$work/log" >&2; exit 1; }
  read -r user system <"$work/time"
  seconds=$(awk -v a="$user" -v b="$system" 'BEGIN { printf "%.1f", a + b }')
  megabytes=$((peak / 1024))
}

flags=("$@")
compile $'#include <kvcompress/standard_registry.hpp>\nkvcompress::Registry all() { return kvcompress::standard_registry(); }'
bound registry_cpu_seconds "$seconds" 60
bound registry_megabytes "$megabytes" 1200
text=$(size "$work/unit.o" | awk 'NR == 2 { printf "%.2f", $1 / 1e6 }')
bound program_text_megabytes "$text" 6
compile '#include <kvcompress/kvcompress.hpp>'
bound umbrella_cpu_seconds "$seconds" 4
worst=0
while read -r header; do
  compile "#include <kvcompress/${header#"$include/kvcompress/"}>"
  if awk -v value="$seconds" -v worst="$worst" 'BEGIN { exit !(value > worst) }'; then worst=$seconds worst_header=$header; fi
done < <(find "$include/kvcompress/policies" "$include/kvcompress/eviction" "$include/kvcompress/retrieval" -name '*.hpp' | sort)
bound "part_header_cpu_seconds" "$worst" 6
echo "# the dearest part: ${worst_header#"$include/"}"
exit $missed
