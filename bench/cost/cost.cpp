// bench/cost/cost.cpp - what an eviction costs: its decision at the end of a prompt and its part of a decoded token, as shares of attention.
// SPDX-License-Identifier: MIT
#include "cost/cost.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "competitors/policies.hpp"
#include "registry/registry.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace bench {
namespace {

using namespace kvcompress;

constexpr std::size_t steps = 128;  // the longest period of a decision
constexpr std::size_t longest_prompt = 16384;

/// Least seconds of several calls: what others on the machine take away can only add.
class Least {
 public:
  void add(double seconds) { seconds_ = std::min(seconds_, seconds); }
  [[nodiscard]] double seconds() const { return seconds_; }

 private:
  double seconds_ = 1e30;
};

const Evicting& nothing_goes() {
  static const Evicting f16{.name = "f16", .spec = "f16", .needs = {Decides::never, Observes::nothing}};
  return f16;
}

/// Attention of the prompt's last queries over all of its rows, where nothing is evicted; the whole prompt's is as much longer as it has
/// more pairs of a query and a row that it may see.
class PromptsAttention {
 public:
  explicit PromptsAttention(const Case& c)
      : data_(c), prompt_(open_prompt(nothing_goes(), data_)),
        attend_(prompt_.cache.shape(), data_, c.context - shown_queries, shown_queries) {
    for (int call = 0; call < 4; ++call) { time_last(); }  // so that the first rows of the table have a least, too
  }

  double time_last() {
    const double seconds = seconds_of([&] { attend_(prompt_.cache, 0); });
    last_.add(seconds);
    return seconds;
  }
  /// Of one layer's prompt of so many tokens, by the fastest call so far.
  [[nodiscard]] double seconds(std::size_t tokens) const {
    const auto pairs = [](double queries, double rows) { return queries * (rows - (queries - 1.0) / 2.0); };
    const auto prompt = static_cast<double>(tokens);
    return last_.seconds() * pairs(prompt, prompt) / pairs(static_cast<double>(shown_queries), static_cast<double>(data_.of().context));
  }

 private:
  Data data_;
  OpenPrompt prompt_;
  Attention attend_;
  Least last_{};
};

/// Made once: a second or two, and memory for 16k tokens.
PromptsAttention& prompts_attention(const Case& c) {
  static PromptsAttention the(c);
  return the;
}

std::string verdict(double share, const char* of) {
  return fmt::format("{:.2f} % of {}{}", 100.0 * share, of, share > cost_target ? ", MORE than 5 %" : "");
}

void measure_end_prompt(benchmark::State& state, const Evicting& which, const Case& c) {
  PromptsAttention& plain = prompts_attention({.context = longest_prompt});
  const Data data(c);
  OpenPrompt prompt = open_prompt(which, data);
  AnyCache cache = prompt.cache;
  Least least;
  Least observing;
  Least plainly;
  double spent = 0.0;
  const auto end_prompt = [&] {
    const double seconds = seconds_of([&] {
      for (std::size_t layer = 0; layer < which.layers; ++layer) { cache.end_prompt(layer); }
    });
    least.add(seconds / static_cast<double>(which.layers));
    spent += seconds;
  };
  end_prompt();
  if (const std::string why = wrong_rows(which, cache, c.context, 0); !why.empty()) { return state.SkipWithError(why.c_str()); }
  const double rows = rows_of(cache, which.decoding_layer());

  Medians times{.kept = 1};
  plainly.add(plain.time_last());
  for (; times.kept < std::min<std::size_t>(settings().rounds, 3) && spent < 0.5; ++times.kept) {
    cache = AnyCache(prompt.cache);
    end_prompt();
  }
  const bool observes = which.needs.observes == Observes::every_query;
  Attention attend(cache.shape(), data, c.context - shown_queries, shown_queries);
  for (std::size_t round = 0; observes && round < 3; ++round) {
    cache = AnyCache(prompt.cache);
    observing.add(seconds_of([&] { attend(cache, 0); }));
    plainly.add(plain.time_last());
  }
  times.seconds = least.seconds();
  const double share = times.seconds / plain.seconds(c.context);
  const double while_attended =
      observes ? observing.seconds() / plainly.seconds() - 1.0 : prompt.seconds_of_queries / plain.seconds(c.context);
  Row row(state);
  row.of(c);
  row.times(times, static_cast<double>(c.context), 0.0);
  row.set(counter::cost_share, share);
  row.set(counter::observing_share, while_attended);
  row.set("rows_kept", rows);
  std::string note = verdict(share, "the prompt's attention");
  if (c.context != longest_prompt) { note += fmt::format("; {} tokens", c.context); }
  if (observes || which.needs.queries) { note += fmt::format("; observing: {:.1f} %", 100.0 * while_attended); }
  row.note(note);
}

/// Tokens of a cache that decodes: append, which commits the step before, and attend.
class Decoding {
 public:
  Decoding(const Evicting& which, const Data& data, std::size_t layer, std::span<const float> keys, std::span<const float> values,
           std::span<const float> queries)
      : case_(data.of()), layer_(layer), keys_(keys), values_(values), queries_(queries), attend_(which.shape(case_), data, 0, 1) {}

