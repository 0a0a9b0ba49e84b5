#include "capi/views.h"

#include <array>

#include "dualfp/base/check.h"

namespace dualfp::capi {
namespace {

// In the order of the C enumerators.
constexpr std::array kDTypes = {DType::kF32,    DType::kF16,    DType::kBF16, DType::kF8E4M3,
                                DType::kF8E5M2, DType::kF8E8M0, DType::kU8,   DType::kI8,
                                DType::kI64,    DType::kU16};
constexpr std::array kFormats = {QuantFormat::kPlain, QuantFormat::kNested, QuantFormat::kNested12,
                                 QuantFormat::kFp8,   QuantFormat::kNvfp4,  QuantFormat::kMxfp4,
                                 QuantFormat::kMxfp8};
constexpr std::array kGranularities = {ScaleGranularity::kNone, ScaleGranularity::kPerTensor,
                                       ScaleGranularity::kPerChannel, ScaleGranularity::kBlock128,
                                       ScaleGranularity::kGroup};
constexpr std::array kActivationQuants = {
    ActivationQuant::kDynamicPerToken, ActivationQuant::kDynamicPerTensor,
    ActivationQuant::kStaticPerTensor, ActivationQuant::kNone, ActivationQuant::kDynamicPerGroup};
constexpr std::array<std::string_view, 3> kPrecisions = {"exact", "fp8", "fp4"};

template <typename Table>
auto At(const Table& table, int32_t number, const char* what) {
  Check(0 <= number && static_cast<size_t>(number) < table.size(), ErrorCode::kInvalidArgument,
        what, " ", number, ": expected one of dualfp.h's, 0 to ", table.size() - 1);
  return table[static_cast<size_t>(number)];
}

}  // namespace

Device ToDevice(int32_t device) {
  Check(device >= DUALFP_CPU, ErrorCode::kInvalidArgument, "device ", device,
        ": expected DUALFP_CPU or a GPU's index");
  return device == DUALFP_CPU ? Device{} : Device{DeviceType::kCuda, device};
}

Precision ToPrecision(int32_t precision) {
  return *ParsePrecision(At(kPrecisions, precision, "precision"));
}

QuantFormat ToFormat(int32_t format) { return At(kFormats, format, "format"); }

ScaleGranularity ToGranularity(int32_t granularity) {
  return At(kGranularities, granularity, "granularity");
}

ActivationQuant ToActivationQuant(int32_t quant) {
  return At(kActivationQuants, quant, "activation_quant");
}

TensorView ToView(const dualfp_tensor& tensor, const char* name) {
  TensorView view;
  if (tensor.data == nullptr) {
    return view;
  }
  Check(1 <= tensor.rank && tensor.rank <= DUALFP_MAX_RANK, ErrorCode::kInvalidArgument, name,
        " has rank ", tensor.rank, ", expected 1 to ", int{DUALFP_MAX_RANK});
  view.data = tensor.data;
  view.dtype = At(kDTypes, tensor.dtype, name);
  view.device = ToDevice(tensor.device);
  view.rank = tensor.rank;
  for (int axis = 0; axis < tensor.rank; ++axis) {
    Check(tensor.shape[axis] >= 0 && tensor.strides[axis] >= 0, ErrorCode::kInvalidArgument, name,
          " has ", tensor.shape[axis], " elements at a stride of ", tensor.strides[axis],
          " along axis ", axis);
    view.shape[axis] = tensor.shape[axis];
    view.strides[axis] = tensor.strides[axis];
  }
  return view;
}

TensorView ToView(const dualfp_tensor* tensor, const char* name) {
  Check(tensor != nullptr && tensor->data != nullptr, ErrorCode::kInvalidArgument, name,
        " is missing");
  return ToView(*tensor, name);
}

void CheckSize(uint32_t given, size_t known, const char* name) {
  Check(given >= known, ErrorCode::kInvalidArgument, name, ".struct_size is ", given,
        ", expected sizeof(", name, "), ", known);
}

Weight ToWeight(const dualfp_weight& weight) {
  CheckSize(weight.struct_size, sizeof(dualfp_weight), "dualfp_weight");
  Weight result;
  result.format = ToFormat(weight.format);
  result.scale_granularity = ToGranularity(weight.granularity);
  result.n = weight.n;
  result.k = weight.k;
  result.shard = {0, weight.n, 0, weight.k};
  result.values = ToView(weight.values, "weight.values");
  result.lower = ToView(weight.lower, "weight.lower");
  result.scales = ToView(weight.scales, "weight.scales");
  result.global_scale = ToView(weight.global_scale, "weight.global_scale");
  result.input_scale = ToView(weight.input_scale, "weight.input_scale");
  const TensorView index = ToView(weight.outlier_index, "weight.outlier_index");
  const bool gpu = result.values.device.type == DeviceType::kCuda;
  if (gpu && result.format != QuantFormat::kPlain) {
    result.layout = WeightLayout::kSm90;
  }
  if (gpu && result.format == QuantFormat::kNested12) {
    result.tiny = index;
  } else {
    result.outliers.index = index;
    result.outliers.value = ToView(weight.outlier_value, "weight.outlier_value");
  }
  return result;
}

}  // namespace dualfp::capi
