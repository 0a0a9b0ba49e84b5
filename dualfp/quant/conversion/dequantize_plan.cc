#include "dualfp/quant/conversion/dequantize_plan.h"

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/io/quantization_config.h"
#include "dualfp/model/weight_source.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/quant/conversion/nested_plan.h"
#include "dualfp/quant/conversion/stored_planes.h"

namespace dualfp {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";
// Under all the names that tools write (docs/formats.md).
constexpr std::array<std::string_view, 6> kWeightScales = {"weight_scale", "weight_scale_inv",
                                                           "scale",        "qscale_weight",
                                                           "input_scale",  "activation_scale"};
constexpr std::array<std::string_view, 5> kKvScales = {"k_scale", "v_scale", "kv_scale", "q_scale",
                                                       "output_scale"};
// Rows that are converted between two writes.
constexpr int64_t kChunkElements = int64_t{2} << 20;

uint16_t Narrow(DType dtype, float value) {
  return static_cast<uint16_t>(dtype == DType::kBF16 ? FloatToBf16(value) : FloatToFp16(value));
}

// Writes NAME, [n, k], from its rows, F32.
void WriteRows(PartialCheckpoint& out, const std::string& name, int64_t n, DType dtype,
               const TensorRows& rows) {
  const int64_t k = rows.columns();
  std::vector<float> scratch(k);
  std::vector<uint16_t> chunk;
  const int64_t chunk_rows = std::max<int64_t>(1, kChunkElements / k);
  for (int64_t begin = 0; begin < n; begin += chunk_rows) {
    const int64_t end = std::min(n, begin + chunk_rows);
    chunk.resize((end - begin) * k);
    for (int64_t i = begin; i < end; ++i) {
      const auto* row = static_cast<const float*>(rows.Row(i, scratch.data()));
      std::transform(row, row + k, chunk.begin() + (i - begin) * k,
                     [dtype](float value) { return Narrow(dtype, value); });
    }
    out.WriteAt(name, begin * k * sizeof(uint16_t), chunk.data(), chunk.size() * sizeof(uint16_t));
  }
}

// A checkpoint that workers open matrices of, one at a time.
struct SharedSource {
  std::mutex mutex;
  CheckpointSource source;

  std::unique_ptr<TensorRows> Open(const std::string& module, int64_t n, int64_t k) {
    const std::lock_guard lock(mutex);
    return Dequantize(source.OpenMatrix(module, n, k));
  }
};

ConversionTask DequantizeTask(const std::shared_ptr<SharedSource>& source, const TensorEntry& entry,
                              const std::string& module, DType dtype) {
  ConversionTask task;
  task.bytes = static_cast<int64_t>(entry.num_bytes);
  task.outputs = {{entry.name, dtype, entry.shape}};
  task.run = [source, &entry, module, dtype](PartialCheckpoint& out) {
    const int64_t n = entry.shape[0];
    WriteRows(out, entry.name, n, dtype, *source->Open(module, n, entry.shape[1]));
  };
  return task;
}

void PlanCodes(const Checkpoint& checkpoint, const Json& config, DType dtype,
               Conversion& conversion) {
  const auto found = config.find("quantization_config");
  auto quantization = QuantizationConfig::Parse(found == config.end() ? Json() : *found,
                                                StrCat(checkpoint.name(), "/config.json"));
  Check(quantization.quantized(), ErrorCode::kUnsupported, checkpoint.name(),
        ": not quantized, so that there is nothing to write back");
  const std::shared_ptr<SharedSource> source(new SharedSource{
      {}, CheckpointSource(Checkpoint::Open(checkpoint.name()), std::move(quantization))});
  for (const TensorEntry& entry : checkpoint.entries()) {
    const auto module = CodesModule(entry);
    if (module) {
      Check(entry.shape.size() == 2, ErrorCode::kUnsupported, checkpoint.name(), ": tensor ",
            entry.name, " of codes has ", entry.shape.size(), " dimensions, expected 2");
      // What is wrong with it is found before anything is written.
      source->Open(*module, entry.shape[0], entry.shape[1]);
      conversion.tasks.push_back(DequantizeTask(source, entry, *module, dtype));
      ++conversion.report.converted;
    } else if (!IsScale(checkpoint, entry)) {
      Check(entry.dtype != DType::kF8E4M3 || !entry.foreign_dtype.empty(), ErrorCode::kUnsupported,
            checkpoint.name(), ": tensor ", entry.name,
            " is F8_E4M3, but no weight of a linear layer by its name");
      conversion.tasks.push_back(CopyTask(checkpoint, entry));
    }
  }
}

void PlanPlanes(const Checkpoint& checkpoint, DType dtype, Conversion& conversion) {
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (const auto module = PlanesModule(entry)) {
      conversion.tasks.push_back(UnnestTask(checkpoint, entry, *module, dtype));
      ++conversion.report.converted;
    } else if (!IsOtherPlane(checkpoint, entry)) {
      conversion.tasks.push_back(CopyTask(checkpoint, entry));
    }
  }
}

}  // namespace

std::optional<std::string> CodesModule(const TensorEntry& entry) {
  if (!entry.foreign_dtype.empty() || entry.dtype != DType::kF8E4M3 ||
      !entry.name.ends_with(kWeightSuffix)) {
    return std::nullopt;
  }
  return entry.name.substr(0, entry.name.size() - kWeightSuffix.size());
}

bool IsScale(const Checkpoint& checkpoint, const TensorEntry& entry) {
  const std::string_view tensor = entry.name;
  const size_t dot = tensor.rfind('.');
  if (dot == std::string_view::npos) {
    return false;
  }
  const std::string_view part = tensor.substr(dot + 1);
  const auto is_part = [part](std::string_view name) { return name == part; };
  return std::any_of(kKvScales.begin(), kKvScales.end(), is_part) ||
         (std::any_of(kWeightScales.begin(), kWeightScales.end(), is_part) &&
          checkpoint.Find(entry.name.substr(0, dot) + std::string(kWeightSuffix)) != nullptr);
}

ConversionTask UnnestTask(const Checkpoint& checkpoint, const TensorEntry& upper,
                          const std::string& module, DType dtype) {
  ConversionTask task;
  task.bytes = static_cast<int64_t>(upper.num_bytes);
  task.outputs = {{module + ".weight", dtype, upper.shape}};
  task.run = [&checkpoint, module, dtype](PartialCheckpoint& out) {
    StoredPlanes planes = OpenPlanes(checkpoint, module);
    const int64_t n = planes.n;
    WriteRows(out, module + ".weight", n, dtype, *Dequantize(std::move(planes)));
  };
  return task;
}

Conversion PlanDequantization(const Checkpoint& checkpoint, const Json& config, DType dtype) {
  Conversion conversion;
  if (NestedFormatOf(config, checkpoint.name()).empty()) {
    PlanCodes(checkpoint, config, dtype, conversion);
  } else {
    PlanPlanes(checkpoint, dtype, conversion);
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
