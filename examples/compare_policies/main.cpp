// examples/compare_policies/main.cpp - compare_policies: what each way to compress a KV cache costs and saves, on a real text.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <thread>

#include "compare_policies/facts.hpp"
#ifdef KVCOMPRESS_LLAMA_CPP_LIBRARIES
#include "compare_policies/in_llama_cpp.hpp"
#endif
#include "compare_policies/kv_protocol.hpp"
#include "compare_policies/policies.hpp"
#include "compare_policies/policy_list.hpp"
#include "compare_policies/presets.hpp"
#include "compare_policies/progress.hpp"
#include "compare_policies/protocol.hpp"
#include "compare_policies/report.hpp"
#include "compare_policies/report_file.hpp"

namespace {

constexpr const char* description =
    R"(Compares ways to compress a KV cache, on the same tokens of a text, with a Llama-architecture model.

For each policy: bytes of the cache in fast memory and in a slow tier, perplexity, KL divergence from the exact model, top-1
agreement, needles found, speed.
Without arguments: the project's own model and text, in about a minute on two cores. The first row is always full (f16).
With --kv: on keys, values and queries of any model instead, how far each policy's attention is from the exact one, by layer.

Speeds are per CPU second of one thread while --threads work at once. Prompt tokens/s: the prompt's tokens by the time of the
exact forward pass (run once, shared by all policies) plus that of the policy's own append, observe and end_prompt. Decode
tokens/s: the whole model, token by token.)";

constexpr const char* policies_help =
    "policies, separated by ',' or ';'. A piece like key=value behind a ',' belongs to the policy before it: "
    "\"h2o:budget=256,recent=128+kivi2,full\" are two. See --list. front: ways to hold rows at 1.5 to 6 bits, beside llama.cpp's types; "
    "evictions: all of them, each sized so that it takes the bytes of --budget rows, from the prompt only and while decoding; "
    "@FILE: a list in a file";

struct Options {
  comparison::Setup setup;
  comparison::KvSetup kv;
  std::string policies =
      "full,streaming,h2o,snapkv,kivi2,kivi4,kivi8,"
      "gear2:prompt_rank=2,gear4:prompt_rank=2,"
      "xkv:layers_per_group=3,rank_keys=48,rank_values=96,fold_in=64,shadowkv,quest,quest+kivi4,h2o+kivi4,snapkv+kivi4";
  std::string budget = "25%";
  std::string engine = "example";
  std::string format = "table";
  std::string report;
  bool list = false;
};

/// CLI11 would wrap a negative number around.
std::string is_whole(const std::string& text) {
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  return digits ? "" : "\"" + text + "\" is no whole number from 0";
}

void declare_kv(CLI::App& app, comparison::KvSetup& kv, const std::vector<CLI::Option*>& others) {
  CLI::Option* path =
      app.add_option("--kv", kv.path,
                     "a folder (or file) of .npy, .npz or .safetensors with arrays named as keys, values and queries, with "
                     "the layer's number if there is one array per layer; as attention sees them, that is after the rotary "
                     "embedding; queries of the last tokens are enough. A config.json beside them tells heads and rotation");
  for (CLI::Option* other : others) { path->excludes(other); }
  app.add_option(
         "--layout", kv.layout,
         "what the axes of --kv's arrays are, such as batch,token,head,dim, where their sizes leave it open: then the program says so")
      ->needs(path);
  app.add_option("--decoded", kv.decoded, "of --kv: tokens behind the prompt (default: half, at most 256)")->check(is_whole)->needs(path);
  app.add_option("--rope-theta", kv.rope_theta, "of --kv: base of the rotary embedding, 0 for none (default: that of config.json)")
      ->check(CLI::Range(0.0, 1e300))
      ->needs(path);
}

