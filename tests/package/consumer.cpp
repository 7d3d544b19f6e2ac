// tests/package/consumer.cpp - a program outside the project that uses the umbrella header.
// SPDX-License-Identifier: MIT
#include <cstdio>
#include <kvcompress/kvcompress.hpp>

int main() { std::printf("kvcompress %d.%d.%d\n", kvcompress::version_major, kvcompress::version_minor, kvcompress::version_patch); }
