// Writing, with reading back through safetensors.h. That others read the files too is checked in
// safetensors_test.py.

#include "dualfp/io/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "dualfp/io/safetensors.h"
#include "dualfp/io/test_util.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing_util::ErrorOf;
using testing_util::FileSizeLimit;
using testing_util::ReadRaw;
using testing_util::TemporaryDirectory;
using testing_util::WriteRaw;

// Bytes that tell tensors apart.
std::string Bytes(uint64_t size, char seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(seed + 31 * i);
  }
  return bytes;
}

std::string BytesOf(const TensorData& data) {
  return std::string(data.view().as<char>(), static_cast<size_t>(data.view().num_bytes()));
}

TEST(SafetensorsFileWriterTest, WritesTensorsInAnyOrderAndInPieces) {
  const TemporaryDirectory directory;
  SafetensorsFileWriter writer(directory / "x.safetensors",
                               {{"bytes", DType::kU8, {3}},
                                {"halves", DType::kF16, {2, 2}},
                                {"empty", DType::kF32, {0, 7}},
                                {"scalar", DType::kF64, {}}},
                               {{"format", "pt"}, {"note", "a \"quoted\" é"}});
  const std::string halves = Bytes(8, 1);
  writer.Append("halves", halves.data(), 5);
  const double pi = 3.14159;
  writer.Write("scalar", ConstTensorView(&pi, DType::kF64, {}));
  writer.Append("halves", halves.data() + 5, 3);
  EXPECT_FALSE(writer.is_complete());
  writer.Append("bytes", "xyz", 3);
  EXPECT_TRUE(writer.is_complete());
  EXPECT_FALSE(std::filesystem::exists(directory / "x.safetensors"));
  writer.Commit();
  EXPECT_EQ(directory.num_files(), 1u);

  const SafetensorsFile file = SafetensorsFile::Open(directory / "x.safetensors");
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("format", "pt"), Pair("note", "a \"quoted\" é")));
  ASSERT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.Read(file.Get("scalar")).view().as<double>()[0], pi);
  EXPECT_EQ(BytesOf(file.Read(file.Get("halves"))), halves);
  EXPECT_EQ(BytesOf(file.Read(file.Get("bytes"))), "xyz");
  EXPECT_THAT(file.Get("empty").shape, ElementsAre(0, 7));
  for (const TensorEntry& entry : file.entries()) {
    EXPECT_EQ(entry.offset % static_cast<uint64_t>(DTypeSize(entry.dtype)), 0u) << entry.name;
  }
}

TEST(SafetensorsFileWriterTest, AFileWithoutTensorsIsValid) {
  const TemporaryDirectory directory;
  SafetensorsFileWriter(directory / "x.safetensors", {}, {}).Commit();
  EXPECT_TRUE(SafetensorsFile::Open(directory / "x.safetensors").entries().empty());
}

