#!/bin/sh
# tests/llama_cpp/same_as_example.sh - compare_policies says the same of a model in llama.cpp as in the example's engine, within 1e-3.
# SPDX-License-Identifier: MIT
#
#     same_as_example.sh COMPARE_POLICIES TO_F32 MODEL.gguf
set -eu
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
"$2" "$3" "$dir/f32.gguf"
for engine in example llama.cpp; do
  "$1" "$dir/f32.gguf" --engine $engine --windows 1 --policies full,kivi4,snapkv,h2o,quest --format csv |
    sed 's/^\("[^"]*"\),"[^"]*"/\1,-/' > "$dir/$engine"  # without the settings, which have commas
done
# Columns 1, 3 and 10: policy, bytes, perplexity. llama.cpp adds in another order, so codes differ here and there, and what is evicted.
paste -d, "$dir/example" "$dir/llama.cpp" | awk -F, '
  NR > 1 {
    half = NF / 2
    off = $(half + 10) / $10 - 1
    larger = $(half + 3) / $3 - 1
    printf "%-10s perplexity %.4f in the example, %.4f in llama.cpp (%+.1e); bytes %+.1e\n", $1, $10, $(half + 10), off, larger
    if (off > 1e-3 || off < -1e-3 || larger > 0.06 || larger < -0.06) { wrong = 1 }
  }
  END { exit wrong || NR != 6 }'
