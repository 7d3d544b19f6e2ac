// examples/compare_policies/tests/compare_policies_test.cpp - the parts of compare_policies that need no model.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <thread>

#if defined(__unix__)
#include <sys/stat.h>
#endif

#include "compare_policies/calibrate.hpp"
#include "compare_policies/counting_memory.hpp"
#include "compare_policies/facts.hpp"
#include "compare_policies/items.hpp"
#include "compare_policies/metrics.hpp"
#include "compare_policies/needles.hpp"
#include "compare_policies/policy_list.hpp"
#include "compare_policies/presets.hpp"
#include "compare_policies/report_file.hpp"
#include "compare_policies/schedule.hpp"

namespace comparison {
namespace {

using Names = std::vector<std::string>;

/// As the registry tells of them, some with fewer options.
const std::vector<Part>& some_parts() {
  static const std::vector<Part> parts{
      {"streaming", "eviction", "sinks=4,window=1020,in_cache_positions=true"},
      {"h2o", "eviction", "budget=2048,recent=0,reduction=mean"},
      {"snapkv", "eviction", "budget=1024,window=32,kernel=7,decode_budget=0"},
      {"adakv", "eviction", "budget=1024,decode_budget=0,window=32,floor=0.2"},
      {"chunkkv", "eviction", "budget=1024,window=32,length=20"},
      {"simlayerkv", "eviction", "threshold=0.9,first_rows=4,recent=1024,last=1"},
      {"d2o", "eviction", "budget=1024,sinks=4,recent=0,period=1"},
      {"razorattention", "eviction", "sinks=4,window=1020"},
      {"kivi4", "storage", "residual=128"},
      {"shadowkv", "storage and retrieval", "budget=2048,window=9"},
      {"adakv", "allocator", "floor=0.2"},
      {"chunkkv", "selector", "length=20"},
  };
  return parts;
}

TEST(PolicyList, CutsAtCommasAndSemicolons) {
  EXPECT_EQ(split_policies("full,h2o;kivi2"), (Names{"full", "h2o", "kivi2"}));
  EXPECT_EQ(split_policies(" full , h2o ,,"), (Names{"full", "h2o"}));
  EXPECT_EQ(split_policies("full,full"), (Names{"full"}));
  EXPECT_EQ(split_policies("h2o:budget=9,h2o:budget=9,recent=1"), (Names{"h2o:budget=9", "h2o:budget=9,recent=1"})) << "not the same";
  EXPECT_EQ(split_policies(""), Names{});
}

TEST(PolicyList, KeepsTheSettingsOfAPolicyTogether) {
  EXPECT_EQ(split_policies("h2o:budget=256,recent=128+kivi2:residual=64,full"),
            (Names{"h2o:budget=256,recent=128+kivi2:residual=64", "full"}));
  EXPECT_EQ(split_policies("h2o:budget=256,recent=128+kivi2,snapkv:budget=9"),
            (Names{"h2o:budget=256,recent=128+kivi2", "snapkv:budget=9"}));
  EXPECT_EQ(split_policies("h2o;recent=128"), (Names{"h2o", "recent=128"})) << "only a comma continues";
  EXPECT_EQ(split_policies("h2o,snapkv+kivi2:residual=32"), (Names{"h2o", "snapkv+kivi2:residual=32"}));
}

TEST(PolicyList, FillsInWhatAPolicyLeavesOpen) {
  EXPECT_EQ(with_defaults("streaming", 128, 512, some_parts()), "streaming:sinks=4,window=124");
  EXPECT_EQ(with_defaults("streaming:sinks=8", 128, 512, some_parts()), "streaming:sinks=8,window=120");
  EXPECT_EQ(with_defaults("streaming:window=50", 128, 512, some_parts()), "streaming:window=50");
  EXPECT_EQ(with_defaults("h2o:recent=3+kivi2", 128, 512, some_parts()), "h2o:recent=3,budget=128+kivi2:residual=32");
  EXPECT_EQ(with_defaults("h2o:budget=20%", 128, 512, some_parts()), "h2o:budget=20%");
  EXPECT_EQ(with_defaults("d2o", 128, 512, some_parts()), "d2o:budget=128");
  EXPECT_EQ(with_defaults("razorattention", 128, 512, some_parts()), "razorattention:sinks=4,window=123") << "and a row for the rest";
  EXPECT_EQ(with_defaults("snapkv+adakv+chunkkv", 128, 512, some_parts()), "snapkv:budget=128+adakv+chunkkv")
      << "its allocator and selector";
  EXPECT_EQ(with_defaults("snapkv+kivi4:residual=64", 20, 512, some_parts()), "snapkv:window=10,budget=20+kivi4:residual=64");
  EXPECT_EQ(with_defaults("kivi4", 128, 4096, some_parts()), "kivi4:residual=128");
  EXPECT_EQ(with_defaults("quest", 256, 1024, some_parts()), "quest:budget=256,dense_layers=2");
  EXPECT_EQ(with_defaults("quest", 128, 512, some_parts()), "quest:budget=128,page=8,dense_layers=2");
  EXPECT_EQ(with_defaults("gear4", 128, 512, some_parts()), "gear4:buffer=128");
  EXPECT_EQ(with_defaults("gear4", 16, 64, some_parts()), "gear4:buffer=20") << "as published, where a prompt is short";
  EXPECT_EQ(with_defaults("quest+kivi4", 20, 512, some_parts()), "quest:budget=20,page=8,dense_layers=2+kivi4:residual=32");
  EXPECT_EQ(with_defaults("quest:page=32,dense_layers=0", 20, 512, some_parts()), "quest:page=32,dense_layers=0,budget=64");
  EXPECT_EQ(with_defaults("landmarks", 2048, 8192, some_parts()), "landmarks:budget=2048,outlier_chunks=48") << "as published";
  EXPECT_EQ(with_defaults("shadowkv", 128, 512, some_parts()), "shadowkv:budget=128,outlier_chunks=3");
  EXPECT_EQ(with_defaults("shadowkv:budget=512", 128, 512, some_parts()), "shadowkv:budget=512,outlier_chunks=12");
  EXPECT_EQ(with_defaults("landmarks", 2, 512, some_parts()), "landmarks:chunk=2,budget=2,outlier_chunks=1");
  EXPECT_EQ(with_defaults("streaming+shadowkv", 128, 512, some_parts()),
            "streaming:sinks=4,window=124,in_cache_positions=false+shadowkv:budget=128,outlier_chunks=3");
  EXPECT_EQ(with_defaults("another:x=1+", 128, 512, some_parts()), "another:x=1+") << "what is wrong is left for the registry to say";
}

TEST(PolicyList, AsksTheRegistryWhatAnEvictionHas) {
  EXPECT_EQ(with_defaults("simlayerkv", 128, 512, some_parts()), "simlayerkv:recent=124");
  const std::vector<Part> fresh{{"brand_new", "eviction", "budget=7,window=3"}};
  EXPECT_EQ(with_defaults("brand_new+kivi4", 20, 512, fresh), "brand_new:window=10,budget=20+kivi4:residual=32");
  EXPECT_EQ(with_defaults("h2o", 20, 512, fresh), "h2o") << "it does not know that one";
}

TEST(PolicyList, KeepsTheClausesOfAPolicyTogether) {
  EXPECT_EQ(split_policies("layers 0-1,3: f32; heads 4.0,5.1: lm4; rest: keys=lm4,values=lm3;kivi4,full"),
            (Names{"layers 0-1,3: f32; heads 4.0,5.1: lm4; rest: keys=lm4,values=lm3", "kivi4", "full"}));
  EXPECT_EQ(split_policies("layers 0: f32;kivi4"), (Names{"layers 0: f32", "kivi4"}));
  EXPECT_EQ(with_defaults("layers 0: snapkv+kivi4; rest: h2o", 128, 512, some_parts()),
            "layers 0: snapkv:budget=128+kivi4:residual=32; rest: h2o:budget=128");
  EXPECT_EQ(label_of("layers 0: f32; rest: lm4"), "by layer");
  EXPECT_EQ(budget_of("layers 0: lm4; rest: f32"), "bits");
}

TEST(Presets, RunEveryEvictionInTheWaysThatItHas) {
  Names prompt, decoding;
  for (const Policy& policy : eviction_policies(some_parts(), 128, 512)) {
    (policy.evicts == Policy::Evicts::prompt ? prompt : decoding).push_back(policy.settings);
    EXPECT_GT(option_of(policy.settings, policy.fitted), 0U) << policy.settings << " has no " << policy.fitted;
  }
  EXPECT_EQ(prompt, (Names{"snapkv:budget=128", "adakv:budget=128", "d2o:period=1048576,budget=128"}));
  EXPECT_EQ(decoding, (Names{"streaming:sinks=4,window=124", "h2o:budget=128", "snapkv:budget=96,decode_budget=32",
                             "adakv:budget=96,decode_budget=32", "chunkkv:budget=128", "simlayerkv:recent=124", "d2o:budget=128",
                             "razorattention:sinks=4,window=123"}));
  EXPECT_EQ(with_option("snapkv:budget=96,decode_budget=32+kivi4", "budget", 7), "snapkv:budget=7,decode_budget=32+kivi4");
  EXPECT_EQ(with_option("snapkv:decode_budget=32,budget=96", "budget", 7), "snapkv:decode_budget=32,budget=7");
}

TEST(Presets, HoldOneLayerOrOneSideOfItInsteadOfAll) {
  const std::vector<Policy> policies = by_layer({{"full", "full"}, {"lm4", "lm4"}, {"h2o+lm4", "h2o:budget=9+lm4", "h2o+lm4"}}, 2);
  Names settings;
  for (const Policy& policy : policies) { settings.push_back(policy.settings); }
  EXPECT_EQ(settings, (Names{"full", "lm4", "layers 0: keys=lm4,values=f32; rest: f32", "layers 0: keys=f32,values=lm4; rest: f32",
                             "layers 1: keys=lm4,values=f32; rest: f32", "layers 1: keys=f32,values=lm4; rest: f32", "h2o:budget=9+lm4",
                             "layers 0: h2o:budget=9+lm4; rest: f32", "layers 1: h2o:budget=9+lm4; rest: f32"}));
  EXPECT_EQ(policies[3].shown(), "lm4, layer 0 values");
  EXPECT_EQ(sides_of("keys=lm4:residual=8,values=lm3").values, "lm3");
  EXPECT_EQ(sides_of("keys=lm4:residual=8,values=lm3").keys, "lm4:residual=8");
}

TEST(Calibration, SpendsBitsWhereTheyTakeAwayMost) {
  const auto ways = [](double kl) { return std::vector<HeldSide>{{"lm2", 2.0, kl}, {"lm4", 4.0, kl / 8.0}}; };
  const std::vector<std::vector<HeldSide>> sides{ways(0.1), ways(0.9), ways(0.3), ways(0.2)};
  EXPECT_EQ(greedy_bits(sides, 1.0), (std::vector<std::size_t>{0, 0, 0, 0})) << "the fewest there are";
  EXPECT_EQ(greedy_bits(sides, 2.5), (std::vector<std::size_t>{0, 1, 0, 0}));
  EXPECT_EQ(greedy_bits(sides, 3.4), (std::vector<std::size_t>{0, 1, 1, 0}));
  EXPECT_EQ(greedy_bits(sides, 4.0), (std::vector<std::size_t>{1, 1, 1, 1}));
  EXPECT_EQ(policy_of(sides, {0, 1, 1, 0}), "layers 0: keys=lm2,values=lm4; rest: keys=lm4,values=lm2");
  const std::vector<std::vector<HeldSide>> worse{{{"bad", 3.0, 0.5}, {"good", 2.0, 0.1}, {"best", 4.0, 0.05}}};
  EXPECT_EQ(greedy_bits(worse, 3.5), (std::vector<std::size_t>{1}));
}

TEST(Items, AskInsideThePrompt) {
  Item haystack;
  haystack.tokens = {1, 2, 3};
  haystack.questions = {{{4, 5}, {6}, {7}}, {{8, 9, 10}, {11, 12}, {13}}};
  const Item item = inside_item(haystack, 1);
  EXPECT_EQ(item.tokens, (std::vector<llama::Token>{1, 2, 3, 8, 9, 10}));
  EXPECT_EQ(item.prompt_tokens, 6U);
  EXPECT_EQ(item.needle, 1U);
  ASSERT_EQ(item.questions.size(), 1U);
  EXPECT_TRUE(item.questions[0].asked.empty());
  EXPECT_EQ(item.questions[0].answer, (std::vector<llama::Token>{11, 12}));
}

TEST(Items, MakeATextThatIsAlwaysTheSame) {
  const std::string text = read_text(made_text);
  EXPECT_EQ(text, read_text(made_text));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 901);
  EXPECT_NE(text.find("\n1,2021-1"), std::string::npos);
}

TEST(PolicyList, PutsFullFirst) {
  const std::vector<Policy> policies = read_policies("h2o,full", 64, 512, some_parts());
  ASSERT_EQ(policies.size(), 2U);
  EXPECT_EQ(policies[0].name, "full");
  EXPECT_EQ(policies[1].settings, "h2o:budget=64");
}

TEST(Budget, IsRowsOrAPercentageOfThePrompt) {
  EXPECT_EQ(budget_rows("128", 512), 128U);
  EXPECT_EQ(budget_rows("25%", 512), 128U);
  EXPECT_EQ(budget_rows("12.5%", 512), 64U);
  for (const char* bad : {"", "%", "x", "-5", "0", "1.5", "0%", "101%", "1", "12x", "nan%", "1e99%"}) {
    EXPECT_THROW(budget_rows(bad, 512), BadArgument) << bad;
  }
}

TEST(Metrics, AreTheDefinitionsOnATwoTokenVocabulary) {
  const Reference reference({std::log(3.0F), 0.0F}, 2);  // probabilities 3/4, 1/4
  Agreement agreement;
  agreement.add(reference, 0, std::vector<float>{0.0F, 0.0F}, 1);
  EXPECT_NEAR(agreement.mean_kl(), 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-7);
  EXPECT_NEAR(agreement.perplexity(), 2.0, 1e-12);
  EXPECT_EQ(agreement.top1(), 1.0) << "of equals the first is taken";
  agreement.add(reference, 0, std::vector<float>{1000.0F, 1001.0F}, 1);
  EXPECT_EQ(agreement.top1(), 0.5);
  EXPECT_NEAR(reference.loss(0, 1), std::log(4.0), 1e-7);
}

TEST(Metrics, DoNotDependOnAConstantAddedToTheLogits) {
  const Reference reference({0.5F, -1.0F, 2.0F}, 3);
  Agreement agreement;
  agreement.add(reference, 0, std::vector<float>{8.5F, 7.0F, 10.0F}, 0);
  EXPECT_NEAR(agreement.mean_kl(), 0.0, 1e-7);
  EXPECT_NEAR(agreement.loss, reference.loss(0, 0), 1e-7);
}

TEST(Needles, AreTheSameForTheSameSeed) {
  const std::vector<Needle> needles = draw_needles(5, 7);
  ASSERT_EQ(needles.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(needles[i].sentence(), draw_needles(5, 7)[i].sentence());
    EXPECT_EQ(needles[i].number.size(), 5U);
    EXPECT_NEAR(needles[i].depth, 0.1 + 0.2 * static_cast<double>(i), 1e-12);
    for (std::size_t j = 0; j < i; ++j) { EXPECT_NE(needles[i].name, needles[j].name); }
  }
  EXPECT_NE(needles[0].sentence(), draw_needles(5, 8)[0].sentence());
  EXPECT_EQ(needles_for(512), 5U);
  EXPECT_EQ(needles_for(40), 0U);
}

TEST(Needles, StandBetweenWordsAtTheirDepths) {
  const std::vector<Needle> needles{{"Ann", "12345", 0.25}, {"Bob", "54321", 0.9}};
  EXPECT_EQ(hide("one two three four", needles),
            "one two\nThe secret number of Ann is 12345.\nthree four\nThe secret number of Bob is 54321.\n");
  EXPECT_EQ(hide("", {needles[0]}), "\nThe secret number of Ann is 12345.\n");
}

TEST(Schedule, UsesWhatIsPreparedBeforePreparingMore) {
  Schedule schedule(2, 2);
  std::string order;
  while (const auto task = schedule.next()) {
    order += "pur"[static_cast<int>(task->step)] + std::to_string(task->item);
    schedule.done(*task);
  }
  EXPECT_EQ(order, "p0u0u0r0p1u1u1r1");
}

TEST(Schedule, RunsEverythingOnceOverThreadsAndPassesErrorsOn) {
  Schedule schedule(7, 5);
  std::vector<int> uses(35, 0);
  run(schedule, 3, [&](std::size_t, const Schedule::Task& task) {
    if (task.step == Schedule::Step::use) { ++uses[task.item * 5 + task.user]; }
  });
  EXPECT_EQ(uses, std::vector<int>(35, 1));
  Schedule failing(7, 5);
  EXPECT_THROW(run(failing, 3, [](std::size_t, const Schedule::Task&) { throw BadArgument("no"); }), BadArgument);
}

TEST(CountingMemory, RemembersTheMostItHadGivenOut) {
  CountingMemory memory;
  const kvcompress::Memory handle = memory.handle();
  void* first = handle.allocate(handle.context, 100, 64);
  void* second = handle.allocate(handle.context, 28, 64);
  handle.release(handle.context, first, 100, 64);
  EXPECT_EQ(memory.now(), 28U);
  EXPECT_EQ(memory.peak(), 128U);
  handle.release(handle.context, second, 28, 64);
}

/// A folder of this test that goes away with the object.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / fmt::format("kvcompress-report-{}", std::random_device{}());
  Folder() { std::filesystem::create_directory(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  void put(const char* name, const std::string& text) const { std::ofstream(path / name, std::ios::binary) << text; }
  [[nodiscard]] std::string text(const char* name) const {
    std::ifstream file(path / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator()));
  }
};

std::string refusal_of(const std::filesystem::path& path) {
  try {
    const ReportFile file("--report", path);
  } catch (const BadArgument& error) { return error.what(); }
  return {};
}

TEST(ReportFile, TouchesNothingBeforeItWrites) {
  const Folder folder;
  folder.put("old", "before");
  folder.put("old.part", "somebody's");
  {
    const ReportFile old("--report", folder.path / "old");
    const ReportFile fresh("--report", folder.path / "fresh");
    EXPECT_EQ(folder.files(), 2U);
  }
  EXPECT_EQ(folder.text("old"), "before");
  EXPECT_EQ(folder.text("old.part"), "somebody's");
  EXPECT_EQ(folder.files(), 2U);
}

TEST(ReportFile, ReplacesAFileOrNothingAndLeavesNoOtherBehind) {
  const Folder folder;
  folder.put("old", "before, and longer");
  folder.put("old.part", "somebody's");
  ReportFile("--report", folder.path / "old").write("after");
  ReportFile("--report", folder.path / "fresh").write("new");
  EXPECT_EQ(folder.text("old"), "after");
  EXPECT_EQ(folder.text("fresh"), "new");
  EXPECT_EQ(folder.text("old.part"), "somebody's");
  EXPECT_EQ(folder.files(), 3U);
}

TEST(ReportFile, SaysWhyAPathCannotBeWritten) {
  const Folder folder;
  EXPECT_EQ(refusal_of(folder.path), "--report " + folder.path.string() + ": cannot be written: is a directory");
  EXPECT_NE(refusal_of(folder.path / "no" / "where").find("is no directory"), std::string::npos);
  folder.put("file", "x");
  EXPECT_NE(refusal_of(folder.path / "file" / "below"), "");
  EXPECT_NE(refusal_of(""), "");
  EXPECT_EQ(folder.files(), 1U);
}

#if defined(__unix__)
TEST(ReportFile, KeepsLinksAndPipesAndDevices) {
  const Folder folder;
  folder.put("file", "before");
  std::filesystem::create_symlink("file", folder.path / "link");
  ReportFile("--report", folder.path / "link").write("after");
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path / "link"));
  EXPECT_EQ(folder.text("file"), "after");

  std::filesystem::create_symlink("nowhere", folder.path / "dangling");
  EXPECT_NE(refusal_of(folder.path / "dangling").find("is a link to nothing"), std::string::npos);

  ASSERT_EQ(::mkfifo((folder.path / "pipe").c_str(), 0600), 0);
  std::string read;
  std::thread reader([&] { read = folder.text("pipe"); });
  ReportFile("--report", folder.path / "pipe").write("through");
  reader.join();
  EXPECT_EQ(read, "through");
  EXPECT_TRUE(std::filesystem::is_fifo(folder.path / "pipe"));
  EXPECT_EQ(folder.files(), 4U);

  ReportFile("--report", "/dev/null").write("nothing");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  if (std::filesystem::exists("/dev/full")) { EXPECT_THROW(ReportFile("--report", "/dev/full").write("x"), std::runtime_error); }
}
#endif