void declare(CLI::App& app, Options& o) {
  o.setup.model = KVCOMPRESS_EXAMPLE_DATA "/kvlab-6m-q8_0.gguf";
  o.setup.text = KVCOMPRESS_EXAMPLE_DATA "/the-lighthouse-ledger.txt";
  o.setup.threads = std::min(std::max(1U, std::thread::hardware_concurrency()), 64U);
  CLI::Option* model = app.add_option("MODEL", o.setup.model, "a GGUF file (default: the project's own)")->check(CLI::ExistingFile);
  CLI::Option* text =
      app.add_option("--text", o.setup.text,
                     "a text file (default: the project's own); made: a list of goods that the program makes, unlike a book")
          ->check(CLI::ExistingFile | CLI::IsMember({comparison::made_text}));
  app.add_option("--policies", o.policies, policies_help)->capture_default_str();
  app.add_option("--budget", o.budget,
                 "rows per lane that evictions keep (streaming: sinks and window), and that a query reads with quest, landmarks and "
                 "shadowkv; or a percentage of the prompt; settings in a policy's own name come first")
      ->capture_default_str();
  app.add_option("--context", o.setup.context, "tokens of a window; the first half is the prompt")
      ->check(CLI::Range(32, 1 << 24))
      ->capture_default_str();
  app.add_option("--windows", o.setup.windows, "at most this many windows of the text; 0 takes all")
      ->check(is_whole)
      ->capture_default_str();
  CLI::Option* engine = app.add_option("--engine", o.engine,
                                       "what runs the model: this project's example of an engine (Llama architectures), or llama.cpp "
                                       "(whatever it opens; cmake/get_llama_cpp.sh)")
                            ->check(CLI::IsMember({"example", "llama.cpp"}))
                            ->capture_default_str();
  app.add_option("--threads", o.setup.threads, "windows and policies are spread over them (default: what the machine has)")
      ->check(CLI::Range(1, 256));
  CLI::Option* inside =
      app.add_flag("--inside", o.setup.inside, "ask for needles also in the prompt, before it is compressed (evictions: always)");
  CLI::Option* turns =
      app.add_option("--turns", o.setup.turns,
                     "also hold conversations: this many questions one after another, after one compression (as SCBench does)")
          ->check(is_whole);
  CLI::Option* by_layer = app.add_flag("--by-layer", o.setup.by_layer,
                                       "each policy also in one layer at a time, a storage in one layer's keys or values, the rest in f32");
  CLI::Option* calibrate =
      app.add_option(
             "--calibrate", o.setup.calibrate,
             "choose one of --policies' storages (default: lm2;lm3;lm4;rot8) for the keys and the values of each layer, so that a number "
             "takes at most this many bits; by the KL of each alone on the first two windows")
          ->check(CLI::Range(1.0, 32.0));
  app.add_option("--calibrated", o.setup.calibrated_to, "a file for that choice, which --policies @FILE reads")->needs(calibrate);
  app.add_option("--seed", o.setup.seed, "of the needles' names and numbers")->check(is_whole)->capture_default_str();
  app.add_option("--format", o.format, "of the results on standard output")
      ->check(CLI::IsMember({"table", "json", "csv"}))
      ->capture_default_str();
  CLI::Option* report = app.add_option(
      "--report", o.report, "also write an HTML report with plots to this file; llama.cpp's types of caches are measured for them too");
  for (CLI::Option* option : {by_layer, calibrate, turns, inside}) { option->excludes(engine); }
  declare_kv(app, o.kv, {model, text, report, engine, by_layer, calibrate, turns, inside});
  app.add_flag("--list", o.list, "print the parts that policies are made of, with their options, and end");
}

/// The list of --policies, or what stands for it.
std::string policies_text(const std::string& given) {
  if (!given.starts_with('@')) { return given; }
  std::ifstream file(given.substr(1));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file && text.empty()) { throw comparison::BadArgument("--policies " + given + ": cannot be read"); }
  std::replace(text.begin(), text.end(), '\n', ';');
  return text;
}

/// What the words front and evictions, and --calibrate, mean for the policies and for how they are measured.
std::vector<comparison::Policy> policies_of(Options& o, bool is_default) {
  const std::vector<comparison::Part>& parts = comparison::parts();
  const std::size_t prompt = o.setup.context / 2;
  if (o.policies == "evictions") {
    if (o.engine != "example") { throw comparison::BadArgument("--policies is evictions, which --engine " + o.engine + " does not run"); }
    o.setup.inside = true;
    std::vector<comparison::Policy> policies = comparison::read_policies("", o.setup.budget, prompt, parts);
    for (comparison::Policy& policy : comparison::eviction_policies(parts, o.setup.budget, prompt)) {
      policies.push_back(std::move(policy));
    }
    return policies;
  }
  std::string list = policies_text(o.policies);
  if (o.policies == "front") {
    o.setup.references = true;
    list = comparison::front_list;
  } else if (o.setup.calibrate > 0.0 && is_default) {
    list = "lm2;lm3;lm4;rot8";
  }
  return comparison::read_policies(list, o.setup.budget, prompt, parts);
}