TEST(SafetensorsFileWriterTest, MisuseIsAnErrorThatLeavesNothing) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "x.safetensors";
  const auto error_of = [&](std::vector<TensorSpec> tensors, auto&& call) {
    return ErrorOf(ErrorCode::kInvalidArgument, [&] {
      SafetensorsFileWriter writer(path, std::move(tensors));
      call(writer);
    });
  };
  const auto nothing = [](SafetensorsFileWriter&) {};
  EXPECT_THAT(error_of({{"a", DType::kU8, {1}}, {"a", DType::kF32, {1}}}, nothing),
              HasSubstr("tensor name \"a\" is taken"));
  EXPECT_THAT(error_of({{"__metadata__", DType::kU8, {1}}}, nothing), HasSubstr("is taken"));
  EXPECT_THAT(error_of({{"a", DType::kU8, {-1}}}, nothing), HasSubstr("negative dimension"));
  EXPECT_THAT(error_of({{"a", DType::kU8, {int64_t{1} << 40, int64_t{1} << 40}}}, nothing),
              HasSubstr("overflows"));
  EXPECT_THAT(
      error_of({{"a", DType::kU8, {int64_t{1} << 62}}, {"b", DType::kU8, {int64_t{1} << 62}}},
               nothing),
      HasSubstr("overflow"));
  EXPECT_THAT(error_of({{"\xff", DType::kU8, {1}}}, nothing), HasSubstr("valid UTF-8"));
  const std::vector<TensorSpec> one = {{"a", DType::kU8, {4}}};
  EXPECT_THAT(error_of(one, [](auto& writer) { writer.Append("b", "x", 1); }),
              HasSubstr("tensor \"b\" was not declared"));
  EXPECT_THAT(error_of(one, [](auto& writer) { writer.Append("a", "12345", 5); }),
              HasSubstr("tensor \"a\": 5 bytes written, 4 declared"));
  EXPECT_THAT(error_of(one,
                       [](auto& writer) {
                         writer.Append("a", "123", 3);
                         writer.Commit();
                       }),
              HasSubstr("tensor \"a\": 3 bytes written, 4 declared"));
  EXPECT_THAT(
      error_of(one,
               [](auto& writer) { writer.Write("a", ConstTensorView("1234", DType::kI8, {4})); }),
      HasSubstr("I8[4] written"));
  EXPECT_THAT(error_of(one,
                       [](auto& writer) {
                         writer.Write("a", ConstTensorView("1234", DType::kU8, {2, 2}));
                       }),
              HasSubstr("U8[2, 2] written"));
  EXPECT_EQ(directory.num_files(), 0u);
}

TEST(SafetensorsFileWriterTest, AFullDiskIsKnownBeforeTheWorkAndLeavesTheOldFile) {
  const TemporaryDirectory directory;
  WriteRaw(directory / "x.safetensors", "old");
  const FileSizeLimit limit(1 << 16);
  EXPECT_THAT(ErrorOf(ErrorCode::kResourceExhausted,
                      [&] {
                        SafetensorsFileWriter writer(directory / "x.safetensors",
                                                     {{"a", DType::kU8, {1 << 17}}});
                      }),
              HasSubstr("x.safetensors: cannot reserve"));
  EXPECT_EQ(ReadRaw(directory / "x.safetensors"), "old");
  EXPECT_EQ(directory.num_files(), 1u);
}

class CheckpointWriterTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kTensorBytes = 1000;

  // Ten tensors of 1000 bytes.
  static std::vector<TensorSpec> Specs() {
    std::vector<TensorSpec> specs;
    for (char c = 'a'; c < 'k'; ++c) {
      specs.push_back({std::string(1, c), DType::kU8, {kTensorBytes}});
    }
    return specs;
  }

  void WriteCheckpoint(uint64_t max_shard_bytes) {
    CheckpointWriter writer(path_, Specs(), max_shard_bytes);
    for (char c = 'j'; c >= 'a'; --c) {
      const std::string bytes = Bytes(kTensorBytes, c);
      writer.Append(std::string(1, c), bytes.data(), bytes.size());
    }
    writer.Commit();
  }

  void ExpectComplete(size_t num_files) {
    const Checkpoint checkpoint = Checkpoint::Open(path_);
    EXPECT_EQ(checkpoint.files().size(), num_files);
    EXPECT_EQ(checkpoint.total_bytes(), 10 * kTensorBytes);
    for (char c = 'a'; c < 'k'; ++c) {
      EXPECT_EQ(BytesOf(checkpoint.Read(std::string(1, c))), Bytes(kTensorBytes, c));
    }
  }

  std::vector<std::string> FileNames() {
    std::vector<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(path_)) {
      names.push_back(file.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  const TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_ / "out";
};

TEST_F(CheckpointWriterTest, OneFileWhereItFits) {
  WriteCheckpoint(10 * kTensorBytes);
  EXPECT_THAT(FileNames(), ElementsAre("model.safetensors"));
  ExpectComplete(1);
}

TEST_F(CheckpointWriterTest, ShardsAndAnIndexWhereNot) {
  WriteCheckpoint(4 * kTensorBytes);
  EXPECT_THAT(FileNames(),
              ElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                          "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  ExpectComplete(3);
  const Checkpoint checkpoint = Checkpoint::Open(path_);
  EXPECT_EQ(checkpoint.files()[0].entries().size(), 4u);
  EXPECT_EQ(checkpoint.files()[2].entries().size(), 2u);
  EXPECT_THAT(ReadRaw(path_ / "model.safetensors.index.json"), HasSubstr("\"total_size\": 10000"));
}

TEST_F(CheckpointWriterTest, ATensorAboveTheLimitGetsAShardOfItsOwn) {
  WriteCheckpoint(kTensorBytes / 2);
  ExpectComplete(10);
}

TEST_F(CheckpointWriterTest, ReplacesAnOlderCheckpointOfEitherKind) {
  WriteCheckpoint(4 * kTensorBytes);
  WriteCheckpoint(10 * kTensorBytes);
  ExpectComplete(1);
  EXPECT_FALSE(std::filesystem::exists(path_ / "model.safetensors.index.json"));
  WriteCheckpoint(4 * kTensorBytes);
  ExpectComplete(3);
  EXPECT_FALSE(std::filesystem::exists(path_ / "model.safetensors"));
}

TEST_F(CheckpointWriterTest, EmptyTensorsMayComeLastOrNotAtAll) {
  CheckpointWriter writer(
      path_, {{"a", DType::kU8, {1}}, {"none", DType::kF32, {0}}, {"never", DType::kF32, {3, 0}}});
  writer.Append("a", "x", 1);
  writer.Write("none", ConstTensorView("", DType::kF32, {0}));
  writer.Commit();
  EXPECT_EQ(Checkpoint::Open(path_).entries().size(), 3u);
}

TEST_F(CheckpointWriterTest, WithoutCommitTheDirectoryIsAsBefore) {
  {
    CheckpointWriter writer(path_, Specs(), 4 * kTensorBytes);
    writer.Append("a", Bytes(kTensorBytes, 'a').data(), kTensorBytes);
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
  WriteCheckpoint(4 * kTensorBytes);
  const std::vector<std::string> before = FileNames();
  {
    CheckpointWriter writer(path_, Specs(), 4 * kTensorBytes);
    for (char c = 'a'; c < 'j'; ++c) {
      writer.Append(std::string(1, c), Bytes(kTensorBytes, 'z').data(), kTensorBytes);
    }
    EXPECT_THAT(ErrorOf(ErrorCode::kInvalidArgument, [&] { writer.Commit(); }),
                AllOf(HasSubstr("tensor \"j\""), HasSubstr("0 bytes written")));
  }
  EXPECT_EQ(FileNames(), before);
  ExpectComplete(3);
}

TEST_F(CheckpointWriterTest, AFullDiskLeavesTheOldCheckpoint) {
  WriteCheckpoint(4 * kTensorBytes);
  const std::vector<std::string> before = FileNames();
  {
    const FileSizeLimit limit(3 * kTensorBytes);
    ErrorOf(ErrorCode::kResourceExhausted, [&] { WriteCheckpoint(4 * kTensorBytes); });
  }
  EXPECT_EQ(FileNames(), before);
  ExpectComplete(3);
}

TEST_F(CheckpointWriterTest, AnUnusableDirectoryIsAnError) {
  WriteRaw(path_, "a file");
  EXPECT_THAT(ErrorOf(ErrorCode::kIo, [&] { CheckpointWriter writer(path_, Specs()); }),
              HasSubstr("out: cannot create the directory"));
}

// Shards finish one by one, so their number is not bounded by that of open files.
TEST_F(CheckpointWriterTest, ClosesFinishedShards) {
  const auto open_files = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  CheckpointWriter writer(path_, Specs(), kTensorBytes);
  const auto before = open_files();
  for (char c = 'a'; c < 'k'; ++c) {
    writer.Append(std::string(1, c), Bytes(kTensorBytes, c).data(), kTensorBytes);
    EXPECT_EQ(open_files(), before);
  }
  writer.Commit();
  ExpectComplete(10);
}

}  // namespace
}  // namespace dualfp
