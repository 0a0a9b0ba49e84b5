#include "dualfp/quant/nested12_checkpoint.h"

#include <map>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/io/safetensors_writer.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/model/weight_source.h"
#include "dualfp/model/weights.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {
namespace {

constexpr std::string_view kConfigName = "config.json";
constexpr std::string_view kWeight = "weight";
constexpr std::string_view kUpper = "weight_upper";

Json ReadConfig(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kConfigName;
  Json config = ParseJsonFile(path);
  Check(config.is_object(), ErrorCode::kInvalidFile, path.string(), ": expected a JSON object");
  return config;
}

void CheckApart(const std::filesystem::path& in, const std::filesystem::path& out) {
  std::error_code ignored;
  Check(!std::filesystem::equivalent(in, out, ignored), ErrorCode::kInvalidArgument, out.string(),
        ": the converted checkpoint needs a directory of its own");
}

// Tokenizer, generation config, licence: all that is neither weights nor config.json.
void CopyOtherFiles(const std::filesystem::path& in, const std::filesystem::path& out) {
  for (const auto& file : std::filesystem::directory_iterator(in)) {
    const std::string name = file.path().filename().string();
    if (file.is_regular_file() && name != kConfigName && !name.ends_with(".safetensors") &&
        name != Checkpoint::kIndexName) {
      std::error_code error;
      std::filesystem::copy_file(file.path(), out / name,
                                 std::filesystem::copy_options::overwrite_existing, error);
      Check(!error, ErrorCode::kIo, "cannot copy ", file.path().string(), " to ", out.string(),
            ": ", error.message());
    }
  }
}

void Finish(const std::filesystem::path& in, const std::filesystem::path& out, const Json& config,
            CheckpointWriter& writer) {
  writer.Commit();
  CopyOtherFiles(in, out);
  WriteFileAtomically(out / kConfigName, config.dump(2) + "\n");
}

int64_t BytesOf(const std::vector<TensorSpec>& specs) {
  int64_t bytes = 0;
  for (const TensorSpec& spec : specs) {
    int64_t size = DTypeSize(spec.dtype);
    for (const int64_t n : spec.shape) {
      size *= n;
    }
    bytes += size;
  }
  return bytes;
}

bool IsBf16Matrix(const TensorEntry& entry) {
  return entry.foreign_dtype.empty() && entry.dtype == DType::kBF16 && entry.shape.size() == 2 &&
         entry.shape[0] > 0 && entry.shape[1] > 0 && entry.name.ends_with(".weight");
}

// "NAME." of NAME.weight.
std::string Stem(std::string_view name, std::string_view suffix) {
  return std::string(name.substr(0, name.size() - suffix.size()));
}

// The planes of one matrix.
class Planes {
 public:
  Planes(ThreadPool& threads, std::string_view name, const ConstTensorView& source)
      : buffer_(Buffer::AllocateCpu(source.shape[0] *
                                    (source.shape[1] + NibbleBytes(source.shape[1]) + 1))) {
    const int64_t n = source.shape[0];
    const int64_t k = source.shape[1];
    planes_ = {.upper = buffer_.View(DType::kF8E4M3, {n, k}),
               .nibble = buffer_.View(DType::kU8, {n, NibbleBytes(k)}, n * k),
               .shift = buffer_.View(DType::kI8, {n}, n * (k + NibbleBytes(k)))};
    const auto most =
        static_cast<int64_t>(kMaxRemainderShare * static_cast<double>(source.num_elements()));
    too_many_ = Nest12(threads, name, source, planes_, most, &remainders_).outliers > most;
  }

  // Whether the matrix had better stay as it is; the rest is then of no use.
  bool too_many() const { return too_many_; }
  const Nested12Planes& planes() const { return planes_; }
  const OutlierBuffers& remainders() const { return remainders_; }

 private:
  Buffer buffer_;
  Nested12Planes planes_;
  OutlierBuffers remainders_;
  bool too_many_ = false;
};

}  // namespace

