// bench/cost/evicting.cpp - the evictions and allocators by name, and prompts that they decide over.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "competitors/policies.hpp"
#include "cost/cost.hpp"
#include "registry/registry.hpp"

namespace bench {

using namespace kvcompress;

namespace {

constexpr std::size_t budget_rows = 1024;

Evicting evicting_of(const std::string& name, const std::string& spec) {
  Evicting one{.name = name, .spec = spec};
  const Shape shape = one.shape({});
  one.needs = AnyEviction::needs(examples::registry().options(spec, shape).eviction, Site(0, 0, shape));
  if (one.needs.model || name.find("pyramidkv") != std::string::npos) { one.layers = 4; }
  return one;
}

}  // namespace

std::vector<Evicting> evicting() {
  std::vector<Evicting> all;
  const std::string budget = "budget=" + std::to_string(budget_rows);
  for (const PartInfo& part : examples::registry().parts()) {
    if (part.kind == "eviction") {
      const bool has_budget = part.defaults.find("budget=") == 0;
      // A decision of these is meant to be shared by many tokens: 128 in the source of R-KV.
      const bool waits = part.name == "rkv" || part.name == "cam";
      all.push_back(evicting_of(part.name, (has_budget ? part.name + ":" + budget : part.name) + (waits ? ",period=128" : "")));
      if (part.name == "rkv") { all.back().prompt = 4096; }  // its time grows as the prompt's attention does, and is as long
      all.back().keeps_prompts = part.name == "cam";
      if (has_budget || part.defaults.find("window=1020") != std::string::npos) { all.back().budget = budget_rows; }
    } else if (part.kind == "allocator" && part.name != "cake") {  // which SnapKV's scores are refused by
      all.push_back(evicting_of("snapkv+" + part.name, "snapkv:" + budget + "+" + part.name));
      if (part.name != "variance_shares") { all.back().budget = budget_rows; }  // which leaves the first two layers and the last whole
    }
  }
  return all;
}

OpenPrompt open_prompt(const Evicting& which, const Data& data) {
  constexpr std::size_t at_once = 256;
  const Case& c = data.of();
  OpenPrompt prompt{examples::registry().make(which.spec, which.shape(c))};
  const Record record = which.needs.observes == Observes::kept_queries ? Record::kept : Record::usual;
  for (std::size_t layer = 0; layer < which.layers; ++layer) {
    for (std::size_t t = 0; t < c.context; t += at_once) {
      append(prompt.cache, data, layer, t, at_once);
      if (!which.needs.queries) { continue; }
      const std::vector<float> queries = data.queries(t, at_once);
      std::vector<Position> positions(at_once);
      std::iota(positions.begin(), positions.end(), static_cast<Position>(t));
      const Rows rows = Rows::tokens_first(queries.data(), at_once, c.query_heads, c.head_dim);
      prompt.seconds_of_queries += seconds_of([&] { prompt.cache.observe(layer, rows, positions); }) / static_cast<double>(which.layers);
    }
    if (!which.needs.queries && which.needs.observes != Observes::nothing) {
      Attention(which.shape(c), data, c.context - shown_queries, shown_queries)(prompt.cache, layer, record);
    }
  }
  return prompt;
}

double rows_of(const AnyCache& cache, std::size_t layer) {
  const std::size_t heads = cache.shape().kv_heads;
  std::size_t rows = 0;
  for (std::size_t head = 0; head < heads; ++head) { rows += cache.table(layer, head).live(); }
  return static_cast<double>(rows) / static_cast<double>(heads);
}

std::string wrong_rows(const Evicting& which, const AnyCache& cache, std::size_t prompt, std::size_t decoded) {
  double rows = 0.0;
  for (std::size_t layer = 0; layer < which.layers; ++layer) { rows += rows_of(cache, layer) / static_cast<double>(which.layers); }
  if (which.needs.decides == Decides::once) { rows -= static_cast<double>(decoded) / static_cast<double>(which.layers); }
  // Official budgets are rounded, to a row per lane; a selector or a threshold may leave places empty.
  const bool bounded = which.budget > 0 && !(which.keeps_prompts && decoded == 0);
  const double most = static_cast<double>(bounded ? which.budget + 1 : prompt);
  const double least = bounded ? 0.25 * static_cast<double>(which.budget) : 1.0;
  if (rows >= least && rows <= most) { return {}; }
  return fmt::format("wrong: {} rows per lane stay of {} after {} decoded, must be {} to {}", rows, prompt, decoded, least, most);
}

Attention::Attention(const Shape& shape, const Data& data, std::size_t first, std::size_t count)
    : case_(data.of()), count_(count), queries_(data.queries(first, count)), queries_of_(queries_.data()), output_(queries_.size()),
      workspace_(shape) {}

void Attention::operator()(AnyCache& cache, std::size_t layer, Record record) {
  cache.attend(layer, Rows::tokens_first(queries_of_, count_, case_.query_heads, case_.head_dim),
               Output::tokens_first(output_.data(), count_, case_.query_heads, case_.head_dim), workspace_, {.record = record}, {});
}

}  // namespace bench
