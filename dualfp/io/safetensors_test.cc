// Reading: valid files, and every way in which a file or an index can be broken.

#include "dualfp/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>

#include "dualfp/io/json.h"
#include "dualfp/io/test_util.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing_util::ErrorOf;
using testing_util::SafetensorsBytes;
using testing_util::TemporaryDirectory;
using testing_util::WriteRaw;

SafetensorsFile Parse(std::string_view bytes) {
  return SafetensorsFile::FromMemory(std::as_bytes(std::span(bytes)), "m.safetensors");
}

std::string Tensor(std::string_view name, std::string_view dtype, std::string_view shape,
                   uint64_t begin, uint64_t end) {
  return StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                ",\"data_offsets\":[", begin, ",", end, "]}");
}

std::string FileOf(std::initializer_list<std::string> tensors, std::string_view data) {
  std::string header = "{";
  for (const std::string& tensor : tensors) {
    header += StrCat(header.size() > 1 ? "," : "", tensor);
  }
  return SafetensorsBytes(StrCat(header, "}"), data);
}

std::string OneTensorFile(std::string_view name, size_t bytes = 4) {
  return FileOf({Tensor(name, "U8", StrCat("[", bytes, "]"), 0, bytes)}, std::string(bytes, 'd'));
}

TEST(SafetensorsTest, ListsTensorsByOffsetWithMetadata) {
  const std::string bytes = SafetensorsBytes(
      StrCat("{", Tensor("b", "F32", "[2, 1]", 8, 16), ",\"__metadata__\":{\"format\":\"pt\"},",
             Tensor("scalar", "I64", "[]", 0, 8), ",", Tensor("empty", "F16", "[3,0]", 8, 8),
             "}   "),
      std::string(16, '\1'));
  const SafetensorsFile file = Parse(bytes);
  ASSERT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.entries()[0].name, "scalar");
  EXPECT_EQ(file.entries()[1].name, "empty");
  EXPECT_EQ(file.entries()[2].name, "b");
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("format", "pt")));
  const TensorEntry& b = file.Get("b");
  EXPECT_EQ(b.dtype, DType::kF32);
  EXPECT_THAT(b.shape, ElementsAre(2, 1));
  EXPECT_EQ(b.offset, bytes.size() - 8);
  EXPECT_EQ(b.num_bytes, 8u);
  EXPECT_EQ(file.Find("c"), nullptr);
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { file.Get("c"); }),
              HasSubstr("m.safetensors: no tensor \"c\""));
  EXPECT_EQ(file.Read(file.Get("scalar")).view().rank, 0);
  EXPECT_EQ(file.Read(file.Get("empty")).view().num_elements(), 0);
  EXPECT_TRUE(file.Read(file.Get("empty")).view());
}

TEST(SafetensorsTest, ReadsEveryDType) {
  for (int i = 0; i <= static_cast<int>(DType::kF8E8M0); ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto size = static_cast<uint64_t>(3 * DTypeSize(dtype));
    const std::string bytes = SafetensorsBytes(
        StrCat("{", Tensor("a", DTypeName(dtype), "[3]", 0, size), "}"), std::string(size, '\7'));
    const SafetensorsFile file = Parse(bytes);
    const TensorData data = file.Read(file.Get("a"));
    EXPECT_EQ(data.view().dtype, dtype);
    EXPECT_EQ(data.view().num_bytes(), static_cast<int64_t>(size));
    EXPECT_EQ(std::memcmp(data.view().data, std::string(size, '\7').data(), size), 0);
  }
}

TEST(SafetensorsTest, AViewIsAlignedWhereverItsBytesLie) {
  const TemporaryDirectory directory;
  for (int padding = 0; padding < 8; ++padding) {
    const std::string header =
        StrCat("{", Tensor("pad", "U8", StrCat("[", padding, "]"), 0, padding), ",",
               Tensor("x", "F64", "[2]", padding, padding + 16), "}");
    const double values[] = {1.5, -2.25};
    std::string data(padding + sizeof(values), '\0');
    std::memcpy(data.data() + padding, values, sizeof(values));
    WriteRaw(directory / "x.safetensors", SafetensorsBytes(header, data));
    std::optional<SafetensorsFile> file = SafetensorsFile::Open(directory / "x.safetensors");
    const TensorData read = file->Read(file->Get("x"));
    file.reset();  // the data outlives the file
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read.view().data) % alignof(double), 0u);
    EXPECT_EQ(read.view().as<double>()[0], 1.5);
    EXPECT_EQ(read.view().as<double>()[1], -2.25);
  }
}

