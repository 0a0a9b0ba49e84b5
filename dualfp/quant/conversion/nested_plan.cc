#include "dualfp/quant/conversion/nested_plan.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/model/weights.h"
#include "dualfp/quant/schemes/linear_layers.h"

namespace dualfp {
namespace {

constexpr std::string_view kWeight = "weight";
// Of source rows that are split at a time.
constexpr int64_t kChunkBytes = int64_t{4} << 20;

// "NAME." of NAME.weight.
std::string Stem(const TensorEntry& entry) {
  return entry.name.substr(0, entry.name.size() - kWeight.size());
}

int64_t ChunkRows(const TensorEntry& entry) {
  return std::max<int64_t>(1, kChunkBytes / (entry.shape[1] * DTypeSize(entry.dtype)));
}

// What splitting a matrix found.
struct Split {
  NestReport report;
  OutlierBuffers outliers;
};

// Receives the planes of rows [begin, end).
template <typename Planes>
using PlaneSink = std::function<void(int64_t begin, int64_t end, const Planes& planes)>;

struct BytePlanes {
  std::vector<uint8_t> upper;
  std::vector<uint8_t> lower;
};

[[noreturn]] void FailNotFinite(const Checkpoint& checkpoint, const TensorEntry& entry, int64_t row,
                                int64_t column) {
  Fail(ErrorCode::kInvalidFile, checkpoint.name(), ": tensor ", entry.name, ": element [", row,
       ", ", column, "] is NaN or infinite");
}

// Stops early, with incomplete results, once more than `most` outliers were found.
Split SplitNested(const Checkpoint& checkpoint, const TensorEntry& entry, int64_t most,
                  const PlaneSink<BytePlanes>& sink) {
  const TensorData data = checkpoint.Read(entry);
  const int64_t n = entry.shape[0];
  const int64_t k = entry.shape[1];
  const int64_t chunk = ChunkRows(entry);
  Split split;
  BytePlanes planes;
  for (int64_t begin = 0; begin < n && split.report.outliers <= most; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    planes.upper.resize((end - begin) * k);
    planes.lower.resize((end - begin) * k);
    const int64_t bad =
        NestRun(data.view().Rows(begin, end).data, entry.dtype, (end - begin) * k, begin * k,
                planes.upper.data(), planes.lower.data(), split.report, split.outliers);
    if (bad >= 0) {
      FailNotFinite(checkpoint, entry, begin + bad / k, bad % k);
    }
    if (sink) {
      sink(begin, end, planes);
    }
    data.DropFront(end * k * DTypeSize(entry.dtype));
  }
  return split;
}

struct NibblePlanes {
  std::vector<uint8_t> upper;
  std::vector<uint8_t> nibble;
  std::vector<int8_t> shift;
};

Split SplitNested12(const Checkpoint& checkpoint, const TensorEntry& entry, int64_t most,
                    const PlaneSink<NibblePlanes>& sink) {
  const TensorData data = checkpoint.Read(entry);
  const int64_t n = entry.shape[0];
  const int64_t k = entry.shape[1];
  const int64_t chunk = ChunkRows(entry);
  Split split;
  NibblePlanes planes;
  for (int64_t begin = 0; begin < n && split.report.outliers <= most; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    planes.upper.resize((end - begin) * k);
    planes.nibble.resize((end - begin) * NibbleBytes(k));
    planes.shift.resize(end - begin);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t i = row - begin;
      const int64_t bad = Nest12Row(data.view().Rows(row, row + 1).data, entry.dtype, k, row * k,
                                    &planes.upper[i * k], &planes.nibble[i * NibbleBytes(k)],
                                    &planes.shift[i], split.report, split.outliers);
      if (bad >= 0) {
        FailNotFinite(checkpoint, entry, row, bad);
      }
    }
    if (sink) {
      sink(begin, end, planes);
    }
    data.DropFront(end * k * DTypeSize(entry.dtype));
  }
  return split;
}

void WriteOutliers(PartialCheckpoint& out, const std::string& index, const std::string& value,
                   const OutlierBuffers& outliers, int64_t expected) {
  CheckInternal(static_cast<int64_t>(outliers.index.size()) == expected, index, ": ",
                outliers.index.size(), " entries, ", expected, " counted");
  out.WriteAt(index, 0, outliers.index.data(), outliers.index.size() * sizeof(int64_t));
  out.WriteAt(value, 0, outliers.value.data(), outliers.value.size() * sizeof(float));
}

ConversionTask NestedTask(const Checkpoint& checkpoint, const TensorEntry& entry, int64_t count) {
  const std::string stem = Stem(entry);
  ConversionTask task;
  task.bytes = static_cast<int64_t>(entry.num_bytes);
  task.outputs = {{stem + "weight_upper", DType::kF8E4M3, entry.shape},
                  {stem + "weight_lower", DType::kU8, entry.shape},
                  {stem + "outlier_index", DType::kI64, {count}},
                  {stem + "outlier_value", DType::kF32, {count}}};
  task.run = [&checkpoint, &entry, stem, count](PartialCheckpoint& out) {
    const int64_t k = entry.shape[1];
    const auto sink = [&](int64_t begin, int64_t, const BytePlanes& planes) {
      out.WriteAt(stem + "weight_upper", begin * k, planes.upper.data(), planes.upper.size());
      out.WriteAt(stem + "weight_lower", begin * k, planes.lower.data(), planes.lower.size());
    };
    const Split split = SplitNested(checkpoint, entry, count, sink);
    WriteOutliers(out, stem + "outlier_index", stem + "outlier_value", split.outliers, count);
  };
  return task;
}

ConversionTask Nested12Task(const Checkpoint& checkpoint, const TensorEntry& entry, int64_t count) {
  const std::string stem = Stem(entry);
  const int64_t n = entry.shape[0];
  const int64_t nibbles = NibbleBytes(entry.shape[1]);
  ConversionTask task;
  task.bytes = static_cast<int64_t>(entry.num_bytes);
  task.outputs = {{stem + "weight_upper", DType::kF8E4M3, entry.shape},
                  {stem + "weight_nibble", DType::kU8, {n, nibbles}},
                  {stem + "weight_shift", DType::kI8, {n}},
                  {stem + "remainder_index", DType::kI64, {count}},
                  {stem + "remainder_value", DType::kF32, {count}}};
  task.run = [&checkpoint, &entry, stem, nibbles, count](PartialCheckpoint& out) {
    const auto sink = [&](int64_t begin, int64_t, const NibblePlanes& planes) {
      out.WriteAt(stem + "weight_upper", begin * entry.shape[1], planes.upper.data(),
                  planes.upper.size());
      out.WriteAt(stem + "weight_nibble", begin * nibbles, planes.nibble.data(),
                  planes.nibble.size());
      out.WriteAt(stem + "weight_shift", begin, planes.shift.data(), planes.shift.size());
    };
    const Split split = SplitNested12(checkpoint, entry, count, sink);
    WriteOutliers(out, stem + "remainder_index", stem + "remainder_value", split.outliers, count);
  };
  return task;
}

bool IsBf16Matrix(const TensorEntry& entry) {
  return entry.foreign_dtype.empty() && entry.dtype == DType::kBF16 && entry.shape.size() == 2 &&
         entry.num_bytes > 0 && entry.name.ends_with(".weight");
}

struct Candidate {
  const TensorEntry* entry = nullptr;
  int64_t most = 0;  // outliers with which it is still worth it
  NestReport report;
};

// Counts in `candidates`, writes tasks in the order of the checkpoint.
template <typename Count, typename MakeTask>
Conversion PlanSplits(const Checkpoint& checkpoint, const Json& config, std::string_view format,
                      std::vector<Candidate> candidates, std::vector<std::string> ignored,
                      ThreadPool& threads, const Count& count, const MakeTask& make_task,
                      const std::function<std::string(const Candidate&)>& too_many) {
  threads.ParallelFor(static_cast<int64_t>(candidates.size()), 1,
                      [&](int64_t begin, int64_t end, int) {
                        for (int64_t i = begin; i < end; ++i) {
                          candidates[i].report = count(*candidates[i].entry, candidates[i].most);
                        }
                      });
  Conversion conversion;
  auto candidate = candidates.begin();
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (candidate == candidates.end() || candidate->entry != &entry) {
      conversion.tasks.push_back(CopyTask(checkpoint, entry));
      continue;
    }
    const std::string stem = Stem(entry);
    if (candidate->report.outliers > candidate->most) {
      conversion.report.kept.push_back({entry.name, too_many(*candidate)});
      ignored.push_back(stem.substr(0, stem.size() - 1));
      conversion.tasks.push_back(CopyTask(checkpoint, entry));
    } else {
      conversion.tasks.push_back(make_task(entry, candidate->report.outliers));
      ++conversion.report.converted;
      conversion.report.remainders += candidate->report.outliers;
      conversion.report.rounded += candidate->report.rounded;
    }
    ++candidate;
  }
  Check(conversion.report.converted > 0, ErrorCode::kUnsupported, checkpoint.name(),
        ": no matrix to convert to ", format);
  conversion.config = config;
  Json quantization = {{"quant_method", "dualfp"}, {"format", format}, {"version", 1}};
  if (!ignored.empty()) {
    quantization["ignored_layers"] = ignored;
  }
  conversion.config["quantization_config"] = quantization;
  conversion.identity = format;
  return conversion;
}

}  // namespace

