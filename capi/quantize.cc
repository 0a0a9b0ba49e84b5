#include "dualfp/kernels/quantize.h"

#include "capi/device_ops.h"
#include "capi/guard.h"
#include "capi/host_threads.h"
#include "capi/views.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp::capi {
namespace {

void Quantize(const dualfp_tensor* x_in, int32_t quant_in, const dualfp_tensor* static_scale_in,
              const dualfp_tensor* codes_in, const dualfp_tensor* scales_in, void* stream) {
  const ConstTensorView x = ToView(x_in, "x");
  const ActivationQuant quant = ToActivationQuant(quant_in);
  const TensorView codes = ToView(codes_in, "codes");
  const TensorView scales = ToView(scales_in, "scales");
  const float* static_scale = nullptr;
  if (quant == ActivationQuant::kStaticPerTensor) {
    const TensorView scale = ToView(static_scale_in, "static_scale");
    Check(scale.dtype == DType::kF32 && scale.num_elements() == 1 && scale.device == x.device,
          ErrorCode::kInvalidArgument, "quantize: static_scale must be F32 [1] on x's device");
    static_scale = scale.as<float>();
  }
  if (x.device.type == DeviceType::kCpu) {
    const HostThreads threads;
    Context context;
    context.threads = &threads.pool();
    QuantizeActivations(context, x, quant, static_scale == nullptr ? 0.0f : *static_scale, codes,
                        scales);
    return;
  }
  const bool per_tensor = quant == ActivationQuant::kDynamicPerTensor;
  Check(quant != ActivationQuant::kNone && !HasGroupScales(quant), ErrorCode::kInvalidArgument,
        "quantize: ", ActivationQuantName(quant), " has no scale per row");
  Check(x.rank == 2 &&
            (x.dtype == DType::kF32 || x.dtype == DType::kF16 || x.dtype == DType::kBF16) &&
            (x.shape[1] <= 1 || x.strides[1] == 1),
        ErrorCode::kInvalidArgument, "quantize: x is ", Describe(x),
        ", expected F16 or BF16 [M, K] with contiguous columns");
  Check(codes.rank == 2 && codes.dtype == DType::kF8E4M3 && codes.shape == x.shape &&
            codes.device == x.device,
        ErrorCode::kInvalidArgument, "quantize: codes must be F8_E4M3, of x's shape, beside it");
  const int64_t floats = per_tensor ? int64_t{DUALFP_PER_TENSOR_SCRATCH} : x.shape[0];
  Check(scales.rank == 1 && scales.dtype == DType::kF32 && scales.shape[0] >= floats &&
            scales.is_contiguous() && scales.device == x.device,
        ErrorCode::kInvalidArgument, "quantize: scales must be F32 [", floats, "] beside x");
  QuantizeOnDevice(x, quant, static_scale, codes, scales, stream);
}

template <typename Code, typename Encode>
void EncodeAll(const float* values, void* codes, int64_t count, Encode encode) {
  auto* out = static_cast<Code*>(codes);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = encode(values[i]);
  }
}

template <typename Code, typename Decode>
void DecodeAll(const void* codes, float* values, int64_t count, Decode decode) {
  const auto* in = static_cast<const Code*>(codes);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = decode(in[i]);
  }
}

[[noreturn]] void NoCodec(int32_t dtype) {
  Fail(ErrorCode::kInvalidArgument, "dtype ", dtype,
       ": expected DUALFP_F16, DUALFP_BF16, DUALFP_F8_E4M3 or DUALFP_F8_E5M2");
}

void CheckCount(int64_t count, bool pointers) {
  Check(count >= 0 && (count == 0 || pointers), ErrorCode::kInvalidArgument, "no memory of ", count,
        " elements");
}

}  // namespace
}  // namespace dualfp::capi

using dualfp::capi::Guarded;
using dualfp::capi::ToView;

dualfp_status dualfp_quantize(const dualfp_tensor* x, int32_t activation_quant,
                              const dualfp_tensor* static_scale, const dualfp_tensor* codes,
                              const dualfp_tensor* scales, void* stream) {
  return Guarded(
      [&] { dualfp::capi::Quantize(x, activation_quant, static_scale, codes, scales, stream); });
}

dualfp_status dualfp_quantize_weight(const dualfp_tensor* weight, int32_t format,
                                     int32_t granularity, const dualfp_tensor* codes,
                                     const dualfp_tensor* scales,
                                     const dualfp_tensor* global_scale) {
  return Guarded([&] {
    const dualfp::WeightScheme scheme{dualfp::capi::ToFormat(format),
                                      dualfp::capi::ToGranularity(granularity)};
    const dualfp::capi::HostThreads threads;
    dualfp::Context context;
    context.threads = &threads.pool();
    dualfp::QuantizeWeight(
        context, ToView(weight, "weight"), scheme, ToView(codes, "codes"), ToView(scales, "scales"),
        global_scale == nullptr ? dualfp::TensorView{} : ToView(*global_scale, "global_scale"));
  });
}

dualfp_status dualfp_encode(int32_t dtype, const float* values, void* codes, int64_t count) {
  return Guarded([&] {
    dualfp::capi::CheckCount(count, values != nullptr && codes != nullptr);
    switch (dtype) {
      case DUALFP_F16:
        return dualfp::capi::EncodeAll<uint16_t>(values, codes, count, dualfp::FloatToFp16);
      case DUALFP_BF16:
        return dualfp::capi::EncodeAll<uint16_t>(values, codes, count, dualfp::FloatToBf16);
      case DUALFP_F8_E4M3:
        return dualfp::capi::EncodeAll<uint8_t>(values, codes, count, dualfp::FloatToE4m3);
      case DUALFP_F8_E5M2:
        return dualfp::capi::EncodeAll<uint8_t>(values, codes, count, dualfp::FloatToE5m2);
      default:
        dualfp::capi::NoCodec(dtype);
    }
  });
}

dualfp_status dualfp_decode(int32_t dtype, const void* codes, float* values, int64_t count) {
  return Guarded([&] {
    dualfp::capi::CheckCount(count, values != nullptr && codes != nullptr);
    switch (dtype) {
      case DUALFP_F16:
        return dualfp::capi::DecodeAll<uint16_t>(codes, values, count, dualfp::Fp16ToFloat);
      case DUALFP_BF16:
        return dualfp::capi::DecodeAll<uint16_t>(codes, values, count, dualfp::Bf16ToFloat);
      case DUALFP_F8_E4M3:
        return dualfp::capi::DecodeAll<uint8_t>(codes, values, count, dualfp::E4m3ToFloat);
      case DUALFP_F8_E5M2:
        return dualfp::capi::DecodeAll<uint8_t>(codes, values, count, dualfp::E5m2ToFloat);
      default:
        dualfp::capi::NoCodec(dtype);
    }
  });
}