TEST(SafetensorsTest, ForeignDTypesAreListedButNotRead) {
  for (const auto& [dtype, bytes] : {std::pair<const char*, int>{"F4", 2},
                                     {"F6_E2M3", 3},
                                     {"F6_E3M2", 3},
                                     {"F8_E4M3FNUZ", 4},
                                     {"F8_E5M2FNUZ", 4},
                                     {"C64", 32}}) {
    const std::string text =
        SafetensorsBytes(StrCat("{", Tensor("w", dtype, "[2,2]", 0, bytes), ",",
                                Tensor("x", "U8", "[1]", bytes, bytes + 1), "}"),
                         std::string(bytes + 1, 'a'));
    const SafetensorsFile file = Parse(text);
    EXPECT_EQ(file.Get("w").foreign_dtype, dtype);
    EXPECT_EQ(file.Get("x").foreign_dtype, "");
    EXPECT_EQ(*file.Read(file.Get("x")).view().as<char>(), 'a');
    EXPECT_THAT(ErrorOf(ErrorCode::kUnsupported, [&] { file.Read(file.Get("w")); }),
                AllOf(HasSubstr("m.safetensors: tensor \"w\""), HasSubstr(dtype)));
  }
}

TEST(SafetensorsTest, HigherRanksAreListedButNotRead) {
  const std::string bytes = SafetensorsBytes(
      StrCat("{", Tensor("conv", "U8", "[1,2,1,2,1]", 0, 4), "}"), std::string(4, 'a'));
  const SafetensorsFile file = Parse(bytes);
  EXPECT_EQ(file.Get("conv").shape.size(), 5u);
  EXPECT_THAT(ErrorOf(ErrorCode::kUnsupported, [&] { file.Read(file.Get("conv")); }),
              AllOf(HasSubstr("m.safetensors: tensor \"conv\""), HasSubstr("5 dimensions")));
}

struct BrokenFile {
  std::string label;
  std::string bytes;
  std::string expected;  // part of the message
  ErrorCode code = ErrorCode::kInvalidFile;

  friend void PrintTo(const BrokenFile& file, std::ostream* out) { *out << file.label; }
};

std::string WithTensor(std::string_view dtype, std::string_view shape, std::string_view offsets,
                       size_t data) {
  return SafetensorsBytes(StrCat("{\"w\":{\"dtype\":", dtype, ",\"shape\":", shape,
                                 ",\"data_offsets\":", offsets, "}}"),
                          std::string(data, 'd'));
}

std::string LengthOnly(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) {
    bytes += static_cast<char>(length >> (8 * i) & 0xff);
  }
  return bytes;
}

std::string Repeat(std::string_view unit, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += unit;
  }
  return text;
}

