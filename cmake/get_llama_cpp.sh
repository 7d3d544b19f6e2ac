#!/bin/sh
# cmake/get_llama_cpp.sh DIR - a prebuilt llama.cpp for the adapter's tests and examples, from npm packages: DIR/include and DIR/lib.
# SPDX-License-Identifier: MIT
set -eu
version=3.21.1  # of node-llama-cpp: llama.cpp 0.4.0
dir=${1:?"usage: get_llama_cpp.sh DIR"}
if [ -e "$dir/version" ] && [ "$(cat "$dir/version")" = "$version" ]; then exit 0; fi
if [ -e "$dir" ] && ! [ -e "$dir/getting_llama_cpp" ]; then
  echo "get_llama_cpp.sh: $dir exists and is not of this version; remove it first" >&2
  exit 1
fi
mkdir -p "$dir/include" && touch "$dir/getting_llama_cpp"  # a run that was cut short can be repeated
npm install --silent --no-audit --no-fund --ignore-scripts --omit=optional --prefix "$dir" \
  "node-llama-cpp@$version" "@node-llama-cpp/linux-x64@$version"
ln -sfn node_modules/@node-llama-cpp/linux-x64/bins/linux-x64 "$dir/lib"
rm -rf "$dir/source"
git clone --quiet --bare "$dir/node_modules/node-llama-cpp/llama/gitRelease.bundle" "$dir/source" 2> /dev/null
for header in include/llama.h ggml/include/ggml.h ggml/include/ggml-alloc.h ggml/include/ggml-backend.h ggml/include/ggml-cpu.h \
              ggml/include/ggml-opt.h ggml/include/gguf.h; do
  git --git-dir "$dir/source" show "HEAD:$header" > "$dir/include/$(basename "$header")"
done
rm -rf "$dir/source" "$dir/getting_llama_cpp"
echo "$version" > "$dir/version"
