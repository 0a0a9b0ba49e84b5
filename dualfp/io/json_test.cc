#include "dualfp/io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(JsonTest, ParsesEveryKindOfValueInOrder) {
  const std::string text = R"({"b":[1,-2,3.5,true,null,"\u00e9"],"a":{"z":{},"y":[]}})";
  const Json json = ParseJson(text, "x.json");
  EXPECT_EQ(json.dump(), Json::parse(text).dump());
  EXPECT_EQ(json["b"][5], "é");
  EXPECT_EQ(ParseJson("7", "x"), 7);
}

TEST(JsonTest, RejectsWhatIsNotJsonNamingFileAndByte) {
  for (const std::string text :
       {"", "{", "[1,]", "{\"a\":1,}", "nul", "NaN", "1 2", "{} x", "\"\xff\"", "\"\xc3\"",
        "\"\xed\xa0\x80\"", "\"\\ud800\"", "\"a", "// c\n1", "{'a':1}", "1e999", "\"\n\""}) {
    EXPECT_THAT(MessageOf([&] { ParseJson(text, "dir/x.json"); }),
                AllOf(HasSubstr("dir/x.json: near byte "), HasSubstr("not valid JSON")))
        << text;
  }
  for (const char* tail : {"", "x", "{}"}) {
    const std::string text = StrCat("{}", '\0', tail);
    EXPECT_THAT(MessageOf([&] { ParseJson(text, "x.json"); }),
                HasSubstr("near byte 2: not valid JSON: NUL byte"));
  }
  EXPECT_THAT(MessageOf([] { ParseJson("{\"abc\": nope}", "x.json"); }), HasSubstr("near byte 10"));
}

TEST(JsonTest, SurvivesTenMillionLevels) {
  for (const std::string unit : {"[", "{\"a\":", "[{\"a\":"}) {
    std::string deep;
    for (int i = 0; i < 10'000'000; ++i) {
      deep += unit;
    }
    EXPECT_THAT(MessageOf([&] { ParseJson(deep, "deep.json"); }),
                AllOf(HasSubstr("deep.json"), HasSubstr("256 levels")));
  }
}

TEST(JsonTest, DepthLimitIsExact) {
  const std::string deep(256, '[');
  const std::string closed = deep + std::string(256, ']');
  EXPECT_NO_THROW(ParseJson(closed, "x"));
  EXPECT_THROW(ParseJson("[" + closed + "]", "x"), Error);
}

TEST(JsonTest, DuplicateKeys) {
  const std::string text = R"({"a":1,"b":2,"a":{"c":3},"d":4})";
  EXPECT_EQ(ParseJson(text, "x").dump(), R"({"b":2,"a":{"c":3},"d":4})");
  EXPECT_THAT(
      MessageOf([&] { ParseJson(text, "x.json", {.duplicate_keys = DuplicateKeys::kReject}); }),
      AllOf(HasSubstr("x.json"), HasSubstr("duplicate key \"a\"")));
}

// Quadratic time would take minutes here: 300,000 keys, and 200 nested objects that each grow
// after a large first member.
TEST(JsonTest, LargeObjectsTakeLinearTime) {
  std::string flat = "{";
  for (int i = 0; i < 300'000; ++i) {
    flat += StrCat(i == 0 ? "" : ",", "\"key", i, "\":", i);
  }
  flat += "}";
  EXPECT_EQ(ParseJson(flat, "x").size(), 300'000u);
  std::string nested = flat;
  for (int i = 0; i < 200; ++i) {
    nested = StrCat("{\"a\":", nested, ",\"b\":1}");
  }
  EXPECT_EQ(ParseJson(nested, "x").size(), 2u);
}

TEST(QuoteForMessageTest, EscapesAndShortens) {
  EXPECT_EQ(QuoteForMessage("abc"), "\"abc\"");
  EXPECT_EQ(QuoteForMessage("a\n\xff"), "\"a\\x0a\\xff\"");
  EXPECT_EQ(QuoteForMessage(std::string(1000, 'a')).size(), 85u);
}

class JsonFieldsTest : public ::testing::Test {
 protected:
  const Json json_ = ParseJson(R"({
    "int": 12, "float_int": 4096.0, "float": 0.5, "huge": 18446744073709551615, "negative": -1,
    "bool": true, "string": "abc", "null": null, "numbers": [1, 2.5], "strings": ["a", "b"],
    "object": {"inner": "x"}, "objects": [{"a": 1}, {"a": "b"}], "ids": [1, 2], "mixed": [1, "a"]
  })",
                               "config.json");
  const JsonFields fields_{json_, "config.json"};
};