std::string NestedFormatOf(const Json& config, const std::string& origin) {
  const JsonFields fields(config, origin);
  const auto quantization = fields.FindObject("quantization_config");
  if (!quantization || quantization->FindString("quant_method") != "dualfp") {
    return "";
  }
  std::string format = quantization->GetString("format");
  if (format != "nested" && format != "nested12") {
    quantization->FailUnsupported("format", "expected nested or nested12");
  }
  if (quantization->FindInt("version", 1, INT32_MAX).value_or(1) != 1) {
    quantization->FailUnsupported("version", "expected 1");
  }
  return format;
}

Conversion PlanNested(const Checkpoint& checkpoint, const Json& config,
                      const std::vector<NamePattern>& ignore, ThreadPool& threads) {
  CheckNotQuantized(checkpoint, config);
  std::vector<Candidate> candidates;
  std::vector<std::string> ignored;
  for (const TensorEntry& entry : checkpoint.entries()) {
    const auto linear = AsLinear(entry);
    if (!linear || linear->fused_experts) {
      continue;
    }
    if (KeptByDefault(linear->module) || MatchesAny(ignore, linear->module)) {
      ignored.push_back(linear->module);
    } else {
      const auto elements = static_cast<double>(linear->n * linear->k);
      candidates.push_back({&entry, static_cast<int64_t>(kDefaultMaxOutlierShare * elements), {}});
    }
  }
  return PlanSplits(
      checkpoint, config, "nested", std::move(candidates), std::move(ignored), threads,
      [&checkpoint](const TensorEntry& entry, int64_t most) {
        return SplitNested(checkpoint, entry, most, {}).report;
      },
      [&checkpoint](const TensorEntry& entry, int64_t count) {
        return NestedTask(checkpoint, entry, count);
      },
      [](const Candidate& /*candidate*/) {
        return StrCat("more than ", 100 * kDefaultMaxOutlierShare, " % of its weights exceed 1.75");
      });
}

Conversion PlanNested12(const Checkpoint& checkpoint, const Json& config,
                        const std::vector<NamePattern>& ignore, ThreadPool& threads) {
  CheckNotQuantized(checkpoint, config);
  std::vector<Candidate> candidates;
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (IsBf16Matrix(entry)) {
      const std::string stem = Stem(entry);
      if (!MatchesAny(ignore, stem.substr(0, stem.size() - 1))) {
        const auto elements = static_cast<double>(entry.shape[0] * entry.shape[1]);
        candidates.push_back({&entry, static_cast<int64_t>(kMaxRemainderShare * elements), {}});
      }
    }
  }
  return PlanSplits(
      checkpoint, config, "nested12", std::move(candidates), {}, threads,
      [&checkpoint](const TensorEntry& entry, int64_t most) {
        return SplitNested12(checkpoint, entry, most, {}).report;
      },
      [&checkpoint](const TensorEntry& entry, int64_t count) {
        return Nested12Task(checkpoint, entry, count);
      },
      [](const Candidate& /*candidate*/) {
        return StrCat("more than ", 100 * kMaxRemainderShare,
                      " % of its weights leave a remainder");
      });
}

}  // namespace dualfp