std::vector<BrokenFile> BrokenFiles() {
  const std::string a = Tensor("a", "U8", "[4]", 0, 4);
  const std::string good = OneTensorFile("a", 4);
  std::vector<BrokenFile> files = {
      {"empty", "", "0 bytes, too short"},
      {"seven_bytes", std::string(7, '\0'), "7 bytes, too short"},
      {"no_header", LengthOnly(0), "header: expected JSON that begins with {"},
      {"header_beyond_file", StrCat(LengthOnly(3), "{}"),
       "header length: 3 bytes, but the file has only"},
      {"header_length_max", StrCat(LengthOnly(~uint64_t{0}), "{}"),
       "header length: 18446744073709551615"},
      {"truncated_data", good.substr(0, good.size() - 1),
       "tensor \"a\": data_offsets: ends at 4, but the file holds only 3 bytes"},
      {"bytes_at_the_end", StrCat(good, "x"), "1 bytes at the end of the file belong to no tensor"},
      {"data_without_tensors", SafetensorsBytes("{}", "abc"), "3 bytes at the end"},

      {"header_not_json", SafetensorsBytes("{hello", ""), "not valid JSON"},
      {"header_array", SafetensorsBytes("[]", ""), "expected JSON that begins with {"},
      {"header_leading_blank", SafetensorsBytes(" {}", ""), "expected JSON that begins with {"},
      {"header_unfinished", SafetensorsBytes(StrCat("{", a), "aaaa"), "not valid JSON"},
      {"header_trailing_garbage", SafetensorsBytes(StrCat("{", a, "}}"), "aaaa"), "not valid JSON"},
      {"header_trailing_nul", SafetensorsBytes(StrCat("{", a, "}", '\0', "x"), "aaaa"),
       "not valid JSON: NUL byte"},
      {"name_not_utf8", FileOf({Tensor("\xff", "U8", "[4]", 0, 4)}, "aaaa"), "ill-formed UTF-8"},
      {"name_with_surrogate", FileOf({Tensor("\xed\xa0\x80", "U8", "[4]", 0, 4)}, "aaaa"),
       "ill-formed UTF-8"},

      {"tensor_null", SafetensorsBytes("{\"a\":null}", ""), "\"a\": expected an object, got null"},
      {"tensor_number", SafetensorsBytes("{\"a\":1}", ""), "\"a\": expected an object, got 1"},
      {"tensor_empty", SafetensorsBytes("{\"a\":{}}", ""), "tensor \"a\": field dtype is missing"},
      {"no_shape", SafetensorsBytes("{\"a\":{\"dtype\":\"U8\"}}", ""), "field shape is missing"},
      {"no_offsets", SafetensorsBytes("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", ""),
       "field data_offsets is missing"},
      {"unknown_field", SafetensorsBytes("{\"a\":{\"dtype\":\"U8\",\"strides\":[1]}}", ""),
       "tensor \"a\": unknown field \"strides\""},
      {"duplicate_field", SafetensorsBytes("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", ""),
       "tensor \"a\": duplicate field dtype"},

      {"dtype_unknown", WithTensor("\"F17\"", "[4]", "[0,4]", 4),
       "tensor \"w\": dtype: unknown element type \"F17\""},
      {"dtype_lower_case", WithTensor("\"u8\"", "[4]", "[0,4]", 4), "unknown element type \"u8\""},
      {"dtype_number", WithTensor("8", "[4]", "[0,4]", 4), "dtype: expected a string, got 8"},
      {"dtype_null", WithTensor("null", "[4]", "[0,4]", 4), "dtype: expected a string, got null"},
      {"dtype_complex", WithTensor("\"C64\"", "[4]", "[0,31]", 31),
       "tensor \"w\": data_offsets: 31 bytes, but dtype and shape make 32"},
      {"dtype_f4", WithTensor("\"F4\"", "[3]", "[0,2]", 2),
       "tensor \"w\": shape: no whole number of bytes of F4"},
      {"dtype_f6_overflow", WithTensor("\"F6_E2M3\"", "[4611686018427387904]", "[0,2]", 2),
       "tensor \"w\": shape: no whole number of bytes of F6_E2M3"},

      {"shape_negative", WithTensor("\"U8\"", "[-4]", "[0,4]", 4),
       "tensor \"w\": shape: expected integers of at least 0, got -4"},
      {"shape_two_negatives", WithTensor("\"U8\"", "[-2,-2]", "[0,4]", 4), "got -2"},
      {"shape_float", WithTensor("\"U8\"", "[4.0]", "[0,4]", 4), "got 4.0"},
      {"shape_exponent", WithTensor("\"U8\"", "[4e0]", "[0,4]", 4), "got 4e0"},
      {"shape_string", WithTensor("\"U8\"", "[\"4\"]", "[0,4]", 4), "got \"4\""},
      {"shape_bool", WithTensor("\"U8\"", "[true]", "[0,1]", 1), "got a boolean"},
      {"shape_null", WithTensor("\"U8\"", "null", "[0,4]", 4),
       "shape: expected an array, got null"},
      {"shape_number", WithTensor("\"U8\"", "4", "[0,4]", 4), "shape: expected an array, got 4"},
      {"shape_object", WithTensor("\"U8\"", "{}", "[0,4]", 4),
       "shape: expected an array, got an object"},
      {"shape_over_64_bits", WithTensor("\"U8\"", "[18446744073709551616]", "[0,4]", 4),
       "shape: expected integers"},
      {"shape_over_63_bits", WithTensor("\"U8\"", "[9223372036854775808]", "[0,4]", 4),
       "shape: expected integers"},
      {"shape_product_wraps_to_fit", WithTensor("\"U8\"", "[4294967296,4294967296,4]", "[0,0]", 0),
       "tensor \"w\": shape: the number of bytes overflows"},
      {"shape_product_wraps_times_size", WithTensor("\"F64\"", "[2305843009213693952]", "[0,0]", 0),
       "overflows"},
      {"shape_overflow_beside_zero", WithTensor("\"U8\"", "[0,4294967296,4294967296]", "[0,0]", 0),
       "overflows"},
      {"shape_rank_65", WithTensor("\"U8\"", StrCat("[1", Repeat(",1", 64), "]"), "[0,1]", 1),
       "more than 64 dimensions"},
      {"shape_wrong_for_dtype", WithTensor("\"F32\"", "[4]", "[0,4]", 4),
       "tensor \"w\": data_offsets: 4 bytes, but dtype and shape make 16"},
      {"shape_too_small", WithTensor("\"U8\"", "[3]", "[0,4]", 4), "4 bytes, but"},
      {"scalar_without_bytes", WithTensor("\"U8\"", "[]", "[0,0]", 0), "0 bytes, but"},

      {"offsets_reversed", WithTensor("\"U8\"", "[4]", "[4,0]", 4),
       "data_offsets: begin 4 lies after end 0"},
      {"offsets_negative", WithTensor("\"U8\"", "[4]", "[-1,3]", 4), "got -1"},
      {"offsets_float", WithTensor("\"U8\"", "[4]", "[0,4.0]", 4), "got 4.0"},
      {"offsets_one", WithTensor("\"U8\"", "[4]", "[0]", 4), "expected 2 numbers, got 1"},
      {"offsets_three", WithTensor("\"U8\"", "[4]", "[0,4,4]", 4), "two integers"},
      {"offsets_null", WithTensor("\"U8\"", "[4]", "null", 4), "expected an array, got null"},
      {"offsets_out_of_range", WithTensor("\"U8\"", "[4]", "[1000,1004]", 4),
       "ends at 1004, but the file holds only 4"},
      {"offsets_max", WithTensor("\"U8\"", "[4]", "[18446744073709551611,18446744073709551615]", 4),
       "ends at 18446744073709551615"},
      {"overlap", FileOf({a, Tensor("b", "U8", "[4]", 2, 6)}, "aabbbb"),
       "tensor \"b\": data_offsets: begins at 2, inside tensor \"a\", which ends at 4"},
      {"same_bytes_twice", FileOf({a, Tensor("b", "U8", "[4]", 0, 4)}, "aaaa"), "inside"},
      {"hole", FileOf({a, Tensor("b", "U8", "[4]", 5, 9)}, "aaaa.bbbb"),
       "tensor \"b\": data_offsets: begins at 5, leaving a hole after byte 4"},
      {"hole_at_the_start", FileOf({Tensor("b", "U8", "[4]", 1, 5)}, ".bbbb"),
       "leaving a hole after byte 0"},
      {"empty_tensor_inside_another", FileOf({a, Tensor("b", "U8", "[0]", 2, 2)}, "aaaa"),
       "inside"},

      {"duplicate_name", FileOf({a, Tensor("a", "U8", "[4]", 4, 8)}, "aaaabbbb"),
       "duplicate tensor name \"a\""},
      {"duplicate_escaped_name", FileOf({a, Tensor("\\u0061", "U8", "[4]", 4, 8)}, "aaaabbbb"),
       "duplicate tensor name \"a\""},

      {"metadata_number", SafetensorsBytes("{\"__metadata__\":{\"a\":1}}", ""),
       "__metadata__: \"a\": expected a string, got 1"},
      {"metadata_array", SafetensorsBytes("{\"__metadata__\":[]}", ""),
       "__metadata__: expected an object, got an array"},
      {"metadata_twice", SafetensorsBytes("{\"__metadata__\":{},\"__metadata__\":{}}", ""),
       "duplicate key \"__metadata__\""},
      {"metadata_duplicate_key",
       SafetensorsBytes("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", ""),
       "__metadata__: duplicate key \"a\""},
  };
  return files;
}

