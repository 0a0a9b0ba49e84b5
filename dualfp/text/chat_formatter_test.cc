#include "dualfp/text/chat_formatter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

constexpr const char* kStringTemplate =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
constexpr const char* kListTemplate =
    "{% for m in messages %}[{{ m.role }}]{{ m.content[0]['text'] }}{% endfor %}";
constexpr const char* kBothTemplate =
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";

std::string Format(const char* source, const Json& messages, bool continue_final = false) {
  ChatRequest request;
  request.messages = messages;
  request.continue_final_message = continue_final;
  request.add_generation_prompt = false;
  return ChatFormatter(ChatTemplate(source, "t.jinja")).Format(request, {});
}

Json Parts(std::initializer_list<const char*> texts) {
  Json parts = Json::array();
  for (const char* text : texts) {
    parts.push_back({{"type", "text"}, {"text", text}});
  }
  return parts;
}

TEST(ChatFormatterTest, ContentTakesTheFormThatTheTemplateReads) {
  const Json parts = Json::array({{{"role", "user"}, {"content", Parts({"a", "b"})}}});
  const Json text = Json::array({{{"role", "user"}, {"content", "ab"}}});
  EXPECT_EQ(Format(kStringTemplate, parts), "[user]a b");
  EXPECT_EQ(Format(kListTemplate, parts), "[user]a");
  EXPECT_EQ(Format(kBothTemplate, parts), "[user]ab");
  EXPECT_EQ(Format(kStringTemplate, text), "[user]ab");
  EXPECT_EQ(Format(kListTemplate, text), "[user]ab");
  EXPECT_EQ(Format(kBothTemplate, text), "[user]ab");
}

TEST(ChatFormatterTest, RolesMayDiffer) {
  const char* source =
      "{{ messages[0].content + '|' }}{% for m in messages[1:] %}{% for p in m.content %}"
      "{{ p.text }};{% endfor %}{% endfor %}";
  EXPECT_EQ(Format(source, Json::array({{{"role", "system"}, {"content", Parts({"a", "b"})}},
                                        {{"role", "assistant"}, {"content", Parts({"c", "d"})}}})),
            "a b|c;d;");
}

TEST(ChatFormatterTest, RefusalsAreText) {
  const Json messages = Json::array(
      {{{"role", "user"}, {"content", Json::array({{{"type", "refusal"}, {"refusal", "no"}}})}}});
  EXPECT_EQ(Format(kStringTemplate, messages), "[user]no");
  EXPECT_EQ(Format(kBothTemplate, messages), "[user]");
}

TEST(ChatFormatterTest, NullMembersAreAbsent) {
  EXPECT_EQ(Format("{% for m in messages %}{{ m.content is defined }}{{ m.tool_calls is defined }}"
                   "{% endfor %}",
                   Json::array({{{"role", "assistant"}, {"content", nullptr}},
                                {{"role", "user"}, {"content", "x"}, {"tool_calls", nullptr}}})),
            "FalseFalseTrueFalse");
}

TEST(ChatFormatterTest, ReasoningGoesByItsNames) {
  const char* source = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}";
  EXPECT_EQ(Format(source, Json::array({{{"role", "assistant"}, {"reasoning", "r"}}})), "rr");
  EXPECT_EQ(Format(source, Json::array({{{"role", "assistant"}, {"thinking", "t"}}})), "tt");
}

Json Call(const Json& arguments) {
  return Json::array(
      {{{"role", "assistant"},
        {"tool_calls", Json::array({{{"function", {{"name", "f"}, {"arguments", arguments}}}}})}}});
}

TEST(ChatFormatterTest, ArgumentsOfToolCallsAreParsed) {
  const char* source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
  EXPECT_EQ(Format(source, Call(R"({"k": [1, 2.5, "v"]})")), R"({"k": [1, 2.5, "v"]})");
  EXPECT_EQ(Format(source, Call("")), "{}");
  EXPECT_EQ(Format(source, Call(" \n")), "{}");
  EXPECT_EQ(Format(source, Call("3")), "3");
  EXPECT_EQ(Format(source, Call("[36893488147419103232]")), "[36893488147419103232]");
  EXPECT_EQ(Format(source, Call(nullptr)), "{}");
  Json without = Call("");
  without[0]["tool_calls"][0]["function"].erase("arguments");
  EXPECT_EQ(Format(source, without), "{}");
  try {
    Format(source, Call("{k: 1"));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("messages[0].tool_calls[0].function.arguments"));
  }
}

TEST(ChatFormatterTest, AnEmptyListOfToolCallsIsNone) {
  const Json messages =
      Json::array({{{"role", "assistant"}, {"content", "a"}, {"tool_calls", Json::array()}}});
  EXPECT_EQ(Format("{{ 'tool_calls' in messages[0] }}", messages), "False");
}

TEST(ChatFormatterTest, WhatCannotBeContinuedIsAnError) {
  const Json user = {{"role", "user"}, {"content", "x"}};
  for (const auto& [source, last] : std::vector<std::pair<const char*, Json>>{
           {kStringTemplate, {{"role", "assistant"}}},
           {kStringTemplate, {{"role", "assistant"}, {"content", nullptr}}},
           {kListTemplate, {{"role", "assistant"}, {"content", Json::array()}}},
           {"nothing of it", {{"role", "assistant"}, {"content", "y"}}},
       }) {
    try {
      Format(source, Json::array({user, last}), true);
      ADD_FAILURE() << "no error: " << last.dump();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), HasSubstr("continue_final_message"));
    }
  }
}

TEST(ChatFormatterTest, ExtraVariablesWin) {
  ChatRequest request;
  request.messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  request.extra = {{"bos_token", "B"}, {"flag", true}};
  TokenizerConfig config;
  config.bos_token = "<s>";
  config.eos_token = "</s>";
  const ChatFormatter formatter(
      ChatTemplate("{{ bos_token }}{{ eos_token }}{{ flag }}{{ tools is none }}"
                   "{{ messages[0].content }}{{ add_generation_prompt }}",
                   "t"));
  EXPECT_EQ(formatter.Format(request, config), "B</s>TrueTruehiTrue");
}

}  // namespace
}  // namespace dualfp
