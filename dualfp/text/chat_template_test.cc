#include "dualfp/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

std::string Render(const std::string& source, const Json& variables = Json::object(),
                   int64_t max_steps = ChatTemplateOptions().max_steps) {
  ChatTemplateOptions options;
  options.max_steps = max_steps;
  return ChatTemplate(source, "t.jinja").Render(variables, options);
}

// The error of parsing or rendering.
std::string ErrorOf(const std::string& source, ErrorCode code,
                    int64_t max_steps = ChatTemplateOptions().max_steps) {
  try {
    Render(source, Json::object(), max_steps);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("t.jinja"));
    return error.what();
  }
  ADD_FAILURE() << "no error: " << source.substr(0, 100);
  return "";
}

std::string Repeat(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    out += text;
  }
  return out;
}

TEST(ChatTemplateTest, ErrorsNameFileAndLine) {
  EXPECT_THAT(ErrorOf("a\n\n{% if %}", ErrorCode::kInvalidFile), HasSubstr("line 3"));
  EXPECT_THAT(ErrorOf("\n{{ x.y }}", ErrorCode::kInvalidArgument),
              HasSubstr("line 2: 'x' is undefined"));
  EXPECT_THAT(ErrorOf("{{ raise_exception('Roles must alternate') }}", ErrorCode::kInvalidArgument),
              HasSubstr("Roles must alternate"));
  EXPECT_THAT(ErrorOf("{% include 'x' %}", ErrorCode::kUnsupported), HasSubstr("include"));
  EXPECT_THAT(ErrorOf("{{ 1 | urlize }}", ErrorCode::kUnsupported), HasSubstr("urlize"));
  EXPECT_THAT(ErrorOf("\xff", ErrorCode::kInvalidFile), HasSubstr("UTF-8"));
}

TEST(ChatTemplateTest, EndlessWorkIsStopped) {
  const std::string nested_loops =
      Repeat("{% for i in range(99999) %}", 8) + "x" + Repeat("{% endfor %}", 8);
  for (const std::string& source : {
           nested_loops,
           std::string("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"),
           std::string("{% set ns = namespace(s='x') %}{% for i in range(99999) %}"
                       "{% set ns.s = ns.s + ns.s %}{% endfor %}"),
           std::string("{% set ns = namespace(l=[]) %}{% for i in range(60) %}"
                       "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}"),
           std::string("{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}"
                       "{% set ns.l = ns.l + ns.l %}{% endfor %}"),
           std::string("{{ 'x' * 9223372036854775807 }}"),
           std::string("{{ [1] * 4611686018427387904 }}"),
           std::string("{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}"),
           std::string("{{ ('x' * 100000) | list | join('y' * 100000) }}"),
           std::string("{{ 2 ** 9223372036854775807 }}"),
           std::string("{% set ns = namespace(n=3) %}{% for i in range(99999) %}"
                       "{% set ns.n = ns.n * ns.n %}{% endfor %}"),
           std::string("{{ '{:99999999}{:99999999}{:99999999}'.format(1, 2, 3) }}"),
           std::string("{{ '%99999999d%99999999d%99999999d' % (1, 2, 3) }}"),
           std::string("{{ 'x' | center(9223372036854775807) }}"),
           std::string("{{ 'x'.ljust(99999999999) }}"),
           std::string("{{ 'a' | indent(99999999999, true) }}"),
           std::string("{{ [[[[1]]]] | tojson(indent=99999999999) }}"),
           std::string("{{ [1] | batch(99999999999, 'x') | list }}"),
           std::string("{% for i in range(99999) %}{% for j in range(99999) %}"
                       "{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}{% endfor %}"),
       }) {
    ErrorOf(source, ErrorCode::kResourceExhausted, 2'000'000);
  }
  ErrorOf(nested_loops, ErrorCode::kResourceExhausted);
}

