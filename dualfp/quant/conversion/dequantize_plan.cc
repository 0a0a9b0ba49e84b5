#include "dualfp/quant/conversion/dequantize_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/quant/conversion/nested_plan.h"
#include "dualfp/quant/conversion/stored_planes.h"

namespace dualfp {
namespace {

// Rows that are converted between two writes.
constexpr int64_t kChunkElements = int64_t{2} << 20;

uint16_t Narrow(DType dtype, float value) {
  return static_cast<uint16_t>(dtype == DType::kBF16 ? FloatToBf16(value) : FloatToFp16(value));
}

// The exact values of row `row` of nested planes.
void NestedRow(const StoredPlanes& planes, int64_t row, float* out) {
  const uint8_t* upper = planes.upper->view().as<uint8_t>() + row * planes.k;
  const uint8_t* lower = planes.lower->view().as<uint8_t>() + row * planes.k;
  for (int64_t i = 0; i < planes.k; ++i) {
    out[i] = Fp16ToFloat(NestedMerge(upper[i], lower[i]));
  }
  const OutlierList outliers = planes.outliers();
  const int64_t* begin = outliers.index.as<int64_t>();
  const int64_t* end = begin + outliers.size();
  for (const int64_t* it = std::lower_bound(begin, end, row * planes.k);
       it != end && *it < (row + 1) * planes.k; ++it) {
    out[*it - row * planes.k] += outliers.value.as<float>()[it - begin];
  }
}

// Writes NAME, [n, k], from rows of floats.
template <typename FillRow>
void WriteRows(PartialCheckpoint& out, const std::string& name, int64_t n, int64_t k, DType dtype,
               const FillRow& fill) {
  std::vector<float> row(k);
  std::vector<uint16_t> chunk;
  const int64_t chunk_rows = std::max<int64_t>(1, kChunkElements / k);
  for (int64_t begin = 0; begin < n; begin += chunk_rows) {
    const int64_t end = std::min(n, begin + chunk_rows);
    chunk.resize((end - begin) * k);
    for (int64_t i = begin; i < end; ++i) {
      fill(i, row.data());
      std::transform(row.begin(), row.end(), chunk.begin() + (i - begin) * k,
                     [dtype](float value) { return Narrow(dtype, value); });
    }
    out.WriteAt(name, begin * k * sizeof(uint16_t), chunk.data(), chunk.size() * sizeof(uint16_t));
  }
}

}  // namespace

ConversionTask UnnestTask(const Checkpoint& checkpoint, const TensorEntry& upper,
                          const std::string& module, DType dtype) {
  ConversionTask task;
  task.bytes = static_cast<int64_t>(upper.num_bytes);
  task.outputs = {{module + ".weight", dtype, upper.shape}};
  task.run = [&checkpoint, module, dtype](PartialCheckpoint& out) {
    const StoredPlanes planes = OpenPlanes(checkpoint, module);
    std::vector<uint16_t> bf16(planes.k);
    WriteRows(out, module + ".weight", planes.n, planes.k, dtype, [&](int64_t row, float* values) {
      if (!planes.is_nested12()) {
        NestedRow(planes, row, values);
        return;
      }
      Unnest12Row({planes.upper->view(), planes.nibble->view(), planes.shift->view()},
                  planes.outliers(), row, bf16.data());
      std::transform(bf16.begin(), bf16.end(), values, Bf16ToFloat);
    });
  };
  return task;
}

Conversion PlanDequantization(const Checkpoint& checkpoint, const Json& config, DType dtype) {
  const std::string format = NestedFormatOf(config, checkpoint.name());
  Check(!format.empty(), ErrorCode::kUnsupported, checkpoint.name(),
        ": not quantized, expected quant_method \"dualfp\" and format \"nested\" or "
        "\"nested12\"");
  Conversion conversion;
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (const auto module = PlanesModule(entry)) {
      conversion.tasks.push_back(UnnestTask(checkpoint, entry, *module, dtype));
      ++conversion.report.converted;
    } else if (!IsOtherPlane(checkpoint, entry)) {
      conversion.tasks.push_back(CopyTask(checkpoint, entry));
    }
  }
  conversion.config = config;
  conversion.config.erase("quantization_config");
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (conversion.config.contains(key)) {
      conversion.config[key] = dtype == DType::kBF16 ? "bfloat16" : "float16";
    }
  }
  conversion.identity = "dequantize";
  return conversion;
}

}  // namespace dualfp
