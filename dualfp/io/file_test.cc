#include "dualfp/io/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>

#include "dualfp/io/mmap_file.h"
#include "dualfp/io/test_util.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;
using testing_util::ErrorOf;
using testing_util::FileSizeLimit;
using testing_util::ReadRaw;
using testing_util::TemporaryDirectory;
using testing_util::WriteRaw;

// Runs `call` as a user without rights, where the tests themselves run as root.
template <typename Call>
void WithoutRootRights(Call&& call) {
  const bool is_root = geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  call();
  if (is_root) {
    ASSERT_EQ(seteuid(0), 0);
  }
}

TEST(ReadFileTest, ReadsWholeFilesUpToALimit) {
  const TemporaryDirectory directory;
  const std::string content("a\0b\n", 4);
  WriteRaw(directory / "x", content);
  EXPECT_EQ(ReadFile(directory / "x", 4), content);
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { ReadFile(directory / "x", 3); }),
              HasSubstr("x: 4 bytes, expected at most 3"));
  WriteRaw(directory / "empty", "");
  EXPECT_EQ(ReadFile(directory / "empty", 0), "");
}

// Each way in which a path is not a readable file, for both readers.
template <typename Open>
void CheckUnreadablePaths(Open&& open) {
  const TemporaryDirectory directory;
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { open(directory / "missing"); }),
              HasSubstr("missing: cannot open: No such file"));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { open(directory.path()); }),
              HasSubstr("is a directory"));
  ASSERT_EQ(mkfifo((directory / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { open(directory / "fifo"); }),
              HasSubstr("expected a regular file"));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { open("/dev/null"); }),
              HasSubstr("expected a regular file"));
  WriteRaw(directory / "secret", "x");
  std::filesystem::permissions(directory / "secret", std::filesystem::perms::none);
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  WithoutRootRights([&] {
    EXPECT_THAT(ErrorOf(ErrorCode::kIo, [&] { open(directory / "secret"); }),
                HasSubstr("secret: cannot open: Permission denied"));
  });
}

TEST(ReadFileTest, SaysWhyAPathCannotBeRead) {
  CheckUnreadablePaths([](const std::filesystem::path& path) { ReadFile(path, 100); });
}

TEST(MmapFileTest, SaysWhyAPathCannotBeRead) {
  CheckUnreadablePaths([](const std::filesystem::path& path) { MmapFile file(path); });
  const TemporaryDirectory directory;
  WriteRaw(directory / "empty", "");
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { MmapFile file(directory / "empty"); }),
              HasSubstr("empty: the file is empty"));
}

TEST(MmapFileTest, MapsAndKeepsItsBytesThroughHintsAndMoves) {
  const TemporaryDirectory directory;
  std::string content(1'000'003, '\0');
  for (size_t i = 0; i < content.size(); ++i) {
    content[i] = static_cast<char>(i * 7919 >> 5);
  }
  WriteRaw(directory / "x", content);
  MmapFile file(directory / "x");
  const auto text = [&] {
    return std::string_view(reinterpret_cast<const char*>(file.bytes().data()),
                            file.bytes().size());
  };
  ASSERT_EQ(text(), content);
  file.Sequential();
  for (const size_t offset : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, content.size()}) {
    for (const size_t size : {size_t{0}, size_t{1}, size_t{5000}, content.size()}) {
      const size_t bounded = std::min(size, content.size() - offset);
      file.WillNeed(offset, bounded);
      file.DontNeed(offset, bounded);
    }
  }
  EXPECT_EQ(text(), content);
  EXPECT_THROW(file.DontNeed(1, content.size()), Error);
  EXPECT_THROW(file.WillNeed(content.size() + 1, 0), Error);
  MmapFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().size(), content.size());
  file = std::move(moved);
  EXPECT_EQ(text(), content);
}

