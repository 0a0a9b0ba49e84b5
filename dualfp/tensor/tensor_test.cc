#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dualfp/base/error.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/dtype.h"
#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

TEST(DTypeTest, NamesAndSizesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::kF8E8M0); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(DTypeName(dtype)), dtype);
    EXPECT_GE(DTypeSize(dtype), 1);
  }
  EXPECT_EQ(ParseDType("F8_E4M3"), DType::kF8E4M3);
  EXPECT_EQ(DTypeSize(DType::kBF16), 2);
  EXPECT_EQ(ParseDType("F17"), std::nullopt);
}

TEST(QuantFormatTest, TableIsIndexedByFormat) {
  for (const QuantFormatInfo& info : QuantFormats()) {
    EXPECT_EQ(&GetQuantFormatInfo(info.format), &info);
  }
  EXPECT_EQ(ParsePrecision("fp8"), Precision::kFp8);
  EXPECT_EQ(ParsePrecision("fp7"), std::nullopt);
}

TEST(TensorViewTest, ShapesStridesAndRows) {
  float data[24] = {};
  const TensorView view(data, DType::kF32, {2, 3, 4});
  EXPECT_EQ(view.num_elements(), 24);
  EXPECT_EQ(view.num_bytes(), 96);
  EXPECT_TRUE(view.is_contiguous());
  const ConstTensorView row = view.Rows(1, 2);
  EXPECT_EQ(row.as<float>(), data + 12);
  EXPECT_EQ(row.shape[0], 1);
  EXPECT_EQ(Describe(row), "F32[1, 3, 4]");
  EXPECT_THROW(view.Rows(1, 3), Error);

  TensorView transposed = view;
  std::swap(transposed.strides[1], transposed.strides[2]);
  std::swap(transposed.shape[1], transposed.shape[2]);
  EXPECT_FALSE(transposed.is_contiguous());
}

TEST(BufferTest, OwnsAlignedZeroedMemoryAndChecksViews) {
  Buffer buffer = Buffer::AllocateCpu(3 << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  EXPECT_EQ(*static_cast<char*>(buffer.data()), 0);
  EXPECT_EQ(buffer.View(DType::kF16, {3, 1 << 19}).num_bytes(), 3 << 20);
  EXPECT_THROW(buffer.View(DType::kF32, {3, 1 << 19}), Error);
  Buffer moved = std::move(buffer);
  EXPECT_EQ(buffer.data(), nullptr);  // NOLINT(bugprone-use-after-move): that it is empty
  EXPECT_EQ(moved.size(), size_t{3} << 20);
  EXPECT_THROW(Buffer::AllocateCpu(size_t{1} << 60), Error);
}

TEST(WeightTest, SaysWhichPrecisionsItCannotCompute) {
  uint8_t bytes[32] = {};
  Weight weight;
  weight.format = QuantFormat::kNested;
  weight.n = 2;
  weight.k = 16;
  weight.values = ConstTensorView(bytes, DType::kF8E4M3, {2, 16});
  weight.lower = ConstTensorView(bytes, DType::kU8, {2, 16});
  EXPECT_EQ(weight.Unsupported(Precision::kFp16), "");
  EXPECT_EQ(weight.Unsupported(Precision::kFp8), "");
  EXPECT_EQ(weight.BytesRead(Precision::kFp16), 64);
  EXPECT_EQ(weight.BytesRead(Precision::kFp8), 32);
  weight.format = QuantFormat::kPlain;
  EXPECT_THAT(weight.Unsupported(Precision::kFp8), HasSubstr("plain"));
}

}  // namespace
}  // namespace dualfp
