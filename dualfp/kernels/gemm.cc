#include "dualfp/kernels/gemm.h"

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

bool IsFloatDType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

bool HasShape(const ConstTensorView& view, int64_t rows, int64_t columns) {
  return view && view.rank == 2 && view.shape[0] == rows && view.shape[1] == columns;
}

// Row-major with contiguous columns and rows that do not overlap.
bool HasRows(const ConstTensorView& view, int64_t rows, int64_t columns) {
  return view && view.rank == 2 && view.shape[0] == rows && view.shape[1] == columns &&
         (columns == 1 || view.strides[1] == 1) && (rows <= 1 || view.strides[0] >= columns);
}

void CheckContiguous(const ConstTensorView& view, DType dtype, int64_t rows, int64_t columns,
                     const char* what) {
  if (!HasShape(view, rows, columns) || view.dtype != dtype || !view.is_contiguous()) {
    Fail(ErrorCode::kInvalidArgument, "gemm: ", what, " is ", Describe(view),
         ", expected contiguous ", DTypeName(dtype), "[", rows, ", ", columns, "]");
  }
}

void CheckGroupScales(const Weight& weight, DType dtype) {
  const int group_size = GetQuantFormatInfo(weight.format).group_size;
  if (weight.scale_granularity != ScaleGranularity::kGroup || weight.k % group_size != 0) {
    Fail(ErrorCode::kInvalidArgument, "gemm: a ", GetQuantFormatInfo(weight.format).name,
         " weight needs one scale per ", group_size, " along K, and K = ", weight.k,
         " to be a multiple of that");
  }
  CheckContiguous(weight.scales, dtype, weight.n, weight.k / group_size, "weight scales");
}

void CheckMatrixScales(const Weight& weight) {
  const ConstTensorView& scales = weight.scales;
  int64_t expected = 0;
  switch (weight.scale_granularity) {
    case ScaleGranularity::kPerTensor:
      expected = 1;
      break;
    case ScaleGranularity::kPerChannel:
      expected = weight.n;
      break;
    case ScaleGranularity::kBlock128:
      CheckContiguous(scales, DType::kF32, weight.NumBlockRows(), (weight.k + 127) / 128,
                      "weight scales");
      return;
    case ScaleGranularity::kNone:
    case ScaleGranularity::kGroup:
      Fail(ErrorCode::kInvalidArgument, "gemm: an ", GetQuantFormatInfo(weight.format).name,
           " weight needs per-tensor, per-channel or 128x128 block scales");
  }
  if (!scales || scales.dtype != DType::kF32 || scales.num_elements() != expected ||
      !scales.is_contiguous()) {
    Fail(ErrorCode::kInvalidArgument, "gemm: weight scales are ", Describe(scales),
         ", expected contiguous F32 with ", expected, " elements");
  }
}

// The nibbles' layout and the shifts' form are the device's kernels'.
void CheckNested12(const Weight& weight) {
  if (weight.layout == WeightLayout::kRowMajor) {
    CheckContiguous(weight.lower, DType::kU8, weight.n, (weight.k + 1) / 2, "nibble plane");
    if (!weight.scales || weight.scales.dtype != DType::kI8 ||
        weight.scales.num_elements() != weight.n || !weight.scales.is_contiguous()) {
      Fail(ErrorCode::kInvalidArgument, "gemm: row shifts are ", Describe(weight.scales),
           ", expected contiguous I8[", weight.n, "]");
    }
  }
}

void CheckParts(const Weight& weight) {
  const RowParts& parts = weight.parts;
  bool ok = parts.count >= 1 && parts.count <= kMaxRowParts;
  if (parts.interleaved != 0) {
    ok = ok && parts.count == 2;
  } else {
    ok = ok && parts.first_row[0] == 0;
    for (int i = 1; ok && i < kMaxRowParts; ++i) {
      ok = i < parts.count
               ? parts.first_row[i - 1] < parts.first_row[i] && parts.first_row[i] < weight.n
               : parts.first_row[i] >= weight.n;
    }
  }
  if (!ok) {
    Fail(ErrorCode::kInvalidArgument, "gemm: the ", parts.count, " parts of a weight of ", weight.n,
         " rows do not follow each other");
  }
}

