// tests/model/random_verbs_test.cpp - lists of random verbs against a plain model, for every kind of policy; a failure is shrunk to a short list.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/state.h>

#include <sstream>

#include "model/subject.hpp"

namespace random_verbs_test {

using namespace kvcompress;
using namespace kvcompress::test::model;

std::size_t performed = 0;  // verbs, of all lists

struct Verb : rc::state::Command<Model, Subject> {
  explicit Verb(const Call& what) : call(what) {}
  void checkPreconditions(const Model& before) const override { RC_PRE(before.allows(call)); }
  void apply(Model& state) const override { state.apply(call); }
  void run(const Model& before, Subject& subject) const override {
    ++performed;
    subject.run(call, before);
  }
  void show(std::ostream& out) const override {
    out << kind_names[static_cast<std::size_t>(call.kind)] << "(layer " << call.layer << ", " << call.a << ", " << call.b;
    if (call.refused > 0) { out << ", allocation " << call.refused << " refused"; }
    out << ")";
  }
  Call call;
};

/// Appends and attends come most often; one verb in four meets a refused allocation.
rc::Gen<std::shared_ptr<const rc::state::Command<Model, Subject>>> verb(const Model&) {
  using K = Kind;
  static const std::vector<Kind> kinds{K::append,     K::append,   K::append,   K::append,  K::append, K::attend, K::attend,
                                       K::attend,     K::attend,   K::attend,   K::observe, K::commit, K::commit, K::end_prompt,
                                       K::end_prompt, K::truncate, K::truncate, K::remove,  K::fork,   K::swap,   K::drop_fork,
                                       K::save_load,  K::copy,     K::reserve,  K::clear};
  const auto below = [](std::size_t bound) { return rc::gen::inRange<std::size_t>(0, bound); };
  return rc::gen::map(rc::gen::tuple(below(kinds.size()), below(2), below(100), below(100), below(40)), [](const auto& drawn) {
    const auto& [kind, layer, a, b, refused] = drawn;
    return std::shared_ptr<const rc::state::Command<Model, Subject>>(
        std::make_shared<Verb>(Call{kinds[kind], layer, a, b, refused > 10 ? 0 : refused}));
  });
}

class RandomVerbs : public ::testing::TestWithParam<PolicyCase> {};

TEST_P(RandomVerbs, AgreeWithTheModel) {
  performed = 0;
  rc::detail::TestParams parameters;
  parameters.seed = 1;  // a failure must reproduce; KVCOMPRESS_SEED tries others
  if (const char* seed = std::getenv("KVCOMPRESS_SEED")) { parameters.seed = std::strtoull(seed, nullptr, 10); }
  parameters.maxSuccess = 450;
  const auto result = rc::detail::checkTestable(
      [] {
    Subject subject(GetParam());
    rc::state::check(Model{.policy = &GetParam()}, subject, verb);
      },
      rc::detail::TestMetadata{}, parameters);
  std::ostringstream text;
  rc::detail::printResultMessage(result, text);
  EXPECT_TRUE(result.template is<rc::detail::SuccessResult>()) << text.str();
  EXPECT_GE(performed, 10'000U);
}

INSTANTIATE_TEST_SUITE_P(Policies, RandomVerbs, ::testing::ValuesIn(policies()), [](const auto& policy) { return policy.param.name; });

}  // namespace random_verbs_test
