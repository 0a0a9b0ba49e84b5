#include "dualfp/io/name_pattern.h"

#include <gtest/gtest.h>

#include <string>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

bool Matches(std::string_view pattern, std::string_view name) {
  return NamePattern(pattern, "test").Matches(name);
}

TEST(NamePatternTest, NamesMatchThemselves) {
  EXPECT_TRUE(Matches("lm_head", "lm_head"));
  EXPECT_FALSE(Matches("lm_head", "model.lm_head"));
  EXPECT_FALSE(Matches("model.layers.1", "model.layers.10"));
  EXPECT_FALSE(Matches("model.layers", "modelxlayers"));
  EXPECT_TRUE(NamePattern("lm_head", "test").is_name());
}

TEST(NamePatternTest, WildcardsCoverTheWholeName) {
  EXPECT_TRUE(Matches("*.mlp.gate", "model.layers.0.mlp.gate"));
  EXPECT_FALSE(Matches("*.mlp.gate", "model.layers.0.mlp.gate_proj"));
  EXPECT_FALSE(Matches("*mlpxgate", "model.mlp.gate"));
  EXPECT_TRUE(Matches("model.layers.?.*", "model.layers.7.mlp"));
  EXPECT_FALSE(Matches("model.layers.?.*", "model.layers.17.mlp"));
  EXPECT_TRUE(Matches("layers.[0-3].o", "layers.2.o"));
  EXPECT_FALSE(Matches("layers.[!0-3].o", "layers.2.o"));
  EXPECT_TRUE(Matches("layers.[!0-3].o", "layers.4.o"));
  EXPECT_TRUE(Matches("a[b*", "a[bc"));
  EXPECT_FALSE(Matches("*head", "lm_head\n"));
  EXPECT_FALSE(NamePattern("*head", "test").is_name());
}

// As Python's re.match.
TEST(NamePatternTest, ExpressionsMatchFromTheStart) {
  EXPECT_TRUE(Matches("re:.*lm_head", "model.lm_head"));
  EXPECT_FALSE(Matches("re:lm_head", "model.lm_head"));
  EXPECT_TRUE(Matches("re:lm_", "lm_head"));
  EXPECT_TRUE(Matches("re:.*gate$", "model.layers.0.mlp.gate"));
  EXPECT_FALSE(Matches("re:.*gate$", "model.layers.0.mlp.gate_proj"));
  EXPECT_TRUE(Matches(R"(re:.*self_attn\.(q|k|v|o)_proj$)", "model.layers.3.self_attn.v_proj"));
}

TEST(NamePatternTest, RefusesWhatCannotBeMatched) {
  EXPECT_THROW(NamePattern("", "test"), Error);
  EXPECT_THROW(NamePattern("re:(", "test"), Error);
  EXPECT_THROW(NamePattern("re:" + std::string(200, '(') + std::string(200, ')'), "test"), Error);
  const NamePattern slow("re:(a+)+$", "here");
  try {
    slow.Matches(std::string(200, 'a') + "b");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    EXPECT_NE(std::string(error.what()).find("here"), std::string::npos);
  }
}

}  // namespace
}  // namespace dualfp
