#!/bin/sh
# cmake/get_llama_cpp.sh DIR - a prebuilt llama.cpp for the adapter's tests and examples, from npm packages: DIR/include and DIR/lib.
# SPDX-License-Identifier: MIT
set -eu
version=3.21.1  # llama.cpp 0.4.0
dir=${1:?"usage: get_llama_cpp.sh DIR"}
if [ -e "$dir/version" ] && [ "$(cat "$dir/version")" = "$version" ]; then exit 0; fi
rm -rf "$dir" && mkdir -p "$dir/include" "$dir/lib"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm pack --silent "node-llama-cpp@$version" "@node-llama-cpp/linux-x64@$version" > /dev/null
for package in *.tgz; do tar -xzf "$package" --one-top-level; done
cd - > /dev/null
cp "$scratch"/node-llama-cpp-linux-x64-*/package/bins/linux-x64/lib*.so "$dir/lib/"
git clone --quiet --no-checkout "$scratch/node-llama-cpp-$version/package/llama/gitRelease.bundle" "$scratch/source" 2> /dev/null
for header in include/llama.h ggml/include/ggml.h ggml/include/ggml-alloc.h ggml/include/ggml-backend.h ggml/include/ggml-cpu.h ggml/include/ggml-opt.h ggml/include/gguf.h; do
  git -C "$scratch/source" show "HEAD:$header" > "$dir/include/$(basename "$header")"
done
echo "$version" > "$dir/version"