class BrokenSafetensorsTest : public ::testing::TestWithParam<BrokenFile> {};

TEST_P(BrokenSafetensorsTest, IsRefusedNamingFileAndField) {
  const BrokenFile& broken = GetParam();
  const std::string message = ErrorOf(broken.code, [&] { Parse(broken.bytes); });
  EXPECT_THAT(message, AllOf(HasSubstr("m.safetensors: "), HasSubstr(broken.expected)));
  EXPECT_LT(message.size(), 400u);
}

INSTANTIATE_TEST_SUITE_P(Files, BrokenSafetensorsTest, ::testing::ValuesIn(BrokenFiles()),
                         [](const auto& test) { return test.param.label; });

TEST(SafetensorsTest, HugeOrDeepHeadersAreRefused) {
  const auto error_of = [](const std::string& bytes) {
    return ErrorOf(ErrorCode::kInvalidFile, [&] { Parse(bytes); });
  };
  constexpr int kDepth = 10'000'000;
  EXPECT_THAT(error_of(LengthOnly(100'000'001) + std::string(100'000'001, ' ')),
              HasSubstr("header length: 100000001 bytes, expected at most 100000000"));
  EXPECT_THAT(error_of(SafetensorsBytes(StrCat("{\"a\":", Repeat("[", kDepth)), "")),
              HasSubstr("tensor \"a\": expected an object, got an array"));
  EXPECT_THAT(error_of(SafetensorsBytes(Repeat("{\"a\":", kDepth), "")),
              HasSubstr("tensor \"a\": unknown field \"a\""));
  EXPECT_THAT(error_of(WithTensor("\"U8\"", Repeat("[", kDepth), "[0,4]", 4)),
              HasSubstr("tensor \"w\": shape: expected integers of at least 0, got an array"));
  EXPECT_THAT(
      error_of(SafetensorsBytes(StrCat("{\"__metadata__\":", Repeat("{\"a\":", kDepth)), "")),
      HasSubstr("__metadata__: \"a\": expected a string, got an object"));
}

