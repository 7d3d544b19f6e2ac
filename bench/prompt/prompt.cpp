// bench/prompt/prompt.cpp - the causal attention of a whole prompt, one layer, in chunks as an engine gives them.
// SPDX-License-Identifier: MIT
#include "prompt/prompt.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>

#include "competitors/policies.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace bench {
namespace {

/// append and attend on a fresh cache, chunk by chunk.
class OurPrompt final : public PromptAttention {
 public:
  OurPrompt(const Policy& policy, const Data& data)
      : policy_(policy), case_(data.of()), keys_(data.keys(0, 0, case_.context)), values_(data.values(0, 0, case_.context)),
        queries_(data.queries(0, case_.context)), output_(queries_.size()), workspace_(make_cache(policy, case_).shape()) {}

  void run() override {
    using namespace kvcompress;
    AnyCache cache = make_cache(policy_, case_);
    const std::size_t width = case_.kv_heads * case_.head_dim;
    const std::size_t query_width = case_.query_heads * case_.head_dim;
    for (std::size_t t = 0; t < case_.context; t += chunk) {
      const std::size_t count = std::min(chunk, case_.context - t);
      cache.append(0, Rows::tokens_first(keys_.data() + t * width, count, case_.kv_heads, case_.head_dim),
                   Rows::tokens_first(values_.data() + t * width, count, case_.kv_heads, case_.head_dim));
      cache.attend(0, Rows::tokens_first(queries_.data() + t * query_width, count, case_.query_heads, case_.head_dim),
                   Output::tokens_first(output_.data() + t * query_width, count, case_.query_heads, case_.head_dim), workspace_, {}, {});
    }
  }
  [[nodiscard]] std::span<const float> output() const override { return output_; }

 private:
  static constexpr std::size_t chunk = 256;

  const Policy& policy_;
  Case case_;
  std::vector<float> keys_;
  std::vector<float> values_;
  std::vector<float> queries_;
  std::vector<float> output_;
  kvcompress::Workspace workspace_;
};

/// The worst of a few tokens and heads, against the rows as they came (ours hold them in f16).
double error_of(const PromptAttention& prompt, const Data& data) {
  const Case& c = data.of();
  std::vector<float> rows(3 * c.head_dim);
  double worst = 0.0;
  for (const std::size_t token : {std::size_t{0}, c.context / 2, c.context - 1}) {
    for (const std::size_t head : {std::size_t{0}, c.query_heads / 2 + 1, c.query_heads - 1}) {
      data.query(token, head, rows.data() + 2 * c.head_dim);
      const auto expected = attention(rows.data() + 2 * c.head_dim, c.head_dim, [&](auto&& visit) {
        for (std::size_t t = 0; t <= token; ++t) {
          data.key(0, t, head / c.group(), rows.data());
          data.value(0, t, head / c.group(), rows.data() + c.head_dim);
          visit(rows.data(), rows.data() + c.head_dim);
        }
      });
      worst = std::max(worst, relative_error(prompt.output().subspan((token * c.query_heads + head) * c.head_dim, c.head_dim), expected));
    }
  }
  return worst;
}

using Make = std::function<std::unique_ptr<PromptAttention>(const Data&)>;

void measure_prompt(benchmark::State& state, const Make& make, const Case& c) {
  const Data data(c);
  const std::unique_ptr<PromptAttention> subject = make(data);
  OurPrompt f16(policy("f16"), data);
  subject->run();
  const double error = error_of(*subject, data);
  if (!(error <= 4e-3)) { return state.SkipWithError(fmt::format("wrong: differs from its definition by {:.1e}", error).c_str()); }
  const Medians medians =
      measure({.baseline = [&] { f16.run(); }, .subject = [&] { subject->run(); }}, std::min<std::size_t>(settings().rounds, 5));
  Row row(state);
  row.of(c);
  row.times(medians, static_cast<double>(c.context), 0.0);
  row.set(counter::output_error, error);
  // Two products of a multiplication and an addition each, for the half of all pairs that is causal.
  const double operations =
      2.0 * static_cast<double>(c.context) * static_cast<double>(c.context + 1) * static_cast<double>(c.query_heads * c.head_dim);
  row.set("operations_per_second", operations / medians.seconds);
  row.note(fmt::format("{:.1f} Gflop/s", 1e-9 * operations / medians.seconds));
}

}  // namespace

void add_prompt() {
  const Case c{.context = settings().full ? std::size_t{4096} : std::size_t{1024}};
  const auto add = [&](const std::string& name, const Make& make) {
    add_row("prompt/" + name + "/" + c.path(), [make, c](benchmark::State& state) { measure_prompt(state, make, c); });
  };
  for (const char* name : {"f16", "h2o1024", "snapkv1024"}) {  // storages do not matter before end_prompt
    add(name, [&which = policy(name)](const Data& data) { return std::make_unique<OurPrompt>(which, data); });
  }
  add("eigen", eigen_prompt);
}

}  // namespace bench
