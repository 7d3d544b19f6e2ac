// bench/engine/main.cpp - what attention costs in llama.cpp, with its own caches and with ours, by depth; and how long prompts take.
// SPDX-License-Identifier: MIT
//
//     in_llama_cpp [--depths 0,4096,16384,32768] [--rounds 15] [--prompts 512] [--out engine.json]
#include <fmt/format.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/contender.hpp"
#include "kvcompress/simd/native.hpp"
#include "runner/machine.hpp"

namespace engine {
namespace {

const std::vector<Kind> kinds{{"llama.cpp f16", "", false},
                              {"llama.cpp f16, flash", ""},
                              {"llama.cpp q8_0, flash", "", true, GGML_TYPE_Q8_0},
                              {"llama.cpp q4_0, flash", "", true, GGML_TYPE_Q4_0},
                              {"full", "full"},
                              {"kivi4", "kivi4"},
                              {"kivi2", "kivi2"},
                              {"quest 2048", "quest:budget=2048"},
                              {"snapkv 1024", "snapkv:budget=1024"},
                              {"h2o 1024", "h2o:budget=1024"}};

struct Row {
  std::string name;
  std::size_t depth;
  double ms_per_token, ms_attention;
  std::size_t cache_bytes, resident_bytes;
};
struct PromptRow {
  std::string name;
  std::size_t tokens;
  int threads;
  double ms;
  std::size_t cache_bytes, resident_bytes;
};
struct Settings {
  std::vector<std::size_t> depths{0, 4096, 16384, 32768};
  std::vector<std::size_t> prompts{512};
  int rounds = 15;
  std::string out = "engine.json";
};

double mib(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }
std::vector<std::size_t> numbers(const std::string& text) {
  std::vector<std::size_t> all;
  std::stringstream in(text);
  for (std::string one; std::getline(in, one, ',');) { all.push_back(std::stoul(one)); }
  return all;
}

/// Tokens after `depth` tokens, one thread, all contenders in turn.
std::vector<Row> decode(const llama_model* model, std::size_t depth, int rounds) {
  constexpr std::size_t per_round = 4;
  std::vector<std::unique_ptr<Contender>> contenders;
  for (const Kind& kind : kinds) {
    const auto context = static_cast<std::uint32_t>(depth + static_cast<std::size_t>(rounds + 1) * (per_round + 1) + 16);
    contenders.push_back(std::make_unique<Contender>(kind, model, context, 1));
    contenders.back()->fill(depth);
    for (int i = 0; i < 3; ++i) { contenders.back()->decode(1); }
    contenders.back()->resident_when_filled = contenders.back()->resident();
  }
  for (int round = 0; round < rounds; ++round) {
    for (const auto& contender : contenders) {
      contender->decode(1);  // what the others have put in the processor's caches goes
      const double start = thread_ms();
      for (std::size_t i = 0; i < per_round; ++i) { contender->decode(1); }
      contender->fastest = std::min(contender->fastest, (thread_ms() - start) / per_round);
    }
  }
  std::vector<Row> rows;
  for (const auto& c : contenders) { rows.push_back({c->kind().name, depth, c->fastest, 0.0, c->cache_bytes(), c->resident_when_filled}); }
  return rows;
}

/// A prompt with its attention, and its end; the fastest of several rounds. Of one thread its time of computing, of several that of a clock on
/// the wall.
std::vector<PromptRow> prompts(const llama_model* model, std::size_t tokens, int threads, int rounds) {
  std::vector<std::unique_ptr<Contender>> contenders;
  const auto prompt = [&](Contender& c) {
    const auto now = threads == 1 ? thread_ms : wall_ms;
    const double start = now();
    for (std::size_t at = 0; at < tokens; at += 512) { c.decode(std::min<std::size_t>(512, tokens - at)); }
    c.end_prompt();
    c.fastest = std::min(c.fastest, now() - start);
  };
  std::vector<PromptRow> rows;
  for (const Kind& kind : kinds) {
    contenders.push_back(std::make_unique<Contender>(kind, model, static_cast<std::uint32_t>(tokens + 16), threads));
    prompt(*contenders.back());
    rows.push_back({kind.name, tokens, threads, 0.0, contenders.back()->cache_bytes(), contenders.back()->resident()});
  }
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      contenders[i]->clear();
      prompt(*contenders[i]);
      rows[i].ms = contenders[i]->fastest;
    }
  }
  return rows;
}