TEST(SafetensorsTest, OpenNamesThePath) {
  const TemporaryDirectory directory;
  WriteRaw(directory / "bad.safetensors", "12345678901234567890");
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile,
                      [&] { SafetensorsFile::Open(directory / "bad.safetensors"); }),
              HasSubstr((directory / "bad.safetensors").string() + ": header length"));
  WriteRaw(directory / "zero.safetensors", "");
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile,
                      [&] { SafetensorsFile::Open(directory / "zero.safetensors"); }),
              HasSubstr("zero.safetensors: the file is empty"));
}

// The resident part of mapped files, in bytes.
int64_t ResidentFileBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word == "RssFile:") {
      int64_t kilobytes = 0;
      status >> kilobytes;
      return kilobytes << 10;
    }
  }
  return -1;
}

TEST(SafetensorsTest, ReadPagesAreGivenBack) {
  constexpr int kTensors = 16;
  constexpr uint64_t kBytes = 4 << 20;
  const TemporaryDirectory directory;
  std::string header = "{";
  for (int i = 0; i < kTensors; ++i) {
    header += StrCat(i == 0 ? "" : ",", Tensor(StrCat("t", i), "U8", StrCat("[", kBytes, "]"),
                                               i * kBytes, (i + 1) * kBytes));
  }
  WriteRaw(directory / "x.safetensors",
           SafetensorsBytes(header + "}", std::string(kTensors * kBytes, 'x')));
  const Checkpoint checkpoint = Checkpoint::Open(directory / "x.safetensors");
  const int64_t before = ResidentFileBytes();
  ASSERT_GE(before, 0);
  uint64_t sum = 0;
  for (const TensorEntry& entry : checkpoint.entries()) {
    checkpoint.Prefetch(entry);
    const TensorData data = checkpoint.Read(entry);
    for (uint64_t i = 0; i < kBytes; i += 512) {
      sum += data.view().as<uint8_t>()[i];
    }
    // This tensor, and what the kernel maps around it.
    EXPECT_LT(ResidentFileBytes() - before, static_cast<int64_t>(kBytes + (1 << 20)));
  }
  EXPECT_EQ(sum, kTensors * kBytes / 512 * 'x');
}

