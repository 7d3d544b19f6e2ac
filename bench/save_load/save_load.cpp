// bench/save_load/save_load.cpp - a compressed layer to memory and back; the limit is a memcpy of the same bytes.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <span>

#include "competitors/policies.hpp"
#include "kvcompress/persistence/buffers.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace bench {
namespace {

using kvcompress::AnyCache;
using File = std::vector<std::byte>;

/// The output of the newest token.
std::vector<float> output(AnyCache& cache, const Data& data) {
  using namespace kvcompress;
  const Case& c = data.of();
  const std::vector<float> queries = data.queries(c.context, 1);
  std::vector<float> out(queries.size());
  Workspace workspace(cache.shape());
  cache.attend(0, Rows::tokens_first(queries.data(), 1, c.query_heads, c.head_dim),
               Output::tokens_first(out.data(), 1, c.query_heads, c.head_dim), workspace, {}, {});
  return out;
}

void load_all_of(AnyCache& cache, const File& file) {
  std::span<const std::byte> from(file);
  kvcompress::load(cache, kvcompress::source(from));
}

void measure_save_load(benchmark::State& state, const Policy& which, const Case& c, bool saves) {
  const Data data(c);
  AnyCache cache = compressed_prompt(which, data);
  File file;
  kvcompress::save(cache, kvcompress::sink(file));
  AnyCache loaded = make_cache(which, c);
  load_all_of(loaded, file);
  if (output(loaded, data) != output(cache, data)) { return state.SkipWithError("wrong: the loaded cache gives another output"); }
  File copy(file.size());
  File target;
  target.reserve(file.size());
  const auto copy_it = [&] {
    std::memcpy(copy.data(), file.data(), file.size());
    benchmark::ClobberMemory();
  };
  const Parts saving{
      .limit = copy_it, .subject = [&] { kvcompress::save(cache, kvcompress::sink(target)); }, .before = [&] { target.clear(); }};
  const Parts loading{.limit = copy_it, .subject = [&] { load_all_of(loaded, file); }, .before = [&] { loaded = make_cache(which, c); }};
  const Medians medians = measure(saves ? saving : loading, std::min<std::size_t>(settings().rounds, 15));
  Row row(state);
  row.of(c);
  row.times(medians, static_cast<double>(c.context), static_cast<double>(file.size()));
  row.set(counter::bits, cache.bits_per_value());
  const kvcompress::MemoryReport memory = cache.memory();
  row.note(
      fmt::format("{:.2f} of the cache's bytes", static_cast<double>(file.size()) / static_cast<double>(memory.total() - memory.scratch)));
}

}  // namespace

void add_save_load() {
  const Case c{.context = 16384};
  for (const char* name : {"f16", "kivi4", "gear4", "h2o1024", "quest2048", "shadowkv2048_hits"}) {
    for (const bool saves : {true, false}) {
      add_row("save_load/" + std::string(name) + "/" + c.path() + (saves ? "/save" : "/load"),
              [&which = policy(name), c, saves](benchmark::State& state) { measure_save_load(state, which, c, saves); });
    }
  }
}

}  // namespace bench
