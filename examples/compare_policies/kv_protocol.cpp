// examples/compare_policies/kv_protocol.cpp - the measurement on tensors of one's own, see kv_protocol.hpp.
// SPDX-License-Identifier: MIT
#include "compare_policies/kv_protocol.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string_view>

#include "compare_policies/kv_measure.hpp"
#include "compare_policies/make_cache.hpp"
#include "compare_policies/policies.hpp"
#include "compare_policies/progress.hpp"
#include "compare_policies/read_dump.hpp"
#include "compare_policies/schedule.hpp"

namespace comparison {
namespace {

/// The shape of a cache for the dump, which must outlive it.
kvcompress::Shape shape_of(const tensors::Dump& dump, double theta) {
  kvcompress::Shape shape;
  shape.layers = dump.layers.size();
  shape.query_heads = dump.query_heads;
  shape.kv_heads = dump.kv_heads;
  shape.head_dim = dump.key_dim;
  shape.value_dim = dump.value_dim;
  shape.rope.theta = theta;
  const tensors::Rotary& rotary = dump.config.rotary;
  if (theta > 0.0 && rotary.base > 0.0) {
    shape.rope.rotary_dim = 2 * static_cast<std::size_t>(rotary.dims_fraction * static_cast<double>(dump.key_dim) / 2.0);
    shape.rope.scale = rotary.scale;
    if (!rotary.frequency_divisors.empty()) { shape.rope.frequency_factors = rotary.frequency_divisors.data(); }
  }
  return shape;
}

std::size_t decoded_tokens(const KvSetup& setup, const tensors::Dump& dump) {
  constexpr std::size_t most = 256;  // by default: the exact attention of each takes its time
  const std::size_t half = std::min(dump.queries, dump.tokens) / 2;
  const std::size_t decoded = setup.decoded == 0 ? std::min(half, most) : setup.decoded;
  if (dump.queries < 2) { throw BadArgument(fmt::format("{}: has queries of {} tokens, must have 2 or more", setup.path, dump.queries)); }
  if (decoded >= dump.queries) {
    throw BadArgument(fmt::format("--decoded is {}, must be less than the dump's {} tokens with queries: some belong to the prompt",
                                  decoded, dump.queries));
  }
  return decoded;
}

std::vector<Fact> dump_facts(const KvSetup& setup, const tensors::Dump& dump, const kvcompress::Shape& shape) {
  const std::filesystem::path path(setup.path);
  std::vector<Fact> facts{{"Dump", (path.has_filename() ? path : path.parent_path()).filename().string()}};
  for (const std::string& line : dump.read) {
    const std::size_t colon = line.find(": ");
    facts.push_back({line.substr(0, colon), line.substr(colon + 2)});
  }
  facts.push_back(
      {"Attention",
       fmt::format("{} x {} layers, {} query heads and {} KV heads, {} tokens, keys of {} and values of {} channels", dump.sequences.size(),
                   dump.layers.size(), dump.query_heads, dump.kv_heads, dump.tokens, dump.key_dim, dump.value_dim)});
  if (shape.rope.theta > 0.0) {
    facts.push_back({"Rotary embedding", fmt::format("base {}, channel i with i + {}", shape.rope.theta, shape.rotary_pairs())});
  } else {
    facts.push_back({"Rotary embedding",
                     dump.config.unknown_rotary.empty()
                         ? std::string("none is known (--rope-theta): keys are taken as they are")
                         : fmt::format("of type {}, which is not known here: keys are taken as they are", dump.config.unknown_rotary)});
  }
  return facts;
}

/// work(task) for every task below `tasks`, over threads.
void for_all(std::size_t tasks, std::size_t threads, auto&& work) {
  Schedule schedule(tasks, 1);
  run(schedule, threads, [&](std::size_t, const Schedule::Task& task) {
    if (task.step == Schedule::Step::use) { work(task.item); }
  });
}

}  // namespace

KvComparison compare_dump(const KvSetup& setup) {
  const auto start = std::chrono::steady_clock::now();
  const tensors::Dump dump = read_dump(setup);
  const kvcompress::Shape shape = shape_of(dump, setup.rope_theta >= 0.0 ? setup.rope_theta : dump.config.rotary.base);
  KvComparison result;
  result.setup = setup;
  result.layers = dump.layers;
  result.sequences = dump.sequences.size();
  result.tokens = dump.tokens;
  result.decoded = decoded_tokens(setup, dump);
  result.budget = budget_rows(setup.budget, dump.tokens - result.decoded);
  result.dump = dump_facts(setup, dump, shape);
  const auto dense = static_cast<std::size_t>(std::count_if(dump.layers.begin(), dump.layers.end(), [](std::size_t l) { return l < 2; }));
  const std::vector<Policy> policies = read_policies(setup.policies, result.budget, dump.tokens - result.decoded, parts(), dense);
  check(policies, shape);

  const std::size_t layers = dump.layers.size();
  const std::size_t sequences = dump.sequences.size();
  Progress progress(sequences * (layers + policies.size() * result.decoded));
  std::vector<std::vector<ExactLayer>> exact(sequences, std::vector<ExactLayer>(layers));
  for_all(sequences * layers, setup.threads, [&](std::size_t task) {
    exact[task / layers][task % layers] = exact_attention(dump, dump.sequences[task / layers][task % layers], result.decoded);
    progress.advance();
  });
  std::vector<std::vector<KvSums>> measured(policies.size() * sequences);
  for_all(measured.size(), setup.threads, [&](std::size_t task) {
    const std::string& policy = policies[task / sequences].settings;
    const std::size_t sequence = task % sequences;
    auto cache = make_cache(policy, shape, {});
    KvMeasuring measuring(cache, shape, dump, dump.sequences[sequence], exact[sequence], result.decoded, retrieves(policy));
    measured[task] = measuring.run([&] { progress.advance(); });
  });
  for (std::size_t p = 0; p < policies.size(); ++p) {
    KvRow row{policies[p], std::vector<KvSums>(layers)};
    for (std::size_t task = p * sequences; task < (p + 1) * sequences; ++task) {
      for (std::size_t layer = 0; layer < layers; ++layer) { row.layers[layer].add(measured[task][layer]); }
    }
    result.rows.push_back(std::move(row));
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace comparison