TEST_F(JsonFieldsTest, ReadsFields) {
  EXPECT_EQ(fields_.GetInt("int", 1, 12), 12);
  EXPECT_EQ(fields_.GetInt("float_int", 1, 5000), 4096);
  EXPECT_EQ(fields_.GetNumber("float", 0, 1), 0.5);
  EXPECT_EQ(fields_.GetNumber("int", 0, 20), 12.0);
  EXPECT_EQ(fields_.GetBool("bool"), true);
  EXPECT_EQ(fields_.GetString("string"), "abc");
  EXPECT_THAT(fields_.GetNumbers("numbers", 0, 3), ElementsAre(1.0, 2.5));
  EXPECT_THAT(fields_.GetStrings("strings"), ElementsAre("a", "b"));
  EXPECT_EQ(fields_.GetObject("object").GetString("inner"), "x");
  EXPECT_EQ(fields_.GetObjects("objects").size(), 2u);
  EXPECT_THAT(*fields_.FindIntOrInts("ids", 0, 9), ElementsAre(1, 2));
  EXPECT_THAT(*fields_.FindIntOrInts("int", 0, 12), ElementsAre(12));
}

TEST_F(JsonFieldsTest, AbsentAndNullAreNothing) {
  for (const char* key : {"null", "missing"}) {
    EXPECT_FALSE(fields_.Has(key));
    EXPECT_FALSE(fields_.FindInt(key, 0, 1));
    EXPECT_FALSE(fields_.FindNumber(key, 0, 1));
    EXPECT_FALSE(fields_.FindBool(key));
    EXPECT_FALSE(fields_.FindString(key));
    EXPECT_FALSE(fields_.FindObject(key));
    EXPECT_FALSE(fields_.FindNumbers(key, 0, 1));
    EXPECT_FALSE(fields_.FindStrings(key));
    EXPECT_FALSE(fields_.FindObjects(key));
    EXPECT_FALSE(fields_.FindIntOrInts(key, 0, 1));
  }
  EXPECT_THAT(MessageOf([&] { fields_.GetInt("missing", 0, 9); }),
              HasSubstr("config.json: field missing: expected an integer in [0, 9], but it is "
                        "missing"));
  EXPECT_THAT(MessageOf([&] { fields_.GetString("null"); }), HasSubstr("got null"));
}

TEST_F(JsonFieldsTest, WrongTypesAndRangesNameTheField) {
  EXPECT_EQ(MessageOf([&] { fields_.FindInt("string", 1, 9); }),
            "config.json: field string: expected an integer in [1, 9], got \"abc\"");
  EXPECT_THAT(MessageOf([&] { fields_.FindInt("float", 0, 9); }), HasSubstr("got 0.5"));
  EXPECT_THAT(MessageOf([&] { fields_.FindInt("bool", 0, 9); }), HasSubstr("got true"));
  EXPECT_THAT(MessageOf([&] { fields_.FindInt("huge", 0, INT64_MAX); }), HasSubstr("field huge"));
  EXPECT_THAT(MessageOf([&] { fields_.FindInt("negative", 0, 9); }), HasSubstr("got -1"));
  EXPECT_THAT(MessageOf([&] { fields_.FindNumber("int", 0, 9); }), HasSubstr("got 12"));
  EXPECT_THAT(MessageOf([&] { fields_.FindBool("int"); }), HasSubstr("true or false"));
  EXPECT_THAT(MessageOf([&] { fields_.FindString("int"); }), HasSubstr("a string"));
  EXPECT_THAT(MessageOf([&] { fields_.FindObject("ids"); }), HasSubstr("got an array of 2"));
  EXPECT_THAT(MessageOf([&] { fields_.FindObjects("ids"); }), HasSubstr("field ids[0]:"));
  EXPECT_THAT(MessageOf([&] { fields_.FindNumbers("mixed", 0, 9); }), HasSubstr("mixed[1]"));
  EXPECT_THAT(MessageOf([&] { fields_.FindStrings("mixed"); }), HasSubstr("mixed[0]"));
  EXPECT_THAT(MessageOf([&] { fields_.FindIntOrInts("mixed", 0, 9); }), HasSubstr("mixed[1]"));
  EXPECT_THAT(MessageOf([&] { fields_.FindIntOrInts("string", 0, 9); }), HasSubstr("\"abc\""));
  EXPECT_THAT(MessageOf([&] { fields_.GetObjects("objects")[1].GetInt("a", 0, 9); }),
              HasSubstr("field objects[1].a: "));
  EXPECT_THAT(MessageOf([] { JsonFields(Json::array(), "x.json"); }),
              HasSubstr("x.json: expected an object"));
}

}  // namespace
}  // namespace dualfp