// A scale that all rows share or one for each part.
void CheckPartScales(const Weight& weight, const ConstTensorView& scales, const char* what) {
  if (scales && (scales.dtype != DType::kF32 || !scales.is_contiguous() ||
                 scales.device != weight.values.device ||
                 (scales.num_elements() != 1 && scales.num_elements() != weight.parts.count))) {
    Fail(ErrorCode::kInvalidArgument, "gemm: ", what, " is ", Describe(scales),
         ", expected F32[1] or F32[", weight.parts.count, "] beside the weight");
  }
}

void CheckWeight(const Weight& weight) {
  const int64_t n = weight.n;
  const int64_t k = weight.k;
  if (n < 1 || k < 1) {
    Fail(ErrorCode::kInvalidArgument, "gemm: weight is ", n, " x ", k, ", expected at least 1 x 1");
  }
  CheckParts(weight);
  CheckPartScales(weight, weight.global_scale, "global_scale");
  CheckPartScales(weight, weight.input_scale, "input_scale");
  switch (weight.format) {
    case QuantFormat::kPlain:
      if (!IsFloatDType(weight.values.dtype)) {
        Fail(ErrorCode::kInvalidArgument, "gemm: a plain weight is F16, BF16 or F32, not ",
             DTypeName(weight.values.dtype));
      }
      CheckContiguous(weight.values, weight.values.dtype, n, k, "weight");
      break;
    case QuantFormat::kNested:
      CheckContiguous(weight.values, DType::kF8E4M3, n, k, "upper plane");
      CheckContiguous(weight.lower, DType::kU8, n, k, "lower plane");
      break;
    case QuantFormat::kNested12:
      CheckContiguous(weight.values, DType::kF8E4M3, n, k, "upper plane");
      CheckNested12(weight);
      break;
    default: {
      const QuantFormatInfo& info = GetQuantFormatInfo(weight.format);
      CheckContiguous(weight.values, info.values, n, k * info.codec.bits / 8, "weight");
      if (info.group_size > 0) {
        CheckGroupScales(weight, info.scales);
      } else {
        CheckMatrixScales(weight);
      }
    }
  }
  const OutlierList& outliers = weight.outliers;
  const int64_t count = outliers.size();
  const bool nested =
      weight.format == QuantFormat::kNested || weight.format == QuantFormat::kNested12;
  if (count > 0 && (!nested || outliers.index.dtype != DType::kI64 || outliers.index.rank != 1 ||
                    !outliers.index.is_contiguous() || outliers.value.dtype != DType::kF32 ||
                    outliers.value.rank != 1 || outliers.value.shape[0] != count ||
                    !outliers.value.is_contiguous())) {
    Fail(ErrorCode::kInvalidArgument, "gemm: outliers belong to nested weights, as I64[n] and ",
         "F32[n]; got ", Describe(outliers.index), " and ", Describe(outliers.value));
  }
}

// Codes come with scales, one a row or one a group of a row, and floats without.
void CheckXScales(const GemmArgs& args, const GemmDesc& desc, bool codes) {
  const ConstTensorView& scales = args.x_scales;
  if (!codes) {
    Check(!scales, ErrorCode::kInvalidArgument, "gemm: x_scales beside an x of ",
          DTypeName(desc.x_dtype));
    return;
  }
  Check(desc.activation_quant != ActivationQuant::kNone, ErrorCode::kInvalidArgument,
        "gemm: an x of codes is for fp8 with quantized activations");
  const bool grouped = HasGroupScales(desc.activation_quant);
  const int64_t group = ActivationGroupSize(desc.activation_quant, desc.k);
  const int64_t groups = (desc.k + group - 1) / group;
  const bool fits =
      grouped ? HasRows(scales, groups, desc.m)
              : scales && scales.rank == 1 && scales.shape[0] == desc.m && scales.is_contiguous();
  if (!fits || scales.dtype != DType::kF32 || scales.device != args.x.device) {
    Fail(ErrorCode::kInvalidArgument, "gemm: x_scales are ", Describe(scales), ", expected F32[",
         grouped ? StrCat(groups, ", ") : std::string(), desc.m, "] on x's device");
  }
}

}  // namespace

