#!/bin/sh
# tests/llama_cpp/preload.sh OBJECT PROGRAM... - with f32 rows the preload object leaves a program's text as it is, and it says what it did.
# SPDX-License-Identifier: MIT
set -eu
object=$1
shift
plain=$("$@" 2> /dev/null)
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
for policy in f32 snapkv:budget=16,window=8+kivi4:residual=32; do
  ours=$(LD_PRELOAD=$object KVCOMPRESS_POLICY=$policy "$@" 2> "$errors") || { cat "$errors"; exit 1; }
  if [ "$policy" = f32 ] && [ "$plain" != "$ours" ]; then
    printf 'with %s: "%s"\nwithout: "%s"\n' "$policy" "$ours" "$plain"
    exit 1
  fi
  grep "kvcompress: .* tokens went through $policy" "$errors" || { cat "$errors"; exit 1; }
done
printf '%s\n' "$plain"
