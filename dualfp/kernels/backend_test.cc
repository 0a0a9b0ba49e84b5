// The list of backends, and which GEMM kernel the list chooses on each instruction set.

#include "dualfp/kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>

#include "dualfp/base/error.h"
#include "dualfp/base/testing/scoped_env.h"
#include "dualfp/kernels/device.h"
#include "dualfp/kernels/gemm_test_util.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(BackendsTest, TheListIsOrderedAndComplete) {
  ASSERT_FALSE(Backends().empty());
  EXPECT_EQ(Backends().back().name, "reference");
  std::set<std::string_view> names;
  const Backend* previous = nullptr;
  for (const Backend& backend : Backends()) {
    EXPECT_TRUE(names.insert(backend.name).second) << backend.name;
    EXPECT_FALSE(backend.gemms.empty()) << backend.name;
    EXPECT_FALSE(backend.activations.empty()) << backend.name;
    if (backend.device == DeviceType::kCpu) {
      EXPECT_NE(backend.ops, nullptr) << backend.name;
      EXPECT_NE(backend.rows, nullptr) << backend.name;
      EXPECT_NE(backend.probe, nullptr) << backend.name;
      if (previous != nullptr && previous->device == DeviceType::kCpu) {
        EXPECT_GT(previous->isa, backend.isa) << backend.name;
      }
    } else {
      EXPECT_TRUE(previous == nullptr || previous->device == backend.device)
          << "GPUs come before the CPU";
    }
    previous = &backend;
  }
}

// The list of kernels is the backends' lists, one after the other.
TEST(BackendsTest, KernelsAreThoseOfTheBackends) {
  size_t next = 0;
  for (const Backend& backend : Backends()) {
    for (const GemmKernel& kernel : backend.gemms) {
      ASSERT_LT(next, GemmKernels().size());
      EXPECT_EQ(GemmKernels()[next++].name, kernel.name);
    }
  }
  EXPECT_EQ(next, GemmKernels().size());
}

TEST(BackendsTest, AnUnknownForcedNameListsThoseThereAre) {
  const ScopedEnv cpu("DUALFP_CPU", "avx1024");
  EXPECT_THAT([] { BestBackend(DeviceType::kCpu); },
              ThrowsMessage<Error>(HasSubstr("DUALFP_CPU=avx1024: expected scalar, avx2, avx512, "
                                             "avx512bf16 or amx")));
}

TEST(BackendsTest, AForcedInstructionSetIsTheBestOfTheList) {
  const CpuIsa hardware = DetectCpuIsa();
  for (const Backend& backend : Backends()) {
    if (backend.device == DeviceType::kCpu && backend.isa <= hardware) {
      const ScopedEnv cpu("DUALFP_CPU", std::string(CpuIsaName(backend.isa)).c_str());
      EXPECT_EQ(BestBackend(DeviceType::kCpu).name, backend.name);
      EXPECT_EQ(UsableBackends(DeviceType::kCpu).back()->name, "reference");
    }
  }
}

TEST(BackendsTest, GpusHaveBackendsWhereThereAreAny) {
  const bool none = Devices().size() == 1;
  EXPECT_EQ(UsableBackends(DeviceType::kCuda).empty(), none);
  if (none) {
    EXPECT_THAT([] { BestBackend(DeviceType::kCuda); }, ThrowsMessage<Error>(HasSubstr("CUDA")));
  }
}

TEST(BackendsTest, KeysLieAsTheLayoutSays) {
  using Shape = std::array<int64_t, 4>;
  EXPECT_EQ((KvLayout{.transposed_keys = true}).KeyShape(7, 2, 64),
            (Shape{7, 2, 64, kKvBlockSize}));
  EXPECT_EQ((KvLayout{.transposed_keys = false}).KeyShape(7, 2, 64),
            (Shape{7, 2, kKvBlockSize, 64}));
  for (const bool transposed : {false, true}) {
    EXPECT_EQ((KvLayout{transposed}).ValueShape(7, 2, 64), (Shape{7, 2, kKvBlockSize, 64}));
  }
  EXPECT_TRUE(KvLayoutOf(DeviceType::kCpu).transposed_keys);
}