std::string Describe(const GemmDesc& desc) {
  std::string text = StrCat("m=", desc.m, " n=", desc.n, " k=", desc.k, " ",
                            GetQuantFormatInfo(desc.weight_format).name);
  if (desc.weight_format == QuantFormat::kPlain) {
    text += StrCat("-", DTypeName(desc.weight_dtype));
  }
  switch (desc.weight_scale) {
    case ScaleGranularity::kNone:
    case ScaleGranularity::kGroup:
      break;
    case ScaleGranularity::kPerTensor:
      text += "-per-tensor";
      break;
    case ScaleGranularity::kPerChannel:
      text += "-per-channel";
      break;
    case ScaleGranularity::kBlock128:
      text += "-block128";
      break;
  }
  text += StrCat("@", PrecisionName(desc.precision), " x=", DTypeName(desc.x_dtype),
                 " y=", DTypeName(desc.y_dtype));
  if (desc.precision == Precision::kFp8) {
    text += StrCat(" ", ActivationQuantName(desc.activation_quant),
                   desc.accumulation == Accumulation::kPromoted ? " promoted" : "");
  }
  if (desc.parts.count > 1) {
    text += desc.parts.interleaved != 0 ? " interleaved" : StrCat(" parts=", desc.parts.count);
  }
  if (desc.part_input_scales) {
    text += " part-input-scales";
  }
  if (desc.has_outliers) {
    text += " outliers";
  }
  if (desc.has_bias) {
    text += " bias";
  }
  if (desc.activation != Activation::kNone) {
    text += " silu-mul";
  }
  if (desc.has_residual) {
    text += " residual";
  }
  return text;
}

GemmDesc DescribeGemm(const GemmArgs& args) {
  Check(args.weight != nullptr, ErrorCode::kInvalidArgument, "gemm: no weight");
  const Weight& weight = *args.weight;
  CheckWeight(weight);

  GemmDesc desc;
  desc.device = args.x.device;
  desc.m = args.x.rank == 2 ? args.x.shape[0] : 0;
  desc.n = weight.n;
  desc.k = weight.k;
  desc.weight_format = weight.format;
  desc.weight_dtype = weight.values.dtype;
  desc.weight_scale = weight.scale_granularity;
  desc.part_input_scales = args.precision == Precision::kFp8 && args.x.dtype != DType::kF8E4M3 &&
                           args.activation_quant == ActivationQuant::kStaticPerTensor &&
                           weight.input_scale && weight.input_scale.num_elements() > 1;
  if (desc.part_input_scales || desc.weight_scale == ScaleGranularity::kBlock128) {
    desc.parts = weight.parts;
  }
  desc.has_outliers = weight.UsesOutliers(args.precision);
  desc.precision = args.precision;
  desc.activation_quant =
      args.precision == Precision::kFp8 ? args.activation_quant : ActivationQuant::kNone;
  desc.accumulation = args.precision == Precision::kFp8 ? args.accumulation : Accumulation::kFast;
  desc.x_dtype = args.x.dtype;
  desc.y_dtype = args.y.dtype;
  desc.activation = args.activation;
  desc.has_bias = static_cast<bool>(args.bias);
  desc.has_residual = static_cast<bool>(args.residual);

  const bool codes = desc.x_dtype == DType::kF8E4M3;
  if (!HasRows(args.x, desc.m, desc.k) || !(codes || IsFloatDType(desc.x_dtype))) {
    Fail(ErrorCode::kInvalidArgument, "gemm: x is ", Describe(args.x),
         ", expected F32, F16, BF16 or F8_E4M3 [M, ", desc.k, "] with contiguous rows");
  }
  CheckXScales(args, desc, codes);
  if (desc.activation == Activation::kSiluMul && desc.n % 2 != 0) {
    Fail(ErrorCode::kInvalidArgument, "gemm: silu-mul needs an even N, not ", desc.n);
  }
  const int64_t y_columns = desc.activation == Activation::kSiluMul ? desc.n / 2 : desc.n;
  if (!HasRows(args.y, desc.m, y_columns) || !IsFloatDType(desc.y_dtype)) {
    Fail(ErrorCode::kInvalidArgument, "gemm: y is ", Describe(args.y),
         ", expected F32, F16 or BF16 [", desc.m, ", ", y_columns, "] with contiguous rows");
  }
  if (desc.has_residual &&
      (!HasRows(args.residual, desc.m, y_columns) || args.residual.dtype != desc.y_dtype)) {
    Fail(ErrorCode::kInvalidArgument, "gemm: residual is ", Describe(args.residual),
         ", expected it like y: ", Describe(args.y));
  }
  if (desc.has_bias && (args.bias.rank != 1 || args.bias.shape[0] != desc.n ||
                        args.bias.dtype != DType::kF32 || !args.bias.is_contiguous())) {
    Fail(ErrorCode::kInvalidArgument, "gemm: bias is ", Describe(args.bias), ", expected F32[",
         desc.n, "]");
  }
  const Device device = args.x.device;
  if (args.y.device != device || weight.values.device != device ||
      (desc.has_bias && args.bias.device != device) ||
      (desc.has_residual && args.residual.device != device)) {
    Fail(ErrorCode::kInvalidArgument, "gemm: x, y, weight, bias and residual are not all on one ",
         "device");
  }
  if (const std::string reason = weight.Unsupported(args.precision); !reason.empty()) {
    Fail(ErrorCode::kUnsupported, "gemm: ", reason);
  }
  if (desc.activation_quant == ActivationQuant::kStaticPerTensor && !codes && !weight.input_scale) {
    Fail(ErrorCode::kUnsupported, "gemm: static activation quantization needs a weight with an ",
         "input_scale; this one has none");
  }
  return desc;
}

