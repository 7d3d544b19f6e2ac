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

/// How rows lie: those of all heads of a token side by side, as llama.cpp keeps them, or those of a head one behind the other, which is faster.
enum class Layout { by_token, by_head };

/// A layer is a graph of one node.
class Ggml final : public Competitor {
 public:
  Ggml(ggml_type type, Layout layout, double tolerance) : type_(type), layout_(layout), tolerance_(tolerance) {}

  void prepare(const Data& data, std::size_t cold_bytes) override {
    const Case& c = case_ = data.of();
    backend_.reset(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend_.get(), static_cast<int>(c.threads));
    const std::size_t copies = cold_bytes / bytes_read() + 1;
    context_.reset(ggml_init({copies * (8 * ggml_tensor_overhead() + ggml_graph_overhead()), nullptr, true}));
    const auto rows = static_cast<std::int64_t>(c.context + 1);
    const auto dim = static_cast<std::int64_t>(c.head_dim);
    const auto heads = static_cast<std::int64_t>(c.kv_heads);
    const auto stored = [&] {
      if (layout_ == Layout::by_head) { return ggml_new_tensor_3d(context_.get(), type_, dim, rows, heads); }
      return ggml_permute(context_.get(), ggml_new_tensor_3d(context_.get(), type_, dim, heads, rows), 0, 2, 1, 3);
    };
    std::vector<ggml_tensor*> queries;
    for (std::size_t i = 0; i < copies; ++i) {
      queries.push_back(ggml_new_tensor_3d(context_.get(), GGML_TYPE_F32, dim, 1, static_cast<std::int64_t>(c.query_heads)));
      ggml_tensor* keys = stored();
      ggml_tensor* values = stored();
      outputs_.push_back(ggml_flash_attn_ext(context_.get(), queries.back(), keys, values, nullptr,
                                             1.0F / std::sqrt(static_cast<float>(c.head_dim)), 0.0F, 0.0F));
      graphs_.push_back(ggml_new_graph_custom(context_.get(), 8, false));
      ggml_build_forward_expand(graphs_.back(), outputs_.back());
    }
    buffer_.reset(ggml_backend_alloc_ctx_tensors(context_.get(), backend_.get()));
    const std::vector<float> query = data.queries(c.context, 1);
    const std::vector<std::uint8_t> keys = encoded([&](std::size_t t, std::size_t h, float* row) { data.key(0, t, h, row); });
    const std::vector<std::uint8_t> values = encoded([&](std::size_t t, std::size_t h, float* row) { data.value(0, t, h, row); });
    const auto whole = [](ggml_tensor* rows_of) { return rows_of->view_src != nullptr ? rows_of->view_src : rows_of; };
    for (const ggml_tensor* out : outputs_) {
      ggml_backend_tensor_set(out->src[0], query.data(), 0, query.size() * sizeof(float));
      ggml_backend_tensor_set(whole(out->src[1]), keys.data(), 0, keys.size());
      ggml_backend_tensor_set(whole(out->src[2]), values.data(), 0, values.size());
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
    const std::size_t rows = case_.context + 1;
    std::vector<std::uint8_t> out(bytes_read() / 2);
    std::vector<float> numbers(rows * case_.kv_heads * case_.head_dim);
    for (std::size_t h = 0; h < case_.kv_heads; ++h) {
      for (std::size_t t = 0; t < rows; ++t) {
        load(t, h, numbers.data() + (layout_ == Layout::by_head ? h * rows + t : t * case_.kv_heads + h) * case_.head_dim);
      }
    }
    ggml_quantize_chunk(type_, numbers.data(), out.data(), 0, static_cast<std::int64_t>(rows * case_.kv_heads),
                        static_cast<std::int64_t>(case_.head_dim), nullptr);
    return out;
  }

  ggml_type type_;
  Layout layout_;
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

Entrant ggml(const char* name, ggml_type type, Layout layout, double tolerance) {
  return {.name = name,
          .make = [=] { return std::make_unique<Ggml>(type, layout, tolerance); },
          .external = true,
          .fits = [=](const Case& c) { return static_cast<std::int64_t>(c.head_dim) % ggml_blck_size(type) == 0; }};
}

// ggml sums f16 values in f16, so that the error of the first grows with the context; the others lose what their codes do.
const Enter f16(ggml("ggml_f16", GGML_TYPE_F16, Layout::by_token, 3e-1));
const Enter f16_by_head(ggml("ggml_f16_by_head", GGML_TYPE_F16, Layout::by_head, 3e-1));
const Enter q8(ggml("ggml_q8_0", GGML_TYPE_Q8_0, Layout::by_token, 1e-1));
const Enter q4(ggml("ggml_q4_0", GGML_TYPE_Q4_0, Layout::by_token, 8e-1));

}  // namespace
}  // namespace bench
