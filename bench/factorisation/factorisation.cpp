// bench/factorisation/factorisation.cpp - the row space of a prompt's keys against Eigen's SVD, verified before it is timed.
// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>

#include <fmt/format.h>

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "factorisation/bdcsvd.hpp"
#include "kvcompress/core/half.hpp"
#include "kvcompress/low_rank/row_space.hpp"
#include "runner/scenarios.hpp"
#include "runner/settings.hpp"

namespace {

using namespace kvcompress;
using bench::Floats;
using low_rank::Factorisation;

/// What a matrix is like, by its singular values from the first to the one of the given index.
struct Spectrum {
  const char* name;
  double (*sigma)(double index, double rank, double columns);
};

constexpr Spectrum spectra[] = {
    {"offsets", [](double i, double, double) { return i > 0.0 ? 1.0 / std::sqrt(i) : 20.0; }},  // like keys: mean and power law
    {"noise", [](double i, double, double n) { return 1.5 - i / n; }},                          // nothing to gain, slow to find
    {"steep", [](double i, double r, double) { return std::exp(-8.0 * i / r); }},
    {"low_rank", [](double i, double r, double) { return i < r / 2.0 ? 1.0 / (1.0 + i) : 0.0; }},
};

struct Shape {
  std::size_t tokens;
  std::size_t columns;
  std::size_t rank;
  const Spectrum* spectrum;
  friend auto operator<=>(const Shape&, const Shape&) = default;
};

/// Walsh-Hadamard transform of every column, normalised: an orthogonal matrix times `m`. The rows must be a power of two.
void transform(Floats& m) {
  for (Eigen::Index half_size = 1; half_size < m.rows(); half_size *= 2) {
    for (Eigen::Index i = 0; i < m.rows(); ++i) {
      if ((i & half_size) != 0) { continue; }
      for (Eigen::Index c = 0; c < m.cols(); ++c) {
        const float a = m(i, c);
        const float b = m(i + half_size, c);
        m(i, c) = a + b;
        m(i + half_size, c) = a - b;
      }
    }
  }
  m *= static_cast<float>(1.0 / std::sqrt(static_cast<double>(m.rows())));
}

/// A matrix of known singular values, in 16 bits where 32 would not fit a small machine. The first left vector is constant, so
/// that the first right one is an offset for every channel.
class Keys {
 public:
  explicit Keys(const Shape& shape) : rows_(shape.tokens), columns_(shape.columns) {
    std::mt19937 rng(1);  // fixed seed: every run reads the same numbers
    const auto n = static_cast<Eigen::Index>(columns_);
    Floats right = Floats::Identity(n, n);
    for (int round = 0; round < 2; ++round) {
      for (Eigen::Index i = 0; i < n; ++i) { right.row(i) *= (rng() & 1U) != 0 ? -1.0F : 1.0F; }
      transform(right);
    }
    std::vector<Eigen::Index> place(rows_);
    std::iota(place.begin(), place.end(), Eigen::Index{0});
    std::shuffle(place.begin() + 1, place.end(), rng);
    std::vector<float> sigma(columns_);
    for (std::size_t i = 0; i < columns_; ++i) {
      const double s = shape.spectrum->sigma(static_cast<double>(i), static_cast<double>(shape.rank), static_cast<double>(columns_));
      sigma[i] = static_cast<float>(s);
      total_ += s * s;
      tail_ += i < shape.rank ? 0.0 : s * s;
    }
    const bool narrow = rows_ * columns_ > std::size_t{1} << 25U;
    (narrow ? halves_.resize(rows_ * columns_) : floats_.resize(rows_ * columns_));
    constexpr std::size_t width = 64;  // channels at a time
    for (std::size_t first = 0; first < columns_; first += width) {
      Floats part = Floats::Zero(static_cast<Eigen::Index>(rows_), width);
      for (std::size_t i = 0; i < columns_; ++i) {
        part.row(place[i]) =
            sigma[i] * right.col(static_cast<Eigen::Index>(i)).segment(static_cast<Eigen::Index>(first), width).transpose();
      }
      transform(part);
      part *= std::sqrt(static_cast<float>(rows_));  // entries near 1, where 16 bits are good
      for (std::size_t t = 0; t < rows_; ++t) {
        for (std::size_t c = 0; c < width; ++c) {
          const float x = part(static_cast<Eigen::Index>(t), static_cast<Eigen::Index>(c));
          if (narrow) {
            halves_[t * columns_ + first + c] = half(x);
          } else {
            floats_[t * columns_ + first + c] = x;
          }
        }
      }
    }
  }

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t columns() const { return columns_; }
  void load(std::size_t first, std::size_t count, float* out) const {
    const std::size_t begin = first * columns_;
    if (halves_.empty()) {
      std::copy_n(floats_.data() + begin, count * columns_, out);
    } else {
      for (std::size_t i = 0; i < count * columns_; ++i) { out[i] = static_cast<float>(halves_[begin + i]); }
    }
  }
  [[nodiscard]] double norm() const { return std::sqrt(static_cast<double>(rows_) * total_); }
  [[nodiscard]] double optimum() const { return std::sqrt(static_cast<double>(rows_) * tail_); }
  [[nodiscard]] Eigen::Map<const Floats> floats() const {
    return {floats_.data(), static_cast<Eigen::Index>(rows_), static_cast<Eigen::Index>(columns_)};
  }

