// weight_formats IN.safetensors OUT.safetensors: every matrix of IN in each format that dualfp
// makes of weights, for the Python tests. For a matrix NAME [N, K], OUT holds
//   NAME/upper, NAME/lower  U8 [N, K]: the nested planes, the upper one's E4M3 codes as bytes
//   NAME/outlier_index      I64 [outliers], NAME/outlier_value F32 [outliers]
//   NAME/unnested           F16 [N, K]: the planes and outliers put together again
//   NAME/SCHEME_codes  U8, NAME/SCHEME_scales F32 or U8 (codes), NAME/SCHEME_global F32 [1]: codes
//   and scales of every scheme that has them, by its name (tensor/weight_scheme.h)

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/io/safetensors_writer.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/kernels/quantize_weight.h"

namespace dualfp {
namespace {

// Tensors that are computed first, since a file's header comes before its data.
struct Output {
  TensorSpec spec;
  Buffer data;
};

class Converter {
 public:
  void Convert(const std::string& name, const ConstTensorView& source) {
    const int64_t elements = source.num_elements();
    const std::vector<int64_t> shape(source.shape.begin(), source.shape.begin() + source.rank);
    const TensorView upper = Add(name + "/upper", DType::kU8, shape);
    const TensorView lower = Add(name + "/lower", DType::kU8, shape);
    OutlierBuffers outliers;
    Nest(threads_, name, source, Codes(upper), lower, elements, &outliers);
    const auto count = static_cast<int64_t>(outliers.index.size());
    std::copy(outliers.index.begin(), outliers.index.end(),
              Add(name + "/outlier_index", DType::kI64, {count}).as<int64_t>());
    std::copy(outliers.value.begin(), outliers.value.end(),
              Add(name + "/outlier_value", DType::kF32, {count}).as<float>());
    Unnest(threads_, Codes(upper), lower, outliers.View(),
           Add(name + "/unnested", DType::kF16, shape));
    for (const NamedScheme& named : WeightSchemes()) {
      if (named.scheme.has_value() && GetQuantFormatInfo(named.scheme->format).codec.bits > 0) {
        Quantize(name + "/" + named.name, *named.scheme, source);
      }
    }
  }

  void Write(const char* path) const {
    std::vector<TensorSpec> specs;
    for (const Output& output : outputs_) {
      specs.push_back(output.spec);
    }
    SafetensorsFileWriter writer(path, specs);
    for (const Output& output : outputs_) {
      writer.Write(output.spec.name,
                   ConstTensorView(output.data.data(), output.spec.dtype, output.spec.shape));
    }
    writer.Commit();
  }

 private:
  void Quantize(const std::string& name, const WeightScheme& scheme,
                const ConstTensorView& source) {
    const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
    const int64_t n = source.shape[0];
    const int64_t k = source.shape[1];
    TensorView codes = Add(name + "_codes", DType::kU8, {n, k * info.codec.bits / 8});
    codes.dtype = info.values;
    const auto [rows, columns] = ScaleShape(scheme, n, k);
    const bool floats = info.scales == DType::kF32;
    TensorView scales = Add(name + "_scales", floats ? DType::kF32 : DType::kU8, {rows, columns});
    scales.dtype = info.scales;
    QuantizeWeight({.threads = &threads_}, source, scheme, codes, scales,
                   Add(name + "_global", DType::kF32, {1}));
  }

  TensorView Add(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    const TensorView sized(nullptr, dtype, shape);
    outputs_.push_back({{name, dtype, shape}, Buffer::AllocateCpu(sized.num_bytes() + 1)});
    return {outputs_.back().data.data(), dtype, shape};
  }

  static TensorView Codes(TensorView bytes) {
    bytes.dtype = DType::kF8E4M3;
    return bytes;
  }

  ThreadPool threads_;
  std::vector<Output> outputs_;
};

void Main(const char* in_path, const char* out_path) {
  const SafetensorsFile in = SafetensorsFile::Open(in_path);
  Converter converter;
  for (const TensorEntry& entry : in.entries()) {
    const TensorData data = in.Read(entry);
    if (data.view().rank == 2) {
      converter.Convert(entry.name, data.view());
    }
  }
  converter.Write(out_path);
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: weight_formats IN.safetensors OUT.safetensors\n");
    return 2;
  }
  try {
    dualfp::Main(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "weight_formats: %s\n", error.what());
    return 1;
  }
  return 0;
}