TEST(ChatTemplateTest, DeepNestingIsStopped) {
  constexpr int kDeep = 100'000;
  for (const std::string& source : {
           "{{ " + Repeat("(", kDeep) + "1" + Repeat(")", kDeep) + " }}",
           "{{ " + Repeat("[", kDeep) + Repeat("]", kDeep) + " }}",
           "{{ " + Repeat("{1:", kDeep) + "1" + Repeat("}", kDeep) + " }}",
           "{{ " + Repeat("not ", kDeep) + "1 }}",
           "{{ " + Repeat("-", kDeep) + "1 }}",
           "{{ 1" + Repeat(" + 1", kDeep) + " }}",
           "{{ x" + Repeat(".a", kDeep) + " }}",
           "{{ x" + Repeat("[0]", kDeep) + " }}",
           "{{ x" + Repeat("()", kDeep) + " }}",
           "{{ x" + Repeat("|list", kDeep) + " }}",
           "{{ x" + Repeat(" or x", kDeep) + " }}",
           "{{ 1" + Repeat(" if 1 else 1", kDeep) + " }}",
           Repeat("{{ f(", kDeep) + "1" + Repeat(") }}", kDeep),
           Repeat("{% if 1 %}", kDeep) + Repeat("{% endif %}", kDeep),
           Repeat("{% for i in x %}", kDeep) + Repeat("{% endfor %}", kDeep),
           "{% set " + Repeat("(", kDeep) + "a" + Repeat(")", kDeep) + " = 1 %}",
       }) {
    ErrorOf(source, ErrorCode::kInvalidFile);
  }
}

TEST(ChatTemplateTest, DeepRecursionIsStopped) {
  ErrorOf("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", ErrorCode::kResourceExhausted);
  ErrorOf("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", ErrorCode::kResourceExhausted);
  // A long chain inside arguments inside a long chain.
  std::string source = "1";
  for (int i = 0; i < 20; ++i) {
    source = "dict(a=" + source + ")" + Repeat(".b", 150);
  }
  EXPECT_THROW(Render("{{ " + source + " }}"), Error);
  // Values nested deeper than any walk over them goes.
  const std::string nest =
      "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}"
      "{% set ns.l = [ns.l] %}{% endfor %}";
  ErrorOf(nest + "{{ ns.l }}", ErrorCode::kInvalidArgument);
  ErrorOf(nest + "{{ ns.l | tojson }}", ErrorCode::kInvalidArgument);
  ErrorOf(nest +
              "{% set a = ns.l %}{% set ns.l = [] %}{% for i in range(5000) %}"
              "{% set ns.l = [ns.l] %}{% endfor %}{{ a == ns.l }}",
          ErrorCode::kInvalidArgument);
  // A namespace that contains itself.
  ErrorOf("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}", ErrorCode::kInvalidArgument);
}

TEST(ChatTemplateTest, ManyElifsAreFine) {
  EXPECT_EQ(Render("{% if 0 %}" + Repeat("{% elif 0 %}", 10'000) + "{% else %}x{% endif %}"), "x");
}

TEST(ChatTemplateTest, IntegersHaveAnySize) {
  EXPECT_EQ(Render("{{ 9223372036854775807 + 1 }}"), "9223372036854775808");
  EXPECT_EQ(Render("{{ (-9223372036854775807 - 1) % -1 }}"), "0");
  EXPECT_EQ(Render("{{ n + 1 }}", {{"n", 18446744073709551615u}}), "18446744073709551616");
  EXPECT_EQ(Render("{{ (2 ** 70) // -(2 ** 68) }} {{ 2 ** 70 - 2 ** 70 + 1 }}"), "-4 1");
  // As in Python, numbers of more digits are not written out.
  EXPECT_THAT(ErrorOf("{{ 10 ** 4300 }}", ErrorCode::kInvalidArgument), HasSubstr("4300 digits"));
  EXPECT_EQ(Render("{{ 10 ** 4300 // 10 ** 4299 }}"), "10");
  ErrorOf("{{ " + std::string(4301, '9') + " }}", ErrorCode::kInvalidFile);
}

TEST(ChatTemplateTest, VariablesMustBeAnObject) {
  EXPECT_THROW(ChatTemplate("x", "t").Render(Json::array()), Error);
}

TEST(ChatTemplateTest, RenderingDoesNotTellTheFolder) {
  const ChatTemplate chat_template("\n{{ x.y }}", "/srv/models/secret/chat_template.jinja");
  try {
    chat_template.Render(Json::object());
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "chat_template.jinja: line 2: 'x' is undefined");
  }
}

}  // namespace
}  // namespace dualfp