// What a product should run by, for each instruction set in the order of CpuIsa; nullptr: the
// reference.
struct Expected {
  const char* name;
  QuantFormat format;
  DType dtype;
  ScaleGranularity scale;
  Precision precision;
  ActivationQuant quant;
  const char* avx2;
  const char* avx512;
  const char* avx512bf16;  // where dot products of BF16 are fast
  const char* slow_bf16;   // and where they are not
  const char* amx;
};

constexpr Precision k16 = Precision::kExact;
constexpr Precision k8 = Precision::kFp8;
constexpr ActivationQuant kNoQuant = ActivationQuant::kNone;
constexpr ActivationQuant kToken = ActivationQuant::kDynamicPerToken;
constexpr ScaleGranularity kUnscaled = ScaleGranularity::kNone;
constexpr ScaleGranularity kChannel = ScaleGranularity::kPerChannel;

constexpr Expected kExpected[] = {
    {"plain_f16", QuantFormat::kPlain, DType::kF16, kUnscaled, k16, kNoQuant,
     "gemm_f16_any_any_avx2_4x3", "gemm_f16_any_any_avx512_4x6", "gemm_f16_any_any_avx512_4x6",
     "gemm_f16_any_any_avx512_4x6", "gemm_f16_any_any_avx512_4x6"},
    {"plain_bf16", QuantFormat::kPlain, DType::kBF16, kUnscaled, k16, kNoQuant,
     "gemm_bf16_any_any_avx2_4x3", "gemm_bf16_any_any_avx512_4x6", "gemm_bf16_any_any_avx512_4x6",
     "gemm_bf16_any_any_avx512_4x6", "gemm_bf16_any_any_avx512_4x6"},
    {"nested_fp16", QuantFormat::kNested, DType::kF8E4M3, kUnscaled, k16, kNoQuant,
     "gemm_nested16_any_any_avx2_4x3", "gemm_nested16_any_any_avx512_4x6",
     "gemm_nested16_any_any_avx512_4x6", "gemm_nested16_any_any_avx512_4x6",
     "gemm_nested16_any_any_avx512_4x6"},
    {"nested_fp8", QuantFormat::kNested, DType::kF8E4M3, kUnscaled, k8, kToken,
     "gemm_nested8_any_any_avx2_4x3", "gemm_nested8_any_any_avx512_4x6",
     "gemm_nested8_e4m3_any_avx512bf16_4x6", "gemm_nested8_e4m3_any_avx512bf16few_4x6",
     "gemm_nested8_e4m3_any_amx_32x32"},
    {"nested_fp8_weight_only", QuantFormat::kNested, DType::kF8E4M3, kUnscaled, k8, kNoQuant,
     "gemm_nested8_any_any_avx2_4x3", "gemm_nested8_any_any_avx512_4x6",
     "gemm_nested8_any_any_avx512_4x6", "gemm_nested8_any_any_avx512_4x6",
     "gemm_nested8_any_any_avx512_4x6"},
    {"fp8_channel", QuantFormat::kFp8, DType::kF8E4M3, kChannel, k8, kToken,
     "gemm_fp8_any_any_avx2_4x3", "gemm_fp8_any_any_avx512_4x6", "gemm_fp8_e4m3_any_avx512bf16_4x6",
     "gemm_fp8_e4m3_any_avx512bf16few_4x6", "gemm_fp8_e4m3_any_amx_32x32"},
    {"fp8_block", QuantFormat::kFp8, DType::kF8E4M3, ScaleGranularity::kBlock128, k8, kToken,
     "gemm_fp8block_any_any_avx2_4x3", "gemm_fp8block_any_any_avx512_4x6",
     "gemm_fp8block_any_any_avx512_4x6", "gemm_fp8block_any_any_avx512_4x6",
     "gemm_fp8block_any_any_avx512_4x6"},
    {"groups_of_x", QuantFormat::kFp8, DType::kF8E4M3, kChannel, k8,
     ActivationQuant::kDynamicPerGroup, "gemm_fp8_any_any_avx2_4x3", "gemm_fp8_any_any_avx512_4x6",
     "gemm_fp8_any_any_avx512_4x6", "gemm_fp8_any_any_avx512_4x6", "gemm_fp8_any_any_avx512_4x6"},
    {"nvfp4", QuantFormat::kNvfp4, DType::kU8, ScaleGranularity::kGroup, Precision::kFp4, kNoQuant,
     nullptr, nullptr, nullptr, nullptr, nullptr},
    {"mxfp8", QuantFormat::kMxfp8, DType::kF8E4M3, ScaleGranularity::kGroup, k8,
     ActivationQuant::kDynamicMx, "gemm_mxfp8_any_any_avx2_4x3", "gemm_mxfp8_any_any_avx512_4x6",
     "gemm_mxfp8_any_any_avx512_4x6", "gemm_mxfp8_any_any_avx512_4x6",
     "gemm_mxfp8_any_any_avx512_4x6"},
};