TEST(PolicyList, SaysWhatASizeIsChosenBy) {
  EXPECT_EQ(budget_of("full"), "-");
  EXPECT_EQ(budget_of("snapkv:budget=9+kivi4"), "rows, bits");
  EXPECT_EQ(budget_of("xkv:rank_keys=4"), "rank");
  EXPECT_EQ(budget_of("quest+gear2"), "read, bits");
  EXPECT_EQ(budget_of("shadowkv"), "rank, read");
  EXPECT_EQ(budget_of("keys=lm4,values=lm3"), "bits");
  EXPECT_EQ(budget_of("snapkv+adakv+merge+rot4"), "rows, bits");
  EXPECT_EQ(label_of("xkv:rank_keys=48,fold_in=64+quest:page=8"), "xkv+quest");
  const std::vector<Policy> policies = read_policies("xkv,xkv:fold_in=64", 64, 512, some_parts());
  EXPECT_EQ(policies[1].shown(), "xkv");
  EXPECT_EQ(policies[2].shown(), "xkv(2)");
}

TEST(Facts, CommandReadsBackAsTheSameArguments) {
  const char* const arguments[] = {"compare_policies", "--policies", "h2o;kivi2", "it's", ""};
  EXPECT_EQ(shell_command(arguments), "compare_policies --policies 'h2o;kivi2' 'it'\\''s' ''");
  const char* const folders[] = {"/opt/bin/compare_policies", "/home/me/m.gguf", "--text=/home/me/t.txt", "--report", "x/r.html"};
  EXPECT_EQ(without_folders(folders), (Names{"compare_policies", "m.gguf", "--text=t.txt", "--report", "x/r.html"}));
}

TEST(Facts, KnownLimitsAreTheListOfTheCard) {
  std::istringstream card("# Card\n- no\n## Known limits\n- one\n  more\n- two\n\n## Files\n- no\n");
  EXPECT_EQ(known_limits(card), (Names{"one more", "two"}));
}

}  // namespace
}  // namespace comparison
