// bench/runner/attention_row.cpp - how attention is measured: verified, then timed beside the read limit and our f16.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "runner/competitor.hpp"
#include "runner/machine.hpp"
#include "runner/read_limit.hpp"
#include "runner/row.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace bench {
namespace {

const Entrant& entrant(std::string_view name) {
  return *std::find_if(entrants().begin(), entrants().end(), [&](const Entrant& one) { return one.name == name; });
}

/// What every competitor of a case is timed beside; rows of one case follow each other, so only the latest is kept.
struct Side {
  explicit Side(const Case& c) : data(c), f16(entrant("f16").make()) { f16->prepare(data, cold_bytes()); }

  /// A buffer from which `bytes` at a time are cold.
  ReadLimit& limit_for(std::size_t bytes) {
    if (!limit || limit->bytes() < std::max(bytes, cold_bytes())) {
      limit.reset();
      limit = std::make_unique<ReadLimit>(std::max(bytes, cold_bytes()));
    }
    return *limit;
  }

  Data data;
  std::unique_ptr<Competitor> f16;
  std::unique_ptr<ReadLimit> limit{};
};

Side& side_of(const Case& c) {
  static std::unique_ptr<Side> latest;
  if (!latest || !(latest->data.of() == c)) {
    latest.reset();
    latest = std::make_unique<Side>(c);
  }
  return *latest;
}

void measure_attention(benchmark::State& state, const Entrant& who, const Case& c) {
  Side& side = side_of(c);
  const std::unique_ptr<Competitor> subject = who.make();
  subject->prepare(side.data, cold_bytes());
  subject->run();
  Row row(state);
  if (!subject->output().empty()) {
    const Errors errors = errors_of(*subject, side.data);
    if (!(errors.kernel <= subject->tolerance())) {
      return state.SkipWithError(
          fmt::format("wrong: differs from its definition by {:.1e}, must be at most {:.1e}", errors.kernel, subject->tolerance()).c_str());
    }
    row.errors(errors);
  }
  ReadLimit& limit = side.limit_for(subject->bytes_read());
  const Medians medians = measure({.limit = [&] { limit.run(subject->bytes_read(), threads(c.threads)); },
                                   .baseline = [&] { side.f16->run(); },
                                   .subject = [&] { subject->run(); }},
                                  settings().rounds);
  row.of(c);
  row.times(medians, 1.0, static_cast<double>(subject->bytes_read()));
  row.set(counter::bits, subject->bits_per_value());
  if (subject->hit_rate() >= 0.0) {
    row.set(counter::hits, subject->hit_rate());
    row.note(fmt::format("{:.0f} % of the chosen rows at hand", 100.0 * subject->hit_rate()));
  }
}

/// The read limit as a row of its own: the bytes of f16.
class LimitAlone final : public Competitor {
 public:
  void prepare(const Data& data, std::size_t cold) override {
    bytes_ = (data.of().context + 1) * data.of().values_per_token() * 2;
    threads_ = data.of().threads;
    limit_ = std::make_unique<ReadLimit>(std::max(bytes_, cold));
  }
  void run() override { limit_->run(bytes_, threads(threads_)); }
  [[nodiscard]] std::span<const float> output() const override { return {}; }
  [[nodiscard]] std::size_t bytes_read() const override { return bytes_; }
  [[nodiscard]] double bits_per_value() const override { return 16.0; }

 private:
  std::size_t bytes_ = 0;
  std::size_t threads_ = 1;
  std::unique_ptr<ReadLimit> limit_{};
};

const Enter enter_limit({.name = "read_limit", .make = [] { return std::make_unique<LimitAlone>(); }});

}  // namespace

void add_attention(const std::string& scenario, const std::vector<std::string_view>& names, const Case& c, const std::string& suffix) {
  if (!has_room(scenario, c)) { return; }
  for (const bool external : {false, true}) {
    for (const Entrant& one : entrants()) {
      const bool named = names.empty() || std::find(names.begin(), names.end(), one.name) != names.end();
      if (one.external != external || !(named || external) || !one.fits(c)) { continue; }
      add_row(scenario + "/" + one.name + "/" + c.path() + suffix,
              [&one, c](benchmark::State& state) { measure_attention(state, one, c); });
    }
  }
}

bool has_room(const std::string& scenario, const Case& c) {
  // f32 twice, f16 twice, and what rotates so that it is cold.
  const std::size_t needed = 12 * (c.context + 1) * c.values_per_token() + 4 * cold_bytes();
  const std::size_t available = available_memory();
  if (needed <= available) { return true; }
  notes().push_back(fmt::format("{}/{} left out: it needs {:.1f} GB of memory, {:.1f} GB are available.", scenario, c.path(),
                                static_cast<double>(needed) / 1e9, static_cast<double>(available) / 1e9));
  return false;
}

}  // namespace bench