void run_kv(Options& o, const std::string& command) {
  if (o.format == "csv") { throw comparison::BadArgument("--format is csv, must be table or json with --kv"); }
  o.kv.policies = o.policies;
  o.kv.budget = o.budget;
  o.kv.threads = o.setup.threads;
  comparison::KvComparison result = comparison::compare_dump(o.kv);
  result.machine = comparison::machine_facts(comparison::simd_backend());
  result.date = comparison::date_now();
  result.command = command;
  fmt::print("{}", comparison::formatted(result, o.format));
  if (std::fflush(stdout) != 0) { throw std::runtime_error("standard output cannot be written"); }
}

void run(Options& o, const std::string& command) {
  if (!o.kv.path.empty()) { return run_kv(o, command); }
  o.setup.budget = comparison::budget_rows(o.budget, o.setup.context / 2);
  o.setup.references = !o.report.empty();
  o.setup.policies = policies_of(o, o.policies == Options{}.policies);
  std::optional<comparison::ReportFile> calibrated;
  if (!o.setup.calibrated_to.empty()) { calibrated.emplace("--calibrated", o.setup.calibrated_to); }
  std::optional<comparison::ReportFile> report;
  if (!o.report.empty()) { report.emplace("--report", o.report); }
  for (const std::string& input : {o.setup.model, o.setup.text}) {
    std::error_code not_there;
    if (report && std::filesystem::equivalent(o.report, input, not_there)) {
      throw comparison::BadArgument("--report " + o.report + ": would replace what is read");
    }
  }
  const std::filesystem::path model(o.setup.model);
  comparison::Comparison result;
  if (o.engine == "example") {
    result = comparison::compare_policies(o.setup);
  } else {
#ifdef KVCOMPRESS_LLAMA_CPP_LIBRARIES
    result = comparison::compare_in_llama_cpp(o.setup);
#else
    throw comparison::BadArgument("--engine is llama.cpp, which was not there when this program was built: cmake/get_llama_cpp.sh");
#endif
  }
  if (o.policies == "front") {
    std::stable_sort(result.rows.begin() + 1, result.rows.end(),
                     [](const comparison::Row& a, const comparison::Row& b) { return a.bits_per_value < b.bits_per_value; });
  }
  std::ifstream card(model.parent_path() / "MODEL.md");
  result.known_limits = comparison::known_limits(card);
  result.machine = comparison::machine_facts(comparison::simd_backend());
  result.date = comparison::date_now();
  result.command = command;
  fmt::print("{}", comparison::formatted(result, o.format));  // first, so that a report that fails does not take it along
  if (std::fflush(stdout) != 0) { throw std::runtime_error("standard output cannot be written"); }
  if (calibrated) { calibrated->write(result.calibrated + "\n"); }
  if (report) { report->write(comparison::html_report(result)); }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CLI::App app(description, "compare_policies");
    Options options;
    declare(app, options);
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& help) { return app.exit(help); } catch (const CLI::ParseError& error) {
      throw comparison::BadArgument(error.what());
    }
    if (options.list) {
      fmt::print("{}", comparison::list_of_parts());
      return 0;
    }
    comparison::watch_for_interrupt();
    const std::vector<std::string> shown = comparison::without_folders({argv, static_cast<std::size_t>(argc)});
    const std::vector<const char*> arguments = [&] {
      std::vector<const char*> texts;
      for (const std::string& text : shown) { texts.push_back(text.c_str()); }
      return texts;
    }();
    run(options, comparison::shell_command(arguments));
    return 0;
  } catch (const comparison::BadArgument& error) {
    fmt::print(stderr, "compare_policies: {}\n", error.what());
    return 2;
  } catch (const comparison::Interrupted&) {
    fmt::print(stderr, "compare_policies: interrupted\n");
    return 130;
  } catch (const std::exception& error) {
    fmt::print(stderr, "compare_policies: {}\n", error.what());
    return 1;
  }
}