 private:
  std::size_t rows_;
  std::size_t columns_;
  double total_ = 0.0;
  double tail_ = 0.0;
  std::vector<float> floats_{};
  std::vector<half> halves_{};
};

/// The keys of a shape; only the latest are kept.
const Keys& keys(const Shape& shape) {
  static std::unique_ptr<Keys> latest;
  static Shape which{};
  if (!latest || which != shape) {
    latest.reset();
    latest = std::make_unique<Keys>(shape);
    which = shape;
  }
  return *latest;
}

/// Frobenius norm of M - M W W^T over the optimum, which for an exactly low rank is what float resolves.
double error_over_optimum(const Keys& source, const Eigen::Map<const Floats>& w) {
  const auto columns = static_cast<Eigen::Index>(source.columns());
  constexpr std::size_t step = 512;
  Floats tile(step, columns);
  double sum = 0.0;
  for (std::size_t first = 0; first < source.rows(); first += step) {
    source.load(first, step, tile.data());
    const Floats projected = tile * w;
    sum += (tile - projected * w.transpose()).rowwise().squaredNorm().cast<double>().sum();
  }
  return std::sqrt(sum) / std::max(source.optimum(), 2e-6 * source.norm());
}

struct Reference {
  double seconds;
  double error;
};

/// BDCSVD of a matrix, once per program: with 4096 columns it takes 12 s.
const Reference& bdcsvd(const Shape& shape) {
  static std::map<Shape, Reference> known;
  if (const auto found = known.find(shape); found != known.end()) { return found->second; }
  const Keys& source = keys(shape);
  Floats w;
  const double seconds = bench::time_of_bdcsvd(source.floats(), static_cast<Eigen::Index>(shape.rank), w);
  return known[shape] = {seconds, error_over_optimum(source, {w.data(), w.rows(), w.cols()})};
}

bool has_bdcsvd(const Shape& shape) { return shape.tokens == 4096; }

void run_bdcsvd(benchmark::State& state, const Shape& shape) {
  const Reference& reference = bdcsvd(shape);
  for (auto _ : state) { state.SetIterationTime(reference.seconds); }
  state.counters["seconds"] = reference.seconds;
  state.counters["error_over_optimum"] = reference.error;
  state.SetLabel(fmt::format("error {:.3f} of the optimum", reference.error));
  state.counters["matrix_bytes"] = static_cast<double>(shape.tokens * shape.columns * sizeof(float));
}

/// Bytes from the heap, and the most that were held at once.
struct Peak {
  std::size_t held = 0;
  std::size_t most = 0;
  Memory handle() {
    return {[](void* self, std::size_t bytes, std::size_t alignment) -> void* {
              auto& peak = *static_cast<Peak*>(self);
              peak.most = std::max(peak.most, peak.held += bytes);
              return ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
            },
            [](void* self, void* address, std::size_t bytes, std::size_t alignment) {
      static_cast<Peak*>(self)->held -= bytes;
      ::operator delete(address, std::align_val_t(alignment));
            },
            this};
  }
};

void run_ours(benchmark::State& state, const Shape& shape, Factorisation mode) {
  const double reference = has_bdcsvd(shape) ? bdcsvd(shape).seconds : 0.0;
  const Keys& source = keys(shape);
  Peak peak;
  double error = 0.0;
  {
    const low_rank::RowSpace space = find_row_space(source, shape.rank, mode, peak.handle());
    error =
        error_over_optimum(source, {space.vectors.data(), static_cast<Eigen::Index>(space.columns), static_cast<Eigen::Index>(space.rank)});
  }
  if (!(error <= 1.01)) { return state.SkipWithError("the error is more than 1 % above the optimum"); }
  double seconds = 0.0;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(find_row_space(source, shape.rank, mode, Memory{}));
    const double once = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    state.SetIterationTime(once);
    seconds += once;
  }
  seconds /= static_cast<double>(state.iterations());
  state.counters["seconds"] = seconds;
  state.counters["error_over_optimum"] = error;
  state.counters["peak_bytes"] = static_cast<double>(peak.most);
  state.counters["matrix_bytes"] = static_cast<double>(shape.tokens * shape.columns * sizeof(float));
  if (reference > 0.0) { state.counters["speed_vs_bdcsvd"] = reference / seconds; }
  state.SetLabel(fmt::format("error {:.3f} of the optimum, {}{:.1f} MB at most", error,
                             reference > 0.0 ? fmt::format("{:.1f} x BDCSVD, ", reference / seconds) : "",
                             1e-6 * static_cast<double>(peak.most)));
}

void add(const std::string& method, std::size_t columns, std::size_t rank) {
  for (const std::size_t tokens : {std::size_t{4096}, std::size_t{32768}}) {
    for (const Spectrum& spectrum : spectra) {
      const Shape shape{tokens, columns, rank, &spectrum};
      const auto add_one = [&](const std::string& who, auto... arguments) {
        const std::string name =
            "factorisation/" + who + "/" + method + "/r" + std::to_string(rank) + "/" + spectrum.name + "/" + std::to_string(tokens);
        benchmark::RegisterBenchmark(name.c_str(), arguments...)
            ->UseManualTime()
            ->Iterations(who == "bdcsvd" ? 1 : 3)
            ->Unit(benchmark::kMicrosecond);
      };
      if (has_bdcsvd(shape)) { add_one("bdcsvd", run_bdcsvd, shape); }
      add_one("automatic", run_ours, shape, Factorisation::automatic);
      if (columns <= 1024) { add_one("exact", run_ours, shape, Factorisation::exact); }
      if (tokens > 4096) { break; }  // long prompts: the first spectrum tells the time
    }
    if (!bench::settings().full) { return; }
  }
}

}  // namespace

void bench::add_factorisation() {
  add("shadowkv", 1024, 160);
  if (!settings().full) { return notes().push_back("factorisation/ of 4096 columns or 32k tokens: --full; BDCSVD takes 11 s each."); }
  add("xkv", 4096, 512);
  add("xkv", 4096, 768);
}
