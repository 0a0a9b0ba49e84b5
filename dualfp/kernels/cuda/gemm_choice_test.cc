// The GEMM op's choice on a GPU needs none: kernels, plans and workspace by the tuned table of an
// H200, with and without cuBLASLt.

#include "dualfp/kernels/cuda/gemm_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "dualfp/base/error.h"

namespace dualfp::cuda {
namespace {

using ::testing::HasSubstr;

GemmHardware H200(const std::string& cublaslt_missing) {
  GemmHardware hardware;
  hardware.compute_capability = 90;
  hardware.cublaslt_missing = cublaslt_missing;
  hardware.tables = {&sm90::BuiltInTable()};
  return hardware;
}

const GemmHardware& WithCublasLt(int) {
  static const GemmHardware hardware = H200("");
  return hardware;
}

const GemmHardware& WithoutCublasLt(int) {
  static const GemmHardware hardware = H200("is not here");
  return hardware;
}

constexpr auto kWith = MakeGemmKernels<WithCublasLt>();
constexpr auto kWithout = MakeGemmKernels<WithoutCublasLt>();

// What a tuned row's format computes.
GemmDesc DescOf(sm90::WeightFormat format, int64_t m, int64_t n, int64_t k) {
  GemmDesc desc;
  desc.device = {DeviceType::kCuda, 0};
  desc.m = m;
  desc.n = n;
  desc.k = k;
  desc.x_dtype = desc.y_dtype = desc.weight_dtype = DType::kF16;
  switch (format) {
    case sm90::WeightFormat::kF16:
      break;
    case sm90::WeightFormat::kBf16:
      desc.x_dtype = desc.y_dtype = desc.weight_dtype = DType::kBF16;
      break;
    case sm90::WeightFormat::kNested:
      desc.weight_format = QuantFormat::kNested;
      desc.weight_dtype = DType::kF8E4M3;
      break;
    case sm90::WeightFormat::kNested12F16:
    case sm90::WeightFormat::kNested12Bf16:
      desc.weight_format = QuantFormat::kNested12;
      desc.weight_dtype = DType::kF8E4M3;
      desc.x_dtype = desc.y_dtype =
          format == sm90::WeightFormat::kNested12Bf16 ? DType::kBF16 : DType::kF16;
      break;
    default:
      desc.weight_format = QuantFormat::kNested;
      desc.weight_dtype = DType::kF8E4M3;
      desc.precision = Precision::kFp8;
      desc.activation_quant = ActivationQuant::kDynamicPerToken;
      desc.accumulation = format == sm90::WeightFormat::kE4m3Promoted ? Accumulation::kPromoted
                                                                      : Accumulation::kFast;
  }
  return desc;
}

int64_t BytesAt(std::span<const GemmKernel> kernels, const GemmDesc& desc) {
  const GemmKernel& kernel = SelectGemmKernel(kernels, desc);
  return kernel.workspace_bytes == nullptr ? 0 : kernel.workspace_bytes(desc);
}

// Tiles by token want parts that begin with blocks of scales; other tiles take any that the op
// does.
TEST(GemmChoiceTest, PartsWithBlockScalesNarrowTheChoice) {
  GemmDesc desc = DescOf(sm90::WeightFormat::kE4m3Promoted, 4096, 6144, 4096);
  desc.weight_format = QuantFormat::kFp8;
  desc.weight_scale = ScaleGranularity::kBlock128;
  desc.activation_quant = ActivationQuant::kDynamicPerGroup;
  const auto by_token = [&desc] {
    EXPECT_EQ(E4m3Unsupported(desc, WithCublasLt(0)), "");
    return ChoosePlan(desc, true, WithCublasLt(0)).config->by_token;
  };
  EXPECT_TRUE(by_token());
  desc.parts = {.count = 3, .first_row = {0, 4096, 5120}, .scale_base = {0, 4096, 5120}};
  EXPECT_TRUE(by_token());
  desc.parts = {.count = 2, .interleaved = 1, .scale_base = {0, 3072}};
  EXPECT_TRUE(by_token());
  desc.parts = {.count = 3, .first_row = {0, 4112, 5120}, .scale_base = {0, 4224, 5248}};
  EXPECT_FALSE(by_token());
  desc.parts.first_row[1] = 4100;
  EXPECT_THAT(E4m3Unsupported(desc, WithCublasLt(0)), HasSubstr("multiples of 16 rows"));
}

// What is sized for up to M rows serves every smaller M, where another kernel may run.
TEST(GemmChoiceTest, AWorkspaceForMRowsServesFewer) {
  ASSERT_FALSE(sm90::BuiltInTable().rows.empty());
  int differ = 0;
  for (const sm90::TunedRow& row : sm90::BuiltInTable().rows) {
    for (const auto& [kernels, y_dtype] :
         {std::pair{std::span<const GemmKernel>(kWith), DType::kF16},
          std::pair{std::span<const GemmKernel>(kWith), DType::kF32},
          std::pair{std::span<const GemmKernel>(kWithout), DType::kF16}}) {
      GemmDesc largest = DescOf(row.format, row.m + 1, row.n, row.k);
      largest.y_dtype = y_dtype == DType::kF32 ? y_dtype : largest.y_dtype;
      const int64_t sized = GemmWorkspaceBytes(kernels, largest);
      for (const int64_t m : {row.m + 1, row.m, row.m - 1, row.m / 2, row.m / 16, 1}) {
        GemmDesc desc = largest;
        desc.m = std::max<int64_t>(m, 1);
        ASSERT_LE(BytesAt(kernels, desc), sized) << row.line << ": " << Describe(desc);
        ASSERT_LE(GemmWorkspaceBytes(kernels, desc), sized) << Describe(desc);
        differ += BytesAt(kernels, desc) > BytesAt(kernels, largest) ? 1 : 0;
      }
    }
  }
  EXPECT_GT(differ, 0) << "no row sends fewer tokens to a kernel with more workspace, so that the "
                          "comparison shows nothing";
}

// The choice is among those that can run, by measurements where there are some.
TEST(GemmChoiceTest, PlainWeightsGoWhereTheyAreFaster) {
  const std::vector<sm90::TunedRow>& rows = sm90::BuiltInTable().rows;
  const auto row = std::find_if(rows.begin(), rows.end(), [](const sm90::TunedRow& r) {
    return r.cublaslt > 0 && r.cublaslt < 0.96;
  });
  ASSERT_NE(row, rows.end());
  GemmDesc desc = DescOf(row->format, row->m, row->n, row->k);
  EXPECT_EQ(SelectGemmKernel(kWith, desc).name, "gemm_plain_any_any_cublaslt");
  EXPECT_EQ(SelectGemmKernel(kWithout, desc).name, "gemm_plain_any_any_sm90");
  desc.has_bias = true;
  EXPECT_EQ(SelectGemmKernel(kWith, desc).name, "gemm_plain_any_any_sm90");
  desc.has_bias = false;
  desc.y_dtype = DType::kF32;
  desc.m = 64;
  EXPECT_EQ(SelectGemmKernel(kWith, desc).name, "gemm_plain_any_any_sm90");
  desc.m = 65;
  EXPECT_EQ(SelectGemmKernel(kWith, desc).name, "gemm_plain_any_any_cublaslt");
  EXPECT_EQ(SelectGemmKernel(kWithout, desc).name, "gemm_plain_any_any_sm90");
  desc.n = 24;
  EXPECT_EQ(SelectGemmKernel(kWith, desc).name, "gemm_plain_any_any_cublaslt");
  EXPECT_THROW(SelectGemmKernel(kWithout, desc), Error);
}

TEST(GemmChoiceTest, EveryFormatHasItsKernelAndTheReasonsOfTheOthers) {
  using enum sm90::WeightFormat;
  EXPECT_EQ(SelectGemmKernel(kWith, DescOf(kNested, 5, 64, 64)).name, "gemm_nested_f16_any_sm90");
  EXPECT_EQ(SelectGemmKernel(kWith, DescOf(kE4m3, 5, 64, 64)).name, "gemm_e4m3_any_any_sm90");
  EXPECT_EQ(SelectGemmKernel(kWith, DescOf(kE4m3Promoted, 5, 64, 64)).name,
            "gemm_e4m3_any_any_sm90");
  EXPECT_EQ(SelectGemmKernel(kWith, DescOf(kBf16, 5, 64, 64)).name, "gemm_plain_any_any_sm90");
  try {
    SelectGemmKernel(kWithout, DescOf(kNested, 5, 64, 72));
    FAIL() << "K = 72";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("on cuda:0"));
    EXPECT_THAT(error.what(), HasSubstr("gemm_nested_f16_any_sm90: N and K must be multiples"));
    EXPECT_THAT(error.what(), HasSubstr("gemm_plain_any_any_cublaslt: computes plain weights"));
  }
}

// Plans come from the description and the rows' distance alone, and can run what they are for: so
// a captured step takes those of an eager one.
TEST(GemmChoiceTest, APlanIsAFunctionOfTheDescription) {
  std::set<std::string> names;
  for (const auto format :
       {sm90::WeightFormat::kNested, sm90::WeightFormat::kE4m3, sm90::WeightFormat::kE4m3Promoted,
        sm90::WeightFormat::kF16, sm90::WeightFormat::kBf16}) {
    for (const int64_t m : {1, 16, 63, 130, 700, 2048}) {
      for (const Activation activation : {Activation::kNone, Activation::kSiluMul}) {
        for (const bool residual : {false, true}) {
          for (const DType y : {DType::kF16, DType::kF32}) {
            for (const bool aligned : {true, false}) {
              GemmDesc desc = DescOf(format, m, 4096, 4096);
              desc.activation = activation;
              desc.has_residual = residual;
              desc.y_dtype = y;
              const sm90::Plan plan = ChoosePlan(desc, aligned, WithCublasLt(0));
              EXPECT_EQ(Name(plan), Name(ChoosePlan(desc, aligned, WithCublasLt(0))));
              EXPECT_EQ(plan.config->format, format);
              const bool persistent = plan.config->family == sm90::Family::kPersistent;
              EXPECT_FALSE(persistent && (y == DType::kF32 || !aligned)) << Describe(desc);
              EXPECT_FALSE(persistent && !plan.config->finishes &&
                           (residual || activation == Activation::kSiluMul))
                  << Name(plan) << " for " << Describe(desc);
              names.insert(Name(plan));
            }
          }
        }
      }
    }
  }
  EXPECT_GT(names.size(), 20u);
}

}  // namespace
}  // namespace dualfp::cuda
