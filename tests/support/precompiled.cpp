// tests/support/precompiled.cpp - carries the precompiled headers that the test programs share; empty by intention.
// SPDX-License-Identifier: MIT
