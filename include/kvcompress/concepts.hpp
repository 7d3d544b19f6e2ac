// include/kvcompress/concepts.hpp - what the parts of a policy must provide and what they may ask for. Read this file first.
// SPDX-License-Identifier: MIT
#pragma once

/// A KV cache holds, for each lane (one layer, one KV head), rows: a row is one token's position, key and value. A policy says which
/// rows stay (an Eviction), how rows are held (a Storage: one store for keys, one for values) and which rows a query reads (a Retrieval).
/// The cache does everything else.
#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/concepts/persistence.hpp"
#include "kvcompress/concepts/retrieval.hpp"
#include "kvcompress/concepts/row_state.hpp"
#include "kvcompress/concepts/storage.hpp"
