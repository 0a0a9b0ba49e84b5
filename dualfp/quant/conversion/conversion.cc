#include "dualfp/quant/conversion/conversion.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

constexpr std::string_view kConfigName = "config.json";
constexpr std::string_view kHfQuantConfigName = "hf_quant_config.json";
constexpr int64_t kMaxCopiedBytes = int64_t{1} << 30;
// Of a copied tensor between two writes.
constexpr int64_t kCopyBytes = int64_t{8} << 20;

// Weights in other formats, which the new checkpoint has instead, and what describes a quantization
// that is not the new one's.
bool IsLeftOut(std::string_view name) {
  static constexpr std::array<std::string_view, 9> kSuffixes = {
      ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json"};
  return name == kConfigName || name == kHfQuantConfigName ||
         std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [name](std::string_view suffix) { return name.ends_with(suffix); });
}

void CopyOtherFiles(const std::filesystem::path& in, const std::filesystem::path& out) {
  for (const auto& file : std::filesystem::directory_iterator(in)) {
    const std::string name = file.path().filename().string();
    if (file.is_regular_file() && !IsLeftOut(name)) {
      WriteFileAtomically(out / name, ReadFile(file.path(), kMaxCopiedBytes));
    }
  }
}

// Names, sizes and times of the source's files.
std::string IdentityOf(const Checkpoint& checkpoint) {
  std::string identity;
  for (const SafetensorsFile& file : checkpoint.files()) {
    struct stat status {};
    Check(stat(file.name().c_str(), &status) == 0, ErrorCode::kIo, file.name(), ": cannot stat");
    identity += StrCat(file.name(), " ", status.st_size, " ", status.st_mtim.tv_sec, ".",
                       status.st_mtim.tv_nsec, " ");
  }
  return identity;
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

}  // namespace

Json ReadConfigJson(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kConfigName;
  Json config = ParseJsonFile(path);
  Check(config.is_object(), ErrorCode::kInvalidFile, path.string(), ": expected a JSON object");
  const std::filesystem::path producer = directory / kHfQuantConfigName;
  std::error_code ignored;
  if (!config.contains("quantization_config") && std::filesystem::exists(producer, ignored)) {
    config["quantization_config"] = ParseJsonFile(producer);
  }
  return config;
}

void CheckNotQuantized(const Checkpoint& checkpoint, const Json& config) {
  if (config.contains("quantization_config") && !config["quantization_config"].is_null()) {
    const JsonFields fields(config["quantization_config"], checkpoint.name(),
                            "quantization_config");
    Fail(ErrorCode::kUnsupported, checkpoint.name(), ": this checkpoint is quantized (",
         fields.FindString("quant_method").value_or("no quant_method"),
         "); write it back first with --scheme bf16");
  }
  for (const TensorEntry& entry : checkpoint.entries()) {
    Check(entry.dtype != DType::kF8E4M3 || !entry.foreign_dtype.empty(), ErrorCode::kUnsupported,
          checkpoint.name(), ": this checkpoint is quantized: tensor ", entry.name, " is ",
          DTypeName(entry.dtype));
  }
}

ConversionTask CopyTask(const Checkpoint& checkpoint, const TensorEntry& entry) {
  Check(entry.foreign_dtype.empty(), ErrorCode::kUnsupported, checkpoint.name(), ": tensor ",
        entry.name, " has dtype ", entry.foreign_dtype, ", which cannot be copied");
  ConversionTask task;
  task.outputs.push_back({entry.name, entry.dtype, entry.shape});
  task.bytes = static_cast<int64_t>(entry.num_bytes);
  task.run = [&checkpoint, &entry](PartialCheckpoint& out) {
    TensorEntry flat = entry;  // of any rank
    flat.shape = {static_cast<int64_t>(entry.num_bytes) / DTypeSize(entry.dtype)};
    const TensorData data = checkpoint.Read(flat);
    const auto* bytes = data.view().as<char>();
    const auto size = static_cast<int64_t>(entry.num_bytes);
    for (int64_t begin = 0; begin < size; begin += kCopyBytes) {
      const int64_t count = std::min(kCopyBytes, size - begin);
      out.WriteAt(entry.name, begin, bytes + begin, count);
      data.DropFront(begin + count);
    }
  };
  return task;
}

ConversionReport RunConversion(const std::filesystem::path& in, const std::filesystem::path& out,
                               Conversion conversion, const Checkpoint& checkpoint,
                               ThreadPool& threads, const ConversionProgress& progress,
                               uint64_t max_shard_bytes) {
  Check(checkpoint.missing_files().empty(), ErrorCode::kNotFound, checkpoint.name(),
        ": the checkpoint is incomplete: ", checkpoint.missing_files()[0], " is missing");
  std::vector<ConversionTask>& tasks = conversion.tasks;
  ConversionReport report = std::move(conversion.report);
  report.bytes_in = static_cast<int64_t>(checkpoint.total_bytes());
  std::vector<PartialCheckpoint::Task> outputs;
  int64_t total = 0;
  for (const ConversionTask& task : tasks) {
    outputs.push_back({task.outputs});
    report.bytes_out += BytesOf(task.outputs);
    total += task.bytes;
  }
  PartialCheckpoint partial(out, outputs, conversion.identity + " " + IdentityOf(checkpoint),
                            max_shard_bytes);
  std::mutex mutex;
  int64_t done = 0;
  std::atomic<bool> failed = false;
  try {
    threads.ParallelFor(static_cast<int64_t>(tasks.size()), 1,
                        [&](int64_t begin, int64_t end, int) {
                          for (int64_t i = begin; i < end && !failed; ++i) {
                            const bool resumed = partial.IsDone(i);
                            if (!resumed) {
                              try {
                                tasks[i].run(partial);
                                partial.Finish(i);
                              } catch (...) {
                                failed = true;
                                throw;
                              }
                            }
                            const std::lock_guard lock(mutex);
                            report.tasks_resumed += resumed ? 1 : 0;
                            done += tasks[i].bytes;
                            if (progress) {
                              progress(done, total);
                            }
                          }
                        });
    CopyOtherFiles(in, partial.directory());
    if (!conversion.hf_quant_config.is_null()) {
      WriteFileAtomically(partial.directory() / kHfQuantConfigName,
                          conversion.hf_quant_config.dump(2) + "\n");
    }
    WriteFileAtomically(partial.directory() / kConfigName, conversion.config.dump(2) + "\n");
    partial.Publish();
  } catch (const Error& error) {
    const bool may_go_on =
        error.code() == ErrorCode::kResourceExhausted || error.code() == ErrorCode::kIo;
    if (!may_go_on) {
      partial.Discard();
      throw;
    }
    partial.Save();
    throw Error(error.code(),
                StrCat(error.what(), "; what is done stays in ", partial.directory().string(),
                       ", and the same command goes on with it"));
  }
  return report;
}

}  // namespace dualfp
