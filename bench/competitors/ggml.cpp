// bench/competitors/ggml.cpp - ggml's flash attention on the CPU; compiled if CMake finds a ggml package.
// SPDX-License-Identifier: MIT
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "runner/competitor.hpp"

namespace bench {
namespace {

template <auto release>
struct Release {
  void operator()(auto* it) const { release(it); }
};
using Context = std::unique_ptr<ggml_context, Release<ggml_free>>;
using Backend = std::unique_ptr<ggml_backend, Release<ggml_backend_free>>;
using Buffer = std::unique_ptr<ggml_backend_buffer, Release<ggml_backend_buffer_free>>;

/// Rows head after head, each head's contiguous. A layer is a graph of one node.
class Ggml final : public Competitor {
 public:
  Ggml(ggml_type type, double tolerance) : type_(type), tolerance_(tolerance) {}

  void prepare(const Data& data, std::size_t cold_bytes) override {
    const Case& c = case_ = data.of();
    backend_.reset(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend_.get(), static_cast<int>(c.threads));
    const std::size_t copies = cold_bytes / bytes_read() + 1;
    context_.reset(ggml_init({copies * (8 * ggml_tensor_overhead() + ggml_graph_overhead()), nullptr, true}));
    const auto rows = static_cast<std::int64_t>(c.context + 1);
    const auto dim = static_cast<std::int64_t>(c.head_dim);
    std::vector<ggml_tensor*> queries;
    for (std::size_t i = 0; i < copies; ++i) {
      queries.push_back(ggml_new_tensor_3d(context_.get(), GGML_TYPE_F32, dim, 1, static_cast<std::int64_t>(c.query_heads)));
      ggml_tensor* keys = ggml_new_tensor_3d(context_.get(), type_, dim, rows, static_cast<std::int64_t>(c.kv_heads));
      ggml_tensor* values = ggml_new_tensor_3d(context_.get(), type_, dim, rows, static_cast<std::int64_t>(c.kv_heads));
      outputs_.push_back(ggml_flash_attn_ext(context_.get(), queries.back(), keys, values, nullptr,
                                             1.0F / std::sqrt(static_cast<float>(c.head_dim)), 0.0F, 0.0F));
      graphs_.push_back(ggml_new_graph_custom(context_.get(), 8, false));
      ggml_build_forward_expand(graphs_.back(), outputs_.back());
    }
    buffer_.reset(ggml_backend_alloc_ctx_tensors(context_.get(), backend_.get()));
    const std::vector<float> query = data.queries(c.context, 1);
    const std::vector<std::uint8_t> keys = encoded([&](std::size_t t, std::size_t h, float* row) { data.key(0, t, h, row); });
    const std::vector<std::uint8_t> values = encoded([&](std::size_t t, std::size_t h, float* row) { data.value(0, t, h, row); });
    for (const ggml_tensor* out : outputs_) {
      ggml_backend_tensor_set(out->src[0], query.data(), 0, query.size() * sizeof(float));
      ggml_backend_tensor_set(out->src[1], keys.data(), 0, keys.size());
      ggml_backend_tensor_set(out->src[2], values.data(), 0, values.size());
    }
    output_.resize(query.size());
  }
  void run() override {
    next_ = (next_ + 1) % graphs_.size();
    ggml_backend_graph_compute(backend_.get(), graphs_[next_]);
    ggml_backend_tensor_get(outputs_[next_], output_.data(), 0, output_.size() * sizeof(float));
  }
  [[nodiscard]] std::span<const float> output() const override { return output_; }
  [[nodiscard]] std::size_t bytes_read() const override {
    return 2 * case_.kv_heads * (case_.context + 1) * ggml_row_size(type_, static_cast<std::int64_t>(case_.head_dim));
  }
  [[nodiscard]] double bits_per_value() const override {
    return 8.0 * static_cast<double>(bytes_read()) / static_cast<double>((case_.context + 1) * case_.values_per_token());
  }
  /// Against the rows as they were, since it does not say how it decodes them.
  [[nodiscard]] double tolerance() const override { return tolerance_; }

 private:
  [[nodiscard]] std::vector<std::uint8_t> encoded(auto&& load) const {
    std::vector<std::uint8_t> out(bytes_read() / 2);
    std::vector<float> head((case_.context + 1) * case_.head_dim);
    for (std::size_t h = 0; h < case_.kv_heads; ++h) {
      for (std::size_t t = 0; t <= case_.context; ++t) { load(t, h, head.data() + t * case_.head_dim); }
      ggml_quantize_chunk(type_, head.data(), out.data() + h * out.size() / case_.kv_heads, 0, static_cast<std::int64_t>(case_.context + 1),
                          static_cast<std::int64_t>(case_.head_dim), nullptr);
    }
    return out;
  }

  ggml_type type_;
  double tolerance_;
  Case case_{};
  Backend backend_{};
  Context context_{};
  Buffer buffer_{};
  std::vector<ggml_cgraph*> graphs_{};
  std::vector<ggml_tensor*> outputs_{};
  std::vector<float> output_{};
  std::size_t next_ = 0;
};

Entrant ggml(const char* name, ggml_type type, double tolerance) {
  return {.name = name,
          .make = [=] { return std::make_unique<Ggml>(type, tolerance); },
          .external = true,
          .fits = [=](const Case& c) { return static_cast<std::int64_t>(c.head_dim) % ggml_blck_size(type) == 0; }};
}

// ggml sums f16 values in f16, so that the error of the first grows with the context; the others lose what their codes do.
const Enter f16(ggml("ggml_f16", GGML_TYPE_F16, 3e-1));
const Enter q8(ggml("ggml_q8_0", GGML_TYPE_Q8_0, 1e-1));
const Enter q4(ggml("ggml_q4_0", GGML_TYPE_Q4_0, 8e-1));

}  // namespace
}  // namespace bench