class CheckpointTest : public ::testing::Test {
 protected:
  void WriteShard(std::string_view name, std::string_view tensor) {
    WriteRaw(directory_ / name, OneTensorFile(tensor));
  }
  void WriteIndex(std::string_view weight_map) {
    WriteRaw(directory_ / "model.safetensors.index.json",
             StrCat("{\"metadata\":{\"total_size\":8},\"weight_map\":", weight_map, "}"));
  }
  std::string OpenError(ErrorCode code) {
    return ErrorOf(code, [&] { Checkpoint::Open(directory_.path()); });
  }

  const TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, OpensASingleFileByDirectoryOrName) {
  WriteShard("model.safetensors", "a");
  for (const std::filesystem::path& path : {directory_.path(), directory_ / "model.safetensors"}) {
    const Checkpoint checkpoint = Checkpoint::Open(path);
    EXPECT_EQ(checkpoint.entries().size(), 1u);
    EXPECT_EQ(checkpoint.total_bytes(), 4u);
    EXPECT_EQ(checkpoint.Read("a").view().as<char>()[3], 'd');
  }
}

TEST_F(CheckpointTest, OpensShardsInFileOrder) {
  WriteShard("m-2.safetensors", "a");
  WriteShard("m-1.safetensors", "b");
  WriteIndex(R"({"a":"m-2.safetensors","b":"m-1.safetensors"})");
  const Checkpoint checkpoint = Checkpoint::Open(directory_.path());
  ASSERT_EQ(checkpoint.files().size(), 2u);
  ASSERT_EQ(checkpoint.entries().size(), 2u);
  EXPECT_EQ(checkpoint.entries()[0].name, "b");
  EXPECT_EQ(checkpoint.entries()[1].name, "a");
  EXPECT_EQ(checkpoint.Get("a").file, 1);
  EXPECT_EQ(checkpoint.Read("a").view().num_bytes(), 4);
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { checkpoint.Read("c"); }),
              AllOf(HasSubstr(directory_.path().string()), HasSubstr("no tensor \"c\"")));
}

TEST_F(CheckpointTest, TheSingleFileCountsBesideAnIndex) {
  WriteShard("model.safetensors", "a");
  WriteIndex("{\"b\":\"missing.safetensors\"}");
  EXPECT_NE(Checkpoint::Open(directory_.path()).Find("a"), nullptr);
}

TEST_F(CheckpointTest, ADirectoryWithoutCheckpointIsNotFound) {
  EXPECT_THAT(OpenError(ErrorCode::kNotFound), HasSubstr("no checkpoint here"));
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { Checkpoint::Open(directory_ / "none"); }),
              HasSubstr("none: cannot open"));
}