class GemmChoiceTest : public ::testing::TestWithParam<Expected> {};

TEST_P(GemmChoiceTest, EveryInstructionSetHasItsKernel) {
  const Expected& expected = GetParam();
  const TestFormat format{expected.name,  expected.format,    expected.dtype,
                          expected.scale, expected.precision, expected.quant};
  const TestWeight weight(format, 8, 64, 1);
  const CpuIsa hardware = DetectCpuIsa();
  for (const CpuIsa isa :
       {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16, CpuIsa::kAmx}) {
    if (isa > hardware) {
      continue;
    }
    const ScopedEnv cpu("DUALFP_CPU", std::string(CpuIsaName(isa)).c_str());
    const char* const names[] = {nullptr, expected.avx2, expected.avx512,
                                 HasFastBf16Dot() ? expected.avx512bf16 : expected.slow_bf16,
                                 expected.amx};
    const char* name = names[static_cast<int>(isa)];
    name = name == nullptr ? "gemm_any_any_any_reference" : name;
    // The choice does not depend on M, nor on the types of X and Y.
    for (const int64_t m : {1, 3, 40, 500}) {
      for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
        const TestProblem problem(format, weight, m, type, type, {}, 2);
        EXPECT_EQ(SelectGemmKernel(problem.desc).name, name)
            << CpuIsaName(isa) << ": " << Describe(problem.desc);
        EXPECT_EQ(GemmUnsupported(problem.desc), "");
        EXPECT_TRUE(GemmRowsAreIndependent(problem.desc)) << Describe(problem.desc);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmChoiceTest, ::testing::ValuesIn(kExpected),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(GemmYieldTest, RowsThatShareAScaleAreNotIndependent) {
  const TestFormat format{"nested",  QuantFormat::kNested, DType::kF8E4M3,
                          kUnscaled, Precision::kFp8,      ActivationQuant::kDynamicPerTensor};
  const TestWeight weight(format, 8, 64, 1);
  const TestProblem problem(format, weight, 3, DType::kF32, DType::kF32, {}, 2);
  EXPECT_FALSE(GemmRowsAreIndependent(problem.desc));
}

// Of kernels that yield at some M, the workspace is the largest, and the choice follows the yield.
std::string Always(const GemmDesc&) { return ""; }
std::string Never(const GemmDesc&) { return "never"; }
int64_t Little(const GemmDesc& desc) { return desc.m; }
int64_t Much(const GemmDesc&) { return 1000; }
bool YieldsToFew(const GemmDesc& desc) { return desc.m < 10; }

TEST(GemmYieldTest, AKernelMayYieldToALaterOne) {
  const GemmKernel kernels[] = {
      {.name = "unable", .supports = Never, .workspace_bytes = Much, .yields = YieldsToFew},
      {.name = "first", .supports = Always, .workspace_bytes = Little, .yields = YieldsToFew},
      {.name = "second", .supports = Always, .workspace_bytes = Much},
      {.name = "third", .supports = Always, .workspace_bytes = nullptr}};
  GemmDesc desc;
  desc.m = 9;
  EXPECT_EQ(SelectGemmKernel(kernels, desc).name, "second");
  desc.m = 10;
  EXPECT_EQ(SelectGemmKernel(kernels, desc).name, "first");
  EXPECT_EQ(GemmWorkspaceBytes(kernels, desc), 1000) << "enough for 9 rows too";
  EXPECT_EQ(SelectGemmKernel(std::span(kernels).first(2), desc).name, "first");
  EXPECT_THAT([&] { SelectGemmKernel(std::span(kernels).first(1), desc); },
              ThrowsMessage<Error>(HasSubstr("unable: never")));
}

}  // namespace
}  // namespace dualfp