ConversionReport WriteNested12Checkpoint(const std::filesystem::path& in,
                                         const std::filesystem::path& out, ThreadPool& threads) {
  CheckApart(in, out);
  Json config = ReadConfig(in);
  Check(!config.contains("quantization_config"), ErrorCode::kUnsupported, in.string(),
        ": this checkpoint is quantized, expected a BF16 one");
  config["quantization_config"] = {
      {"quant_method", "dualfp"}, {"format", "nested12"}, {"version", 1}};
  const Checkpoint checkpoint = Checkpoint::Open(in);
  ConversionReport report;
  report.bytes_in = static_cast<int64_t>(checkpoint.total_bytes());
  // Files begin with all shapes, so that remainders are counted before any of them is written.
  std::map<std::string, int64_t> remainders;
  std::vector<TensorSpec> specs;
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (IsBf16Matrix(entry)) {
      const Planes planes(threads, entry.name, checkpoint.Read(entry).view());
      if (planes.too_many()) {
        report.kept.push_back(entry.name);
      } else {
        const auto count = static_cast<int64_t>(planes.remainders().index.size());
        const std::string stem = Stem(entry.name, kWeight);
        const int64_t n = entry.shape[0];
        specs.push_back({stem + "weight_upper", DType::kF8E4M3, entry.shape});
        specs.push_back({stem + "weight_nibble", DType::kU8, {n, NibbleBytes(entry.shape[1])}});
        specs.push_back({stem + "weight_shift", DType::kI8, {n}});
        specs.push_back({stem + "remainder_index", DType::kI64, {count}});
        specs.push_back({stem + "remainder_value", DType::kF32, {count}});
        remainders[entry.name] = count;
        report.remainders += count;
        continue;
      }
    }
    specs.push_back({entry.name, checkpoint.Read(entry).view().dtype, entry.shape});
  }
  report.converted = static_cast<int64_t>(remainders.size());
  Check(report.converted > 0, ErrorCode::kUnsupported, in.string(), ": no BF16 matrix to convert");
  report.bytes_out = BytesOf(specs);

  CheckpointWriter writer(out, specs);
  for (const TensorEntry& entry : checkpoint.entries()) {
    const TensorData data = checkpoint.Read(entry);
    if (!remainders.contains(entry.name)) {
      writer.Write(entry.name, data.view());
      continue;
    }
    const Planes planes(threads, entry.name, data.view());
    const std::string stem = Stem(entry.name, kWeight);
    writer.Write(stem + "weight_upper", planes.planes().upper);
    writer.Write(stem + "weight_nibble", planes.planes().nibble);
    writer.Write(stem + "weight_shift", planes.planes().shift);
    const auto count = static_cast<uint64_t>(remainders[entry.name]);
    writer.Append(stem + "remainder_index", planes.remainders().index.data(),
                  count * sizeof(int64_t));
    writer.Append(stem + "remainder_value", planes.remainders().value.data(),
                  count * sizeof(float));
  }
  Finish(in, out, config, writer);
  return report;
}

ConversionReport WriteBf16Checkpoint(const std::filesystem::path& in,
                                     const std::filesystem::path& out) {
  CheckApart(in, out);
  Json config = ReadConfig(in);
  Check(IsNested12Checkpoint(config.value("quantization_config", Json())), ErrorCode::kUnsupported,
        in.string(),
        ": expected a checkpoint with quant_method \"dualfp\" and format \"nested12\"");
  config.erase("quantization_config");
  const Checkpoint checkpoint = Checkpoint::Open(in);
  CheckpointSource source(Checkpoint::Open(in));
  ConversionReport report;
  report.bytes_in = static_cast<int64_t>(checkpoint.total_bytes());
  const auto is_part = [&checkpoint](const std::string& name) {
    for (const std::string_view part :
         {"weight_nibble", "weight_shift", "remainder_index", "remainder_value"}) {
      if (name.ends_with("." + std::string(part)) &&
          checkpoint.Find(Stem(name, part) + std::string(kUpper)) != nullptr) {
        return true;
      }
    }
    return false;
  };
  std::vector<TensorSpec> specs;
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (entry.name.ends_with("." + std::string(kUpper))) {
      specs.push_back({Stem(entry.name, kUpper) + std::string(kWeight), DType::kBF16, entry.shape});
      ++report.converted;
    } else if (!is_part(entry.name)) {
      specs.push_back({entry.name, checkpoint.Read(entry).view().dtype, entry.shape});
    }
  }
  report.bytes_out = BytesOf(specs);

  CheckpointWriter writer(out, specs);
  for (const TensorSpec& spec : specs) {
    if (const TensorEntry* entry = checkpoint.Find(spec.name)) {
      writer.Write(spec.name, checkpoint.Read(*entry).view());
      continue;
    }
    const auto rows = source.Open(spec.name, spec.shape);
    std::vector<char> scratch(rows->row_bytes());
    for (int64_t row = 0; row < spec.shape[0]; ++row) {
      writer.Append(spec.name, rows->Row(row, scratch.data()), rows->row_bytes());
    }
  }
  Finish(in, out, config, writer);
  return report;
}

}  // namespace dualfp
