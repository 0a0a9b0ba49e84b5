#include "dualfp/quant/conversion/partial_checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/io/safetensors.h"

namespace dualfp {
namespace {

class PartialCheckpointTest : public testing::Test {
 protected:
  PartialCheckpointTest()
      : root_(std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  ~PartialCheckpointTest() override { std::filesystem::remove_all(root_); }

  std::filesystem::path out() const { return root_ / "out"; }
  static std::vector<PartialCheckpoint::Task> Tasks() {
    return {{{{"a", DType::kU8, {4}}}}, {{{"b", DType::kU8, {4}}, {"c", DType::kF32, {1}}}}};
  }
  static void WriteTask(PartialCheckpoint& checkpoint, size_t task) {
    if (task == 0) {
      checkpoint.WriteAt("a", 0, "abcd", 4);
    } else {
      const float one = 1.0f;
      checkpoint.WriteAt("b", 2, "gh", 2);
      checkpoint.WriteAt("b", 0, "ef", 2);
      checkpoint.WriteAt("c", 0, &one, 4);
    }
    checkpoint.Finish(task);
  }
  // One tensor a file.
  static constexpr uint64_t kShardBytes = 4;

  std::filesystem::path root_;
};

TEST_F(PartialCheckpointTest, GoesOnWithWhatWasSaved) {
  {
    PartialCheckpoint first(out(), Tasks(), "same", kShardBytes);
    WriteTask(first, 0);
    first.Save();
  }
  EXPECT_FALSE(std::filesystem::exists(out()));
  PartialCheckpoint second(out(), Tasks(), "same", kShardBytes);
  EXPECT_TRUE(second.IsDone(0));
  EXPECT_FALSE(second.IsDone(1));
  WriteTask(second, 1);
  second.Publish();
  const Checkpoint checkpoint = Checkpoint::Open(out());
  EXPECT_EQ(checkpoint.files().size(), 3);
  EXPECT_EQ(std::string(checkpoint.Read("a").view().as<char>(), 4), "abcd");
  EXPECT_EQ(std::string(checkpoint.Read("b").view().as<char>(), 4), "efgh");
  EXPECT_EQ(*checkpoint.Read("c").view().as<float>(), 1.0f);
  EXPECT_FALSE(std::filesystem::exists(second.directory()));
  EXPECT_FALSE(std::filesystem::exists(out() / "journal"));
}

TEST_F(PartialCheckpointTest, BeginsAnewForAnotherIdentityOrOtherTensors) {
  for (const int change : {0, 1, 2}) {
    {
      PartialCheckpoint first(out(), Tasks(), "same", kShardBytes);
      WriteTask(first, 0);
      first.Save();
    }
    std::vector<PartialCheckpoint::Task> tasks = Tasks();
    if (change == 1) {
      tasks[1].outputs[1].shape = {2};
    }
    PartialCheckpoint second(out(), tasks, change == 0 ? "another" : "same",
                             change == 2 ? 100 : kShardBytes);
    EXPECT_FALSE(second.IsDone(0)) << change;
    second.Discard();
  }
}

TEST_F(PartialCheckpointTest, AnUnfinishedLineOfTheJournalDoesNotCount) {
  std::filesystem::path journal;
  {
    PartialCheckpoint first(out(), Tasks(), "same", kShardBytes);
    WriteTask(first, 0);
    first.Save();
    journal = first.directory() / "journal";
  }
  std::ofstream(journal, std::ios::app) << "1";  // of "1\n", or of "17\n"
  {
    PartialCheckpoint second(out(), Tasks(), "same", kShardBytes);
    EXPECT_TRUE(second.IsDone(0));
    EXPECT_FALSE(second.IsDone(1));
  }
  std::ofstream(journal, std::ios::app) << "x\n";  // not ours
  PartialCheckpoint third(out(), Tasks(), "same", kShardBytes);
  EXPECT_FALSE(third.IsDone(0));
}

TEST_F(PartialCheckpointTest, AShardThatIsGoneOrCutIsWrittenAnew) {
  for (const bool cut : {true, false}) {
    std::filesystem::path shard;
    {
      PartialCheckpoint first(out(), Tasks(), "same", kShardBytes);
      WriteTask(first, 0);
      first.Save();
      shard = first.directory() / "model-00001-of-00003.safetensors";
    }
    if (cut) {
      std::filesystem::resize_file(shard, 5);
    } else {
      std::filesystem::remove(shard);
    }
    PartialCheckpoint second(out(), Tasks(), "same", kShardBytes);
    EXPECT_FALSE(second.IsDone(0));
  }
}

TEST_F(PartialCheckpointTest, TwoWritersAreOneTooMany) {
  const PartialCheckpoint first(out(), Tasks(), "same", kShardBytes);
  EXPECT_THROW(PartialCheckpoint(out(), Tasks(), "same", kShardBytes), Error);
}

TEST_F(PartialCheckpointTest, LeavesDirectoriesThatAreThereAlone) {
  std::filesystem::create_directories(out());
  { PartialCheckpoint(out(), Tasks(), "same", kShardBytes).Discard(); }
  std::ofstream(out() / "mine") << "x";
  EXPECT_THROW(PartialCheckpoint(out(), Tasks(), "same", kShardBytes), Error);
  EXPECT_TRUE(std::filesystem::exists(out() / "mine"));
}

}  // namespace
}  // namespace dualfp