TEST(AtomicFileTest, NothingIsVisibleBeforeCommit) {
  const TemporaryDirectory directory;
  WriteRaw(directory / "x", "old");
  {
    AtomicFile file(directory / "x");
    file.WriteAt(0, "new content", 11);
    EXPECT_EQ(ReadRaw(directory / "x"), "old");
  }
  EXPECT_EQ(ReadRaw(directory / "x"), "old");
  EXPECT_EQ(directory.num_files(), 1u);
  {
    AtomicFile file(directory / "x");
    file.WriteAt(4, "content", 7);
    file.WriteAt(0, "new ", 4);
    file.Finish();
    file.Finish();
    AtomicFile moved(std::move(file));
    moved.Commit();
  }
  EXPECT_EQ(ReadRaw(directory / "x"), "new content");
  EXPECT_EQ(directory.num_files(), 1u);
}

TEST(AtomicFileTest, ObeysTheUmask) {
  const TemporaryDirectory directory;
  const mode_t old = umask(027);
  WriteFileAtomically(directory / "x", "a");
  umask(old);
  struct stat status;
  ASSERT_EQ(stat((directory / "x").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFileTest, TwoWritersOfOneFileDoNotMeet) {
  const TemporaryDirectory directory;
  AtomicFile first(directory / "x");
  AtomicFile second(directory / "x");
  first.WriteAt(0, "first", 5);
  second.WriteAt(0, "second", 6);
  second.Commit();
  first.Commit();
  EXPECT_EQ(ReadRaw(directory / "x"), "first");
  EXPECT_EQ(directory.num_files(), 1u);
}

// A killed process cannot clean up; what counts is that the old file stays whole.
TEST(AtomicFileTest, AKilledWriterLeavesTheOldFile) {
  const TemporaryDirectory directory;
  WriteRaw(directory / "x", "old");
  const pid_t child = fork();
  if (child == 0) {
    AtomicFile file(directory / "x");
    file.WriteAt(0, "half of the", 11);
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(ReadRaw(directory / "x"), "old");
  WriteFileAtomically(directory / "x", "new");
  EXPECT_EQ(ReadRaw(directory / "x"), "new");
}

TEST(AtomicFileTest, AFullDiskIsAnErrorThatLeavesNothing) {
  const TemporaryDirectory directory;
  WriteRaw(directory / "x", "old");
  const std::string content(100'000, 'a');
  const FileSizeLimit limit(65'536);
  EXPECT_THAT(ErrorOf(ErrorCode::kResourceExhausted,
                      [&] { WriteFileAtomically(directory / "x", content); }),
              HasSubstr("x: cannot write: File too large"));
  EXPECT_THAT(ErrorOf(ErrorCode::kResourceExhausted,
                      [&] {
                        AtomicFile file(directory / "x");
                        file.Reserve(content.size());
                      }),
              HasSubstr("x: cannot reserve 100000 bytes"));
  EXPECT_EQ(ReadRaw(directory / "x"), "old");
  EXPECT_EQ(directory.num_files(), 1u);
}

TEST(AtomicFileTest, MissingOrForbiddenDirectoriesAreErrors) {
  const TemporaryDirectory directory;
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { AtomicFile file(directory / "no/x"); }),
              HasSubstr("no/x: cannot create a temporary file"));
  std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_read |
                                                     std::filesystem::perms::owner_exec |
                                                     std::filesystem::perms::others_exec);
  WithoutRootRights(
      [&] { ErrorOf(ErrorCode::kIo, [&] { WriteFileAtomically(directory / "x", "a"); }); });
  std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_all);
  std::filesystem::create_directory(directory / "d");
  ErrorOf(ErrorCode::kIo, [&] { WriteFileAtomically(directory / "d", "a"); });
  EXPECT_EQ(directory.num_files(), 1u);
}

TEST(RemoveFileTest, RemovesWhatIsThere) {
  const TemporaryDirectory directory;
  WriteRaw(directory / "x", "a");
  RemoveFile(directory / "x");
  RemoveFile(directory / "x");
  EXPECT_EQ(directory.num_files(), 0u);
  ErrorOf(ErrorCode::kIo, [&] { RemoveFile(directory.path()); });
}

}  // namespace
}  // namespace dualfp
