// examples/compare_policies/tests/report_test.cpp - the results as a table, JSON, CSV and a page; llama.cpp's types of caches.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "compare_policies/block_types.hpp"
#include "compare_policies/data_formats.hpp"
#include "compare_policies/report_html.hpp"
#include "compare_policies/table.hpp"

namespace comparison {
namespace {

Comparison example() {
  Comparison c;
  c.setup.text = "a<b>.txt";
  c.command = "compare_policies --policies '<script>'";
  c.setup.text = "/home/me/a<b>.txt";
  Row full{.policy = {"full", "full"}, .bytes = 1000.0, .fraction_of_f16 = 1.0, .perplexity = 20.0, .perplexity_ratio = 1.0, .kl = 1e-8};
  Row evil{
      .policy = {"<i>&\"x\"", "<i>&\"x\""}, .bytes = 250.0, .fraction_of_f16 = 0.25, .kl = 0.05, .needles_right = 1, .needles_asked = 4};
  evil.slow_bytes = 4096.0;
  evil.fetched_per_token = 1536.0;
  Row worse{.policy = {"worse", "worse:x=1"}, .bytes = 300.0, .fraction_of_f16 = 0.3, .kl = 0.06};
  for (Row* row : {&full, &evil, &worse}) {
    row->bits_per_value = 16.0 * row->fraction_of_f16;
    row->cache_us_per_token = 50.0;
    row->layer_bytes = {row->bytes / 2.0, row->bytes / 2.0};
    row->needles_by_depth = {1.0, 0.25};
  }
  c.rows = {full, evil, worse};
  c.references = {Row{.policy = {"q8_0", "q8_0"}, .bits_per_value = 8.5, .kl = 1e-4}};
  return c;
}

TEST(Report, EscapesEveryText) {
  const std::string html = html_text(example());
  for (const char* raw : {"<i>", "<script>", "a<b>", "&\"x\""}) { EXPECT_EQ(html.find(raw), std::string::npos) << raw; }
  EXPECT_NE(html.find("&lt;i&gt;&amp;&quot;x&quot;"), std::string::npos);
  EXPECT_EQ(escaped("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
}

TEST(Report, NeedsNothingFromElsewhere) {
  const std::string html = html_text(example());
  for (const char* outside : {"http:", "https:", "src=", "url(", "@import"}) {
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  }
  EXPECT_NE(html.find("<svg"), std::string::npos);
  EXPECT_EQ(html.find("/home"), std::string::npos) << "no folder of the machine that it was made on";
}

TEST(Report, DrawsBothPlotsTheReferencesAndEveryPolicy) {
  const std::string html = html_text(example());
  EXPECT_NE(html.find("KL divergence against memory"), std::string::npos);
  EXPECT_NE(html.find("KL divergence against time in the cache"), std::string::npos);
  EXPECT_NE(html.find("class=\"reference\""), std::string::npos);
  EXPECT_NE(html.find("worse:x=1</code>"), std::string::npos);
  EXPECT_NE(html.find(">25</td>"), std::string::npos) << "needles by depth";
  EXPECT_NE(html.find("class=\"layers\""), std::string::npos);
}

TEST(Report, JoinsOnlyTheBestTradeOffs) { EXPECT_EQ(pareto_front(example().rows), (std::vector<std::size_t>{1, 0})); }

TEST(Formats, JsonHasTheAgreedFields) {
  const auto json = nlohmann::json::parse(json_text(example()));
  ASSERT_EQ(json.at("results").size(), 3U);
  for (const char* name : {"policy", "bytes", "bits_per_value", "fraction_of_f16", "perplexity", "perplexity_ratio", "kl", "top1_agreement",
                           "needle_accuracy", "prompt_tokens_per_s", "decode_tokens_per_s"}) {
    EXPECT_TRUE(json["results"][0].contains(name)) << name;
  }
  EXPECT_TRUE(json["results"][0]["needle_accuracy"].is_null()) << "nothing was asked";
  EXPECT_EQ(json["results"][1]["needle_accuracy"], 0.25);
  EXPECT_EQ(json["results"][1]["bytes"], 250);
  EXPECT_EQ(json["results"][0]["slow_bytes"], 0);
  EXPECT_EQ(json["results"][1]["slow_bytes"], 4096);
  EXPECT_EQ(json["results"][1]["fetched_bytes_per_token"], 1536.0);
}

TEST(Formats, JsonHasTheFrontTheReferencesAndWhatWasAsked) {
  Comparison c = example();
  c.rows[1].inside_by_depth = {1.0, 0.5};
  c.rows[1].right_by_turn = {1.0, 0.5, 0.0};
  c.rows[1].policy.evicts = Policy::Evicts::prompt;
  c.references.push_back(Row{.policy = {"q4_0", "q4_0"}, .bits_per_value = 4.5, .kl = 0.06});
  const auto json = nlohmann::json::parse(json_text(c));
  EXPECT_EQ(json["results"][1]["on_front"], true);
  EXPECT_EQ(json["results"][2]["on_front"], false);
  EXPECT_EQ(json["results"][1]["needle_accuracy_inside"], 0.75);
  EXPECT_EQ(json["results"][1]["later_turn_accuracy"], 0.25);
  EXPECT_TRUE(json["results"][0]["later_turn_accuracy"].is_null());
  EXPECT_EQ(json["results"][1]["evicts"], "prompt");
  EXPECT_EQ(json["llama_cpp_types"][0]["beyond_front"], true) << "8.5 bits at 1e-4: full has more bits";
  EXPECT_EQ(json["llama_cpp_types"][1]["beyond_front"], false) << "a quarter of 16 bits at 0.05 is better";
}

TEST(Table, HasColumnsForWhatWasAskedOnly) {
  Comparison c = example();
  for (const char* absent : {"inside", "evicts", "turns"}) { EXPECT_EQ(table(c).find(absent), std::string::npos) << absent; }
  c.rows[1].inside_by_depth = {1.0, 0.5};
  c.rows[1].right_by_turn = {1.0, 0.5, 0.0};
  c.rows[1].policy.evicts = Policy::Evicts::prompt;
  const std::string text = table(c);
  for (const char* shown : {"inside", "evicts", "turns", "100 50", "75.0", "25.0"}) {
    EXPECT_NE(text.find(shown), std::string::npos) << shown << "\n" << text;
  }
  EXPECT_NE(text.find("llama.cpp q8_0"), std::string::npos);
  EXPECT_NE(text.find("q8_0 beyond the front"), std::string::npos) << text;
}

TEST(Formats, CsvQuotesTexts) {
  std::istringstream csv(csv_text(example()));
  std::string header, full, evil;
  std::getline(csv, header);
  std::getline(csv, full);
  std::getline(csv, evil);
  EXPECT_TRUE(header.starts_with("policy,settings,bytes,"));
  EXPECT_TRUE(full.starts_with("\"full\",\"full\",1000,"));
  EXPECT_TRUE(evil.starts_with("\"<i>&\"\"x\"\"\",")) << evil;
}

TEST(Formats, TableLinesUpAndPutsFullFirst) {
  std::istringstream text(table(example()));
  std::string line;
  while (!line.starts_with("policy")) { ASSERT_TRUE(std::getline(text, line)); }
  const std::size_t width = width_of(line);
  EXPECT_NE(line.find("KL"), 0U);
  EXPECT_NE(line.find("nats ↓"), std::string::npos);
  std::getline(text, line);
  for (const char* name : {"full", "<i>", "worse"}) {
    std::getline(text, line);
    EXPECT_EQ(width_of(line), width);
    EXPECT_TRUE(line.starts_with(name)) << line;
    EXPECT_EQ(line.find(" *") < width, std::string_view(name) != "worse") << "the front: " << line;
    EXPECT_EQ(line.find(" 16.38     4 ") < width || line.find("     4  ") < width, line.starts_with("<i>")) << "the slow tier: " << line;
  }
  EXPECT_EQ(grouped(3145728.0), "3,145,728");
  EXPECT_EQ(wrapped("one two three", 7), "one two\nthree\n");
}

TEST(Table, IsAtMost120CharactersWideWhateverThePoliciesAreCalled) {
  Comparison c = example();
  c.rows.back().policy.name = "expected_attention+kivi4+landmarks";
  for (Row& row : c.rows) {
    row.bytes = 3e9;
    row.slow_bytes = 3e9;
    row.prompt_tokens_per_s = row.decode_tokens_per_s = 123456.0;
    row.cache_us_per_token = 123456.0;
    row.policy.budget = "rows, bits, read";
  }
  std::istringstream text(table(c));
  std::size_t widest = 0;
  bool is_cut = false;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("  expected_attention")) { continue; }  // the settings
    widest = std::max(widest, width_of(line));
    is_cut = is_cut || line.find("expected_a") != std::string::npos || line.find("…") != std::string::npos;
  }
  EXPECT_LE(widest, 120U);
  EXPECT_TRUE(is_cut);
}

TEST(BlockTypes, RoundAsTheirDefinitionSays) {
  std::vector<float> block(32, 0.0F);
  block[0] = -8.0F;
  block[1] = 7.0F;
  block[2] = 2.4F;
  std::vector<float> q4 = block;
  round_rows(block_types[4], q4);
  EXPECT_EQ((std::vector<float>(q4.begin(), q4.begin() + 4)), (std::vector<float>{-8.0F, 7.0F, 2.0F, 0.0F}));
  std::vector<float> shifted(32, 1.0F);
  shifted[5] = 16.0F;
  round_rows(block_types[3], shifted);
  EXPECT_EQ(shifted[5], 16.0F);
  EXPECT_EQ(shifted[0], 1.0F);
  for (const BlockType& type : block_types) {
    std::vector<float> numbers(64);
    for (std::size_t i = 0; i < 64; ++i) { numbers[i] = std::sin(static_cast<float>(i)); }
    const std::vector<float> exact = numbers;
    round_rows(type, numbers);
    double worst = 0.0;
    for (std::size_t i = 0; i < 64; ++i) { worst = std::max(worst, static_cast<double>(std::abs(numbers[i] - exact[i]))); }
    EXPECT_GT(worst, 0.0) << type.name;
    EXPECT_LT(worst, 2.2 / std::ldexp(1.0, type.bits)) << type.name;
  }
}

TEST(BlockTypes, TurnBackWhatTheyTurned) {
  std::vector<float> numbers(96);
  for (std::size_t i = 0; i < 96; ++i) { numbers[i] = std::sin(static_cast<float>(3 * i)); }
  numbers[7] = 50.0F;  // alone it makes the others of its block small
  const auto error = [&](std::size_t turned) {
    BlockType type = block_types[4];
    type.turned = turned;
    std::vector<float> rounded = numbers;
    round_rows(type, rounded);
    double worst = 0.0;
    for (std::size_t i = 32; i < 96; ++i) { worst = std::max(worst, static_cast<double>(std::abs(rounded[i] - numbers[i]))); }
    return worst;
  };
  EXPECT_EQ(turned_width(96), 32U);
  EXPECT_LT(error(32), 0.5) << "two steps of a block of sines";
  std::vector<float> twice = numbers;
  turn(twice, 32);
  EXPECT_GT(std::abs(twice[0] - numbers[0]), 1.0F);
  turn(twice, 32);
  for (std::size_t i = 0; i < 96; ++i) { EXPECT_NEAR(twice[i], numbers[i], 1e-4F); }
}

TEST(Table, SaysWhatThePoliciesAtHandNeed) {
  Comparison c = example();
  c.setup.budget = 77;
  EXPECT_TRUE(notes(c).empty());
  c.rows[2].policy = {"snapkv+xkv+quest", "snapkv+xkv+quest"};
  ASSERT_EQ(notes(c).size(), 3U);
  EXPECT_TRUE(notes(c)[0].starts_with("Evictions keep 77 rows")) << notes(c)[0];
  EXPECT_TRUE(notes(c)[1].starts_with("Retrievals keep every row; a query reads 77 of them")) << notes(c)[1];
  EXPECT_EQ(notes(c)[1].find("landmarks"), std::string::npos);
}

}  // namespace
}  // namespace comparison
