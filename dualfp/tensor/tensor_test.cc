#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dualfp/base/error.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/dtype.h"
#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/weight.h"
#include "dualfp/tensor/weight_scheme.h"

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
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kPlain).name, "plain");
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kNested).name, "nested");
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kNested12).name, "nested12");
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kFp8).name, "fp8");
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kNvfp4).name, "nvfp4");
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kMxfp4).name, "mxfp4");
  EXPECT_EQ(GetQuantFormatInfo(QuantFormat::kMxfp8).name, "mxfp8");
  for (const Precision precision : {Precision::kExact, Precision::kFp8, Precision::kFp4}) {
    EXPECT_EQ(ParsePrecision(PrecisionName(precision)), precision);
  }
  EXPECT_EQ(PrecisionName(Precision::kExact), "exact");
  EXPECT_EQ(ParsePrecision("fp16"), Precision::kExact);
  EXPECT_EQ(ParsePrecision(""), std::nullopt);
  EXPECT_EQ(ParsePrecision("fp7"), std::nullopt);
}

TEST(QuantFormatTest, BitsOfCodecsAreThoseOfCodesAndScales) {
  for (const QuantFormatInfo& info : kQuantFormats) {
    if (info.codec.bits > 0) {
      const float scale = info.group_size == 0 ? 0.0f
                                               : static_cast<float>(8 * DTypeSize(info.scales)) /
                                                     static_cast<float>(info.group_size);
      EXPECT_EQ(info.bits.stored, static_cast<float>(info.codec.bits) + scale) << info.name;
      EXPECT_EQ(info.codec.decode(info.codec.encode(1e30f)), info.codec.max) << info.name;
    }
  }
}

TEST(WeightSchemeTest, EveryNameFindsItsSchemeAndEverySchemeItsName) {
  for (const NamedScheme& named : WeightSchemes()) {
    EXPECT_EQ(FindWeightScheme(named.name), &named);
    if (!named.alias.empty()) {
      EXPECT_EQ(FindWeightScheme(named.alias), &named);
    }
    if (named.scheme.has_value()) {
      EXPECT_EQ(FindWeightScheme(WeightSchemeName(*named.scheme))->scheme, named.scheme);
    }
  }
  EXPECT_EQ(FindWeightScheme("auto")->scheme, std::nullopt);
  EXPECT_EQ(FindWeightScheme("none")->scheme, kPlainWeights);
  EXPECT_EQ(FindWeightScheme("nested")->scheme, kNestedWeights);
  EXPECT_EQ(FindWeightScheme("nested12")->scheme, kNested12Weights);
  EXPECT_EQ(FindWeightScheme("fp8")->scheme, kFp8PerTensor);
  EXPECT_EQ(FindWeightScheme("fp8_per_tensor")->scheme, kFp8PerTensor);
  EXPECT_EQ(FindWeightScheme("fp8-block")->scheme, kFp8PerBlock);
  EXPECT_EQ(FindWeightScheme("fp8-tensor")->name, "fp8_per_tensor");
  EXPECT_EQ(FindWeightScheme("nvfp4")->scheme,
            (WeightScheme{QuantFormat::kNvfp4, ScaleGranularity::kGroup}));
  EXPECT_EQ(FindWeightScheme(""), nullptr);
  EXPECT_EQ(FindWeightScheme("plain"), nullptr);
  EXPECT_THAT(WeightSchemeNames(), HasSubstr("auto, none, nested, nested12, fp8_per_tensor"));
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
  EXPECT_EQ(weight.Unsupported(Precision::kExact), "");
  EXPECT_EQ(weight.Unsupported(Precision::kFp8), "");
  EXPECT_EQ(weight.BytesRead(Precision::kExact), 64);
  EXPECT_EQ(weight.BytesRead(Precision::kFp8), 32);
  weight.format = QuantFormat::kPlain;
  EXPECT_THAT(weight.Unsupported(Precision::kFp8), HasSubstr("plain"));
}

}  // namespace
}  // namespace dualfp