  struct Seconds {
    double append;
    double attend;
  };
  Seconds step(AnyCache& cache, std::size_t i) {
    const std::size_t width = case_.kv_heads * case_.head_dim;
    const auto rows = [&](std::span<const float> from) {
      return Rows::tokens_first(from.data() + i * width, 1, case_.kv_heads, case_.head_dim);
    };
    attend_.look(queries_.data() + i * case_.query_heads * case_.head_dim);
    const double appended = seconds_of([&] { cache.append(layer_, rows(keys_), rows(values_)); });
    return {appended, seconds_of([&] { attend_(cache, layer_); })};
  }

 private:
  Case case_;
  std::size_t layer_;
  std::span<const float> keys_;
  std::span<const float> values_;
  std::span<const float> queries_;
  Attention attend_;
};

/// The least of every step over the rounds, all steps together: a step is shorter than a slice of the processor, so most of them are undisturbed.
class Fastest {
 public:
  void add(std::size_t i, const Decoding::Seconds& seconds) {
    append_[i].add(seconds.append);
    attend_[i].add(seconds.attend);
  }
  [[nodiscard]] double append() const { return mean(append_); }
  [[nodiscard]] double attend() const { return mean(attend_); }

 private:
  static double mean(const std::vector<Least>& all) {
    double sum = 0.0;
    for (const Least& one : all) { sum += one.seconds(); }
    return sum / static_cast<double>(all.size());
  }
  std::vector<Least> append_{steps};
  std::vector<Least> attend_{steps};
};

void measure_decode(benchmark::State& state, const Evicting& which, const Case& c) {
  const Data data(c);
  const std::size_t layer = which.decoding_layer();
  const std::vector<float> keys = data.keys(layer, c.context, 2 * steps);
  const std::vector<float> values = data.values(layer, c.context, 2 * steps);
  const std::vector<float> queries = data.queries(c.context, 2 * steps);
  OpenPrompt prompt = open_prompt(which, data);
  for (std::size_t l = 0; l < which.layers; ++l) { prompt.cache.end_prompt(l); }
  Decoding with(which, data, layer, keys, values, queries);

  for (std::size_t i = 0; i < steps; ++i) { with.step(prompt.cache, i); }
  AnyCache cache = prompt.cache;
  double rows = 0.0;
  for (std::size_t i = 0; i < steps; ++i) {
    with.step(cache, steps + i);
    rows += rows_of(cache, layer) / static_cast<double>(steps);
  }
  cache.commit(layer);
  if (const std::string why = wrong_rows(which, cache, c.context, 2 * steps); !why.empty()) { return state.SkipWithError(why.c_str()); }

  // Where nothing goes, and in the mean over the steps as many rows are there.
  const auto held = static_cast<std::size_t>(std::lround(rows - 0.5 * static_cast<double>(steps + 1)));
  AnyCache all = examples::registry().make("f16", nothing_goes().shape(c));
  append(all, data, 0, 0, held);
  all.end_prompt(0);
  Decoding without(nothing_goes(), data, 0, keys, values, queries);
  AnyCache plain = all;

  Medians times{};
  Fastest evicts;
  Fastest keeps;
  double spent = 0.0;
  for (; times.kept < std::min<std::size_t>(settings().rounds, 9) && (times.kept < 2 || spent < 0.7); ++times.kept) {
    cache = AnyCache(prompt.cache);
    plain = AnyCache(all);
    for (std::size_t i = 0; i < steps; ++i) {
      keeps.add(i, without.step(plain, i));
      const Decoding::Seconds seconds = with.step(cache, steps + i);
      evicts.add(i, seconds);
      spent += seconds.append + seconds.attend;
    }
  }
  times.seconds = evicts.append() + evicts.attend();
  const double share = (times.seconds - keeps.append() - keeps.attend()) / keeps.attend();
  Row row(state);
  row.of(c);
  row.times(times, 1.0, 0.0);
  row.set(counter::cost_share, share);
  row.set("cost_share_append", (evicts.append() - keeps.append()) / keeps.attend());
  row.set("cost_share_attend", (evicts.attend() - keeps.attend()) / keeps.attend());
  row.set("rows_kept", rows);
  row.note(verdict(share, "attention") + fmt::format(" over {:.0f} rows", rows));
}

}  // namespace

void add_cost() {
  static const std::vector<Evicting> all = evicting();
  const auto add = [](const Evicting& which, const char* what, const Case& c, auto measure) {
    add_row("cost/" + which.name + "/" + what, [&which, c, measure](benchmark::State& state) {
      try {
        measure(state, which, c);
      } catch (const Error& refused) {  // by the registry's next part, say
        state.SkipWithError(refused.what());
      }
    });
  };
  for (const Evicting& which : all) {
    add(which, "end_prompt", {.context = which.prompt}, measure_end_prompt);
    add(which, "decode", {.context = 2048}, measure_decode);
  }
}

}  // namespace bench