TEST_F(CheckpointTest, AMissingShardIsNamedWhereItsTensorsAreWanted) {
  WriteShard("m-1.safetensors", "a");
  WriteIndex(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  const Checkpoint checkpoint = Checkpoint::Open(directory_.path());
  EXPECT_EQ(checkpoint.files().size(), 1u);
  EXPECT_NE(checkpoint.Find("a"), nullptr);
  EXPECT_EQ(checkpoint.Find("b"), nullptr);
  EXPECT_THAT(checkpoint.WhereMissing("b"),
              AllOf(HasSubstr("m-2.safetensors"), HasSubstr("index.json")));
  EXPECT_EQ(checkpoint.WhereMissing("c"), "");
  WriteIndex(R"({"a":"m-3.safetensors","b":"m-2.safetensors"})");
  EXPECT_THAT(OpenError(ErrorCode::kNotFound),
              AllOf(HasSubstr("m-2.safetensors: missing"), HasSubstr("index.json")));
}

TEST_F(CheckpointTest, ABrokenShardIsNamed) {
  WriteShard("m-1.safetensors", "a");
  WriteRaw(directory_ / "m-2.safetensors", OneTensorFile("b").substr(0, 20));
  WriteIndex(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  EXPECT_THAT(OpenError(ErrorCode::kInvalidFile), HasSubstr("m-2.safetensors: header length"));
}

// What counts is in the files.
TEST_F(CheckpointTest, TheIndexMayDisagreeWithTheFiles) {
  const auto open = [&] { return Checkpoint::Open(directory_.path()); };
  const auto byte = [](const Checkpoint& checkpoint, std::string_view tensor) {
    const TensorData data = checkpoint.Read(tensor);
    return *data.view().as<char>();
  };
  WriteShard("m-1.safetensors", "a");
  WriteIndex(R"({"a":"m-1.safetensors","b":"m-1.safetensors"})");
  EXPECT_EQ(open().entries().size(), 1u);

  WriteRaw(directory_ / "m-1.safetensors",
           FileOf({Tensor("a", "U8", "[1]", 0, 1), Tensor("b", "U8", "[1]", 1, 2)}, "ab"));
  WriteIndex(R"({"a":"m-1.safetensors"})");
  EXPECT_EQ(byte(open(), "b"), 'b');

  // The same name in two files: the one that the index says, if it has it.
  WriteRaw(directory_ / "m-2.safetensors",
           FileOf({Tensor("a", "U8", "[1]", 0, 1), Tensor("c", "U8", "[1]", 1, 2)}, "xc"));
  WriteIndex(R"({"a":"m-1.safetensors","c":"m-2.safetensors"})");
  EXPECT_EQ(byte(open(), "a"), 'a');
  EXPECT_EQ(open().entries().size(), 3u);
  WriteIndex(R"({"a":"m-2.safetensors","c":"m-2.safetensors","b":"m-1.safetensors"})");
  EXPECT_EQ(byte(open(), "a"), 'x');
  WriteIndex(R"({"b":"m-1.safetensors","c":"m-2.safetensors"})");
  EXPECT_THAT(OpenError(ErrorCode::kInvalidFile), HasSubstr("duplicate tensor name \"a\""));
}

TEST_F(CheckpointTest, TheIndexCannotLeaveItsDirectory) {
  const TemporaryDirectory outside;
  WriteRaw(outside / "m.safetensors", OneTensorFile("a"));
  std::filesystem::create_directory(directory_ / "sub");
  WriteRaw(directory_ / "sub/m.safetensors", OneTensorFile("a"));
  for (const std::string& name :
       {"../" + outside.path().filename().string() + "/m.safetensors",
        (outside / "m.safetensors").string(), std::string("sub/m.safetensors"), std::string("."),
        std::string(".."), std::string(""), std::string("sub\\\\m.safetensors"),
        std::string("m.safetensors\\u0000.txt"), std::string("m\\u001b[2J.safetensors")}) {
    WriteIndex(StrCat("{\"a\":\"", name, "\"}"));
    EXPECT_THAT(OpenError(ErrorCode::kInvalidFile),
                AllOf(HasSubstr("index.json: weight_map: \"a\""),
                      HasSubstr("name of a file in the same directory")))
        << name;
  }
}

TEST_F(CheckpointTest, ABrokenIndexIsRefused) {
  const auto error_of = [&](std::string_view index) {
    WriteRaw(directory_ / "model.safetensors.index.json", index);
    return OpenError(ErrorCode::kInvalidFile);
  };
  EXPECT_THAT(error_of(""), HasSubstr("index.json: near byte 0: not valid JSON"));
  EXPECT_THAT(error_of("[]"), HasSubstr("index.json: expected an object, got an array"));
  EXPECT_THAT(error_of("{}"), HasSubstr("index.json: field weight_map: expected an object"));
  EXPECT_THAT(error_of(R"({"weight_map":[]})"), HasSubstr("field weight_map"));
  EXPECT_THAT(error_of(R"({"weight_map":{}})"), HasSubstr("expected tensors, is empty"));
  EXPECT_THAT(error_of(R"({"weight_map":{"a":1}})"), HasSubstr("expected a file name, got 1"));
  EXPECT_THAT(error_of(R"({"weight_map":{"a":"x","a":"y"}})"), HasSubstr("duplicate key \"a\""));
  EXPECT_THAT(error_of(StrCat("{\"weight_map\":", Repeat("{\"a\":", 10'000'000))),
              HasSubstr("256 levels"));
}

}  // namespace
}  // namespace dualfp
