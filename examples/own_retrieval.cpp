// examples/own_retrieval.cpp - a retrieval of your own over KIVI's codes; CONTRIBUTING.md shows this program.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <cstdio>
#include <vector>
using namespace kvcompress;

/// Every row stays; a query reads the newest `window` rows and every `stride`-th older one ("Generating Long Sequences with Sparse
/// Transformers", the strided pattern). Cost: nothing is remembered. Loses: the rows between, for this query.
struct Strided {
  static constexpr std::string_view name = "strided";
  struct Options {
    std::size_t window = 128;
    std::size_t stride = 8;
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("stride", options.stride);
    }
  };
  struct State : NoState {
    std::size_t rows = 0;  // that select chooses from; later ones are always read
    void resize(std::size_t count) noexcept { rows = std::min(rows, count); }
    void erase(std::size_t, std::size_t count) noexcept { rows -= std::min(rows, count); }
    [[nodiscard]] std::size_t indexed() const noexcept { return rows; }
    static constexpr Reads reads() noexcept { return {}; }
    static void remember_first(const Vector<RowRange>&) noexcept {}
    static void persist(auto& self, auto& archive, std::size_t most) {
      archive.number(self.rows);
      archive.check(self.rows <= most, "more rows are indexed than there are");
    }
  };

  static void validate(const Options& options, const Shape&) {
    require(options.stride > 0, ErrorCode::option, "strided: stride is 0, must be at least 1");
  }
  static constexpr bool reads_all(const Options&, const Site&) noexcept { return false; }
  static constexpr bool wants_last_query(const Options&, const Site&) noexcept { return false; }
  static constexpr bool renumbers(const Options&, const Site&) noexcept { return true; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
  static constexpr std::size_t bytes_for(const Options&, const Site&, std::size_t) noexcept { return 0; }
  static void make_room_to_refresh(const Options&, State&, std::size_t, Vector<float>&) noexcept {}
  static void refresh(const Options& options, State& state, const RowTable& table, bool, std::size_t, auto&&, Vector<float>&) noexcept {
    state.rows = table.rows() - std::min(options.window, table.rows());
  }
  static void select(const Options& options, const State& state, const Retrieving& in, Vector<RowRange>& ranges) {
    for (std::size_t row = 0; row < state.rows; row += options.stride) {
      if (in.visible.sees(in.table, row)) { ranges.push_back({row, row + 1}); }
    }
  }
};
struct StridedAttention {
  using Retrieval = Strided;
};

int main() {
  KVCache<Combine<Kivi<4>, StridedAttention>> cache({.query_heads = 2, .kv_heads = 1, .head_dim = 64},
                                                    {.retrieval = {.window = 64, .stride = 8}});
  const std::size_t tokens = 400;
  std::vector<float> keys(tokens * 64), values(tokens * 64), queries(2 * 64, 1.0F), out(2 * 64);
  for (std::size_t t = 0; t < tokens; ++t) {
    values[t * 64] = t % 8 == 0 ? 1.0F : 0.0F;
  }  // of the rows before the window only these are read
  cache.append(0, Rows::tokens_first(keys.data(), tokens, 1, 64), Rows::tokens_first(values.data(), tokens, 1, 64));
  cache.end_prompt(0);
  cache.append(0, Rows::tokens_first(keys.data(), 1, 1, 64), Rows::tokens_first(values.data(), 1, 1, 64));
  cache.attend(0, Rows::tokens_first(queries.data(), 1, 2, 64), Output::tokens_first(out.data(), 1, 2, 64));
  std::printf("%.2f of the rows read are at multiples of 8\n", static_cast<double>(out[0]));
  return out[0] > 0.4F && out[0] < 0.5F ? 0 : 1;  // 42 of 336 rows and 9 of 65: 51 of 107
}
