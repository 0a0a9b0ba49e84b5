#include "dualfp/kernels/cpu/gemm_list.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/cpu/gemm_cpu.h"
#include "dualfp/kernels/cpu/gemm_parts.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cpu {
namespace {

// What a kernel multiplies; a reason, or "" for a description that it can run.
using Accepts = std::string_view (*)(const GemmDesc& desc);

template <DType kDType>
std::string_view AcceptsPlain(const GemmDesc& desc) {
  const bool ok = desc.weight_format == QuantFormat::kPlain && desc.weight_dtype == kDType;
  return ok ? "" : "multiplies plain weights of another type";
}

std::string_view AcceptsNested16(const GemmDesc& desc) {
  const bool ok = desc.weight_format == QuantFormat::kNested && desc.precision == Precision::kExact;
  return ok ? "" : "multiplies nested weights at fp16";
}

std::string_view AcceptsNested8(const GemmDesc& desc) {
  const bool ok = desc.weight_format == QuantFormat::kNested && desc.precision == Precision::kFp8;
  return ok ? "" : "multiplies nested weights at fp8";
}

std::string_view AcceptsNested12(const GemmDesc& desc) {
  const bool ok =
      desc.weight_format == QuantFormat::kNested12 && desc.precision == Precision::kExact;
  return ok ? "" : "multiplies exact nested12 weights";
}

// A nested12 weight's upper plane is an fp8 weight with a scale for each row.
std::string_view AcceptsFp8(const GemmDesc& desc) {
  const bool ok =
      desc.weight_format == QuantFormat::kFp8
          ? desc.weight_scale != ScaleGranularity::kBlock128
          : desc.weight_format == QuantFormat::kNested12 && desc.precision == Precision::kFp8;
  return ok ? "" : "multiplies fp8 weights with per-tensor or per-channel scales";
}

std::string_view AcceptsFp8Blocked(const GemmDesc& desc) {
  const bool ok =
      desc.weight_format == QuantFormat::kFp8 && desc.weight_scale == ScaleGranularity::kBlock128;
  return ok ? "" : "multiplies fp8 weights with 128x128 block scales";
}

std::string_view AcceptsMxfp8(const GemmDesc& desc) {
  return desc.weight_format == QuantFormat::kMxfp8 ? "" : "multiplies mxfp8 weights";
}

template <Accepts kAccepts>
std::string_view AcceptsQuantized(const GemmDesc& desc) {
  if (desc.activation_quant == ActivationQuant::kNone) {
    return "multiplies quantized activations";
  }
  return HasGroupScales(desc.activation_quant) ? "has one activation scale a row" : kAccepts(desc);
}

struct Listed {
  std::string_view name;
  CpuIsa isa;
  Accepts accepts;
  CpuGemm gemm;
};

constexpr const GemmInnerSet& k512 = kAvx512GemmInner;
constexpr const RowInner* k512Rows = &kAvx512RowInner;
constexpr const GemmInnerSet& k256 = kAvx2GemmInner;
constexpr const RowInner* k256Rows = &kAvx2RowInner;

// Where dot products of BF16 pairs are slow, more rows than this go faster through panels of
// floats.
constexpr int kPairRows = 2;

// As many as two tiles hold.
constexpr int kAmxDirectRows = 32;

constexpr std::array kList = {
    Listed{"gemm_nested8_e4m3_any_amx_32x32",
           CpuIsa::kAmx,
           AcceptsQuantized<AcceptsNested8>,
           {&kAmxE4m3GemmInner, nullptr, k512Rows, kNestedScale, false, kAmxDirectRows}},
    Listed{"gemm_fp8_e4m3_any_amx_32x32",
           CpuIsa::kAmx,
           AcceptsQuantized<AcceptsFp8>,
           {&kAmxE4m3GemmInner, nullptr, k512Rows, 1.0f, false, kAmxDirectRows}},
    Listed{"gemm_nested8_e4m3_any_avx512bf16_4x6",
           CpuIsa::kAvx512Bf16,
           AcceptsQuantized<AcceptsNested8>,
           {&kAvx512Bf16E4m3GemmInner, nullptr, k512Rows, kNestedScale, false}},
    Listed{"gemm_fp8_e4m3_any_avx512bf16_4x6",
           CpuIsa::kAvx512Bf16,
           AcceptsQuantized<AcceptsFp8>,
           {&kAvx512Bf16E4m3GemmInner, nullptr, k512Rows, 1.0f, false}},
    Listed{
        "gemm_nested8_e4m3_any_avx512bf16few_4x6",
        CpuIsa::kAvx512Bf16,
        AcceptsQuantized<AcceptsNested8>,
        {&k512.e4m3, &kAvx512Bf16E4m3FewRowsGemmInner, k512Rows, kNestedScale, false, kPairRows}},
    Listed{"gemm_fp8_e4m3_any_avx512bf16few_4x6",
           CpuIsa::kAvx512Bf16,
           AcceptsQuantized<AcceptsFp8>,
           {&k512.e4m3, &kAvx512Bf16E4m3FewRowsGemmInner, k512Rows, 1.0f, false, kPairRows}},
    Listed{"gemm_f16_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsPlain<DType::kF16>,
           {&k512.f16, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_bf16_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsPlain<DType::kBF16>,
           {&k512.bf16, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_f32_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsPlain<DType::kF32>,
           {&k512.f32, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_nested16_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsNested16,
           {&k512.nested, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_nested12_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsNested12,
           {&k512.nested12, nullptr, k512Rows, kNested12Units, false}},
    Listed{"gemm_nested8_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsNested8,
           {&k512.e4m3, nullptr, k512Rows, kNestedScale, true}},
    Listed{"gemm_fp8_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsFp8,
           {&k512.e4m3, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_fp8block_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsFp8Blocked,
           {&k512.e4m3_blocked, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_mxfp8_any_any_avx512_4x6",
           CpuIsa::kAvx512,
           AcceptsMxfp8,
           {&k512.e4m3_mx, nullptr, k512Rows, 1.0f, true}},
    Listed{"gemm_f16_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsPlain<DType::kF16>,
           {&k256.f16, nullptr, k256Rows, 1.0f, true}},
    Listed{"gemm_bf16_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsPlain<DType::kBF16>,
           {&k256.bf16, nullptr, k256Rows, 1.0f, true}},
    Listed{"gemm_f32_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsPlain<DType::kF32>,
           {&k256.f32, nullptr, k256Rows, 1.0f, true}},
    Listed{"gemm_nested16_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsNested16,
           {&k256.nested, nullptr, k256Rows, 1.0f, true}},
    Listed{"gemm_nested12_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsNested12,
           {&k256.nested12, nullptr, k256Rows, kNested12Units, false}},
    Listed{"gemm_nested8_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsNested8,
           {&k256.e4m3, nullptr, k256Rows, kNestedScale, true}},
    Listed{"gemm_fp8_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsFp8,
           {&k256.e4m3, nullptr, k256Rows, 1.0f, true}},
    Listed{"gemm_fp8block_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsFp8Blocked,
           {&k256.e4m3_blocked, nullptr, k256Rows, 1.0f, true}},
    Listed{"gemm_mxfp8_any_any_avx2_4x3",
           CpuIsa::kAvx2,
           AcceptsMxfp8,
           {&k256.e4m3_mx, nullptr, k256Rows, 1.0f, true}},
};

static_assert(std::all_of(kList.begin(), kList.end(), [](const Listed& listed) {
  return listed.gemm.direct_rows <= kMaxDirectRows;
}));

static_assert(std::is_sorted(kList.begin(), kList.end(),
                             [](const Listed& a, const Listed& b) { return a.isa > b.isa; }));

// Where the kernels that need `isa` begin.
constexpr ptrdiff_t Begin(CpuIsa isa) {
  return std::find_if(kList.begin(), kList.end(),
                      [isa](const Listed& listed) { return listed.isa <= isa; }) -
         kList.begin();
}

template <size_t kIndex>
std::string Supports(const GemmDesc& desc) {
  if (desc.device.type != DeviceType::kCpu) {
    return "runs on the CPU only";
  }
  if (desc.part_input_scales && !PartsUnsupported(desc).empty()) {
    return std::string(PartsUnsupported(desc));
  }
  const Listed& listed = kList[kIndex];
  if (const std::string_view reason = listed.accepts(desc); !reason.empty()) {
    return std::string(reason);
  }
  const CpuIsa isa = DetectCpuIsa();
  return isa >= listed.isa
             ? ""
             : StrCat("needs ", CpuIsaName(listed.isa), "; this CPU offers ", CpuIsaName(isa));
}

template <size_t kIndex>
int64_t WorkspaceBytes(const GemmDesc& desc) {
  return CpuGemmWorkspaceBytes(kList[kIndex].gemm, desc);
}

template <size_t kIndex>
void Run(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  RunCpuGemm(kList[kIndex].gemm, context, desc, args);
}

template <size_t... kIndices>
constexpr std::array<GemmKernel, sizeof...(kIndices)> MakeKernels(
    std::index_sequence<kIndices...>) {
  return {GemmKernel{kList[kIndices].name, Supports<kIndices>, WorkspaceBytes<kIndices>,
                     Run<kIndices>}...};
}

}  // namespace

std::span<const GemmKernel> GemmKernelsFor(CpuIsa isa) {
  static const auto kernels = [] {
    auto list = MakeKernels(std::make_index_sequence<kList.size()>());
    if (!HasFastBf16Dot()) {
      // Behind avx512bf16few those that take pairs for any number of rows.
      std::stable_partition(list.begin() + Begin(CpuIsa::kAvx512Bf16),
                            list.begin() + Begin(CpuIsa::kAvx512), [](const GemmKernel& kernel) {
                              return kernel.name.find("avx512bf16_") == std::string_view::npos;
                            });
    }
    return list;
  }();
  const auto below = static_cast<CpuIsa>(static_cast<int>(isa) - 1);
  return std::span(kernels).subspan(Begin(isa), Begin(below) - Begin(isa));
}

}  // namespace dualfp::cpu