void GemmRows(const Context& context, const GemmArgs& args, std::span<const RowRange> ranges) {
  const int64_t rows = args.x.rank == 2 ? args.x.shape[0] : 0;
  int64_t covered = 0;
  for (const RowRange& range : ranges) {
    if (range.begin != covered || range.end < range.begin || range.end > rows) {
      Fail(ErrorCode::kInvalidArgument, "gemm: row range [", range.begin, ", ", range.end,
           ") where one beginning at ", covered, " within ", rows, " rows was expected");
    }
    covered = range.end;
  }
  if (covered != rows) {
    Fail(ErrorCode::kInvalidArgument, "gemm: row ranges end at ", covered, " of ", rows, " rows");
  }
  if (args.y.rank != 2 || args.y.shape[0] != rows ||
      (args.residual && (args.residual.rank != 2 || args.residual.shape[0] != rows))) {
    Fail(ErrorCode::kInvalidArgument, "gemm: x has ", rows, " rows, but y is ", Describe(args.y));
  }
  for (const RowRange& range : ranges) {
    GemmArgs part = args;
    part.x = args.x.Rows(range.begin, range.end);
    if (args.x_scales) {
      const int tokens = args.x_scales.rank - 1;
      part.x_scales.data = args.x_scales.as<float>() + range.begin * args.x_scales.strides[tokens];
      part.x_scales.shape[tokens] = range.end - range.begin;
    }
    part.y = args.y.Rows(range.begin, range.end);
    if (args.residual) {
      part.residual = args.residual.Rows(range.begin, range.end);
    }
    part.precision = range.precision;
    Gemm(context, part);
  }
}

namespace {

int64_t ResultBytes(const GemmDesc& desc) {
  constexpr int64_t kAlignment = 256;
  const int64_t columns = desc.activation == Activation::kSiluMul ? desc.n / 2 : desc.n;
  const int64_t bytes = desc.m * columns * DTypeSize(desc.y_dtype);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

int64_t GemmQuantizedWorkspaceBytes(const GemmDesc& desc) {
  return ResultBytes(desc) + GemmWorkspaceBytes(desc);
}

void GemmQuantized(const Context& context, const GemmArgs& args, const QuantizedOutput& output) {
  Check(!args.y && output.codes.rank == 2, ErrorCode::kInvalidArgument,
        "gemm: a quantized result goes to codes [M, columns], not to y");
  Check(static_cast<bool>(context.workspace), ErrorCode::kInvalidArgument,
        "gemm: a quantized result wants a workspace");
  Context run = context;
  GemmArgs product = args;
  product.y = TensorView(context.workspace.data, args.y.dtype,
                         {output.codes.shape[0], output.codes.shape[1]}, context.device);
  const GemmDesc desc = DescribeGemm(product);
  const int64_t given = context.workspace ? context.workspace.num_bytes() : 0;
  const int64_t wanted = GemmQuantizedWorkspaceBytes(desc);
  Check(given >= wanted, ErrorCode::kInvalidArgument,
        "gemm: a quantized result wants a workspace of ", wanted, " bytes and got ", given);
  const int64_t result = ResultBytes(desc);
  run.workspace = TensorView(context.workspace.as<char>() + result, DType::kU8, {given - result},
                             context.device);
  Gemm(run, product);
  QuantizeActivations(run, product.y, output.quant, output.static_scale, output.codes,
                      output.scales);
}

}  // namespace dualfp