void run(const Settings& settings) {
  const Model model = load_model();
  fmt::print("{}; kvcompress on {}; 4 layers of 32 query and 8 KV heads of 128, random weights, decoding on one thread\n\n",
             bench::cpu_model(), kv::simd::backend);
  std::vector<Row> rows;
  std::map<std::string, double> without;  // attention
  fmt::print("{:<22} {:>7} {:>12} {:>12} {:>11} {:>13}\n", "", "depth", "ms a token", "attention ms", "cache MiB", "resident MiB");
  for (const std::size_t depth : settings.depths) {
    for (Row row : decode(model.get(), depth, settings.rounds)) {
      if (depth == 0) { without[row.name] = row.ms_per_token; }
      row.ms_attention = row.ms_per_token - without[row.name];
      fmt::print("{:<22} {:>7} {:>12.2f} {:>12.2f} {:>11.1f} {:>13.1f}\n", row.name, depth, row.ms_per_token, row.ms_attention,
                 mib(row.cache_bytes), mib(row.resident_bytes));
      std::fflush(stdout);
      rows.push_back(std::move(row));
    }
  }
  std::vector<PromptRow> of_prompts;
  fmt::print("\n{:<22} {:>7} {:>8} {:>12} {:>11} {:>13}\n", "prompts", "tokens", "threads", "ms", "cache MiB", "resident MiB");
  for (const std::size_t tokens : settings.prompts) {
    for (const int threads : {1, 2}) {
      for (PromptRow row : prompts(model.get(), tokens, threads, std::min(3, settings.rounds))) {
        fmt::print("{:<22} {:>7} {:>8} {:>12.1f} {:>11.1f} {:>13.1f}\n", row.name, tokens, threads, row.ms, mib(row.cache_bytes),
                   mib(row.resident_bytes));
        std::fflush(stdout);
        of_prompts.push_back(std::move(row));
      }
    }
  }
  nlohmann::json json{{"machine", bench::cpu_model()},
                      {"backend", kv::simd::backend},
                      {"rows", nlohmann::json::array()},
                      {"prompts", nlohmann::json::array()}};
  for (const Row& r : rows) {
    json["rows"].push_back({{"name", r.name},
                            {"depth", r.depth},
                            {"ms_per_token", r.ms_per_token},
                            {"ms_attention", r.ms_attention},
                            {"cache_bytes", r.cache_bytes},
                            {"resident_bytes", r.resident_bytes}});
  }
  for (const PromptRow& r : of_prompts) {
    json["prompts"].push_back({{"name", r.name},
                               {"tokens", r.tokens},
                               {"threads", r.threads},
                               {"ms", r.ms},
                               {"cache_bytes", r.cache_bytes},
                               {"resident_bytes", r.resident_bytes}});
  }
  std::ofstream out(settings.out);
  out << json.dump(1) << "\n";
  if (!out.flush()) { throw std::runtime_error(settings.out + ": cannot be written"); }
}

}  // namespace
}  // namespace engine

int main(int argc, char** argv) {
  try {
    engine::Settings settings;
    for (int i = 1; i + 1 < argc; i += 2) {
      const std::string option = argv[i];
      if (option == "--depths") {
        settings.depths = engine::numbers(argv[i + 1]);
      } else if (option == "--prompts") {
        settings.prompts = engine::numbers(argv[i + 1]);
      } else if (option == "--rounds") {
        settings.rounds = std::stoi(argv[i + 1]);
      } else if (option == "--out") {
        settings.out = argv[i + 1];
      } else {
        throw std::invalid_argument(option + ": no such option; there are --depths, --prompts, --rounds and --out");
      }
    }
    engine::run(settings);
  } catch (const std::exception& error) {
    fmt::print(stderr, "engine: {}\n", error.what());
    return 1;
  }
}
