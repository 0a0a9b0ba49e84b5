#include "dualfp/io/hub_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using std::filesystem::path;
using ::testing::HasSubstr;

class HubCacheTest : public ::testing::Test {
 protected:
  HubCacheTest() : root_(path(::testing::TempDir()) / "hub_cache_test") {
    std::filesystem::remove_all(root_);
    for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) {
      unsetenv(name);
    }
    setenv("HOME", root_.c_str(), 1);
  }
  ~HubCacheTest() override { std::filesystem::remove_all(root_); }

  static void Write(const path& file, const std::string& text) {
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  static std::string MessageOf(const std::string& model) {
    try {
      FindModelDirectory(model);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNotFound);
      return error.what();
    }
    return "";
  }

  path root_;
};

TEST_F(HubCacheTest, WhereTheCacheIs) {
  EXPECT_EQ(HubCacheDirectory(), root_ / ".cache/huggingface/hub");
  setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(HubCacheDirectory(), "/x/huggingface/hub");
  setenv("HF_HOME", "/h", 1);
  EXPECT_EQ(HubCacheDirectory(), "/h/hub");
  setenv("HF_HUB_CACHE", "/c", 1);
  EXPECT_EQ(HubCacheDirectory(), "/c");
}

TEST_F(HubCacheTest, FindsSnapshots) {
  setenv("HF_HUB_CACHE", root_.c_str(), 1);
  Write(root_ / "models--org--name/refs/main", "abc123\n");
  Write(root_ / "models--org--name/snapshots/abc123/config.json", "{}");
  EXPECT_EQ(FindModelDirectory("org/name"), root_ / "models--org--name/snapshots/abc123");
  Write(root_ / "models--gpt2/refs/main", "1");
  Write(root_ / "models--gpt2/snapshots/1/config.json", "{}");
  EXPECT_EQ(FindModelDirectory("gpt2"), root_ / "models--gpt2/snapshots/1");
  // A path comes first, and is left as it is.
  EXPECT_EQ(FindModelDirectory(root_.string()), root_);
}

TEST_F(HubCacheTest, SaysHowToGetWhatIsNotThere) {
  setenv("HF_HUB_CACHE", root_.c_str(), 1);
  EXPECT_THAT(MessageOf("org/name"), HasSubstr("hf download org/name"));
  EXPECT_THAT(MessageOf("org/name"), HasSubstr(root_.string()));
  Write(root_ / "models--org--name/refs/main", "gone");
  EXPECT_THAT(MessageOf("org/name"), HasSubstr("names a snapshot that is not in the cache"));
  Write(root_ / "models--org--name/refs/main", "../../..");
  EXPECT_THAT(MessageOf("org/name"), HasSubstr("names a snapshot"));
  for (const char* path : {"/no/such/folder", "a/b/c", "../x", "./x", "a b", ""}) {
    EXPECT_THAT(MessageOf(path), HasSubstr("there is no such directory")) << path;
    EXPECT_THAT(MessageOf(path), ::testing::Not(HasSubstr("hf download"))) << path;
  }
}

}  // namespace
}  // namespace dualfp
