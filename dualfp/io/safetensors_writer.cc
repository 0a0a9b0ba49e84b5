#include "dualfp/io/safetensors_writer.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"

namespace dualfp {

SafetensorsFileWriter::SafetensorsFileWriter(std::filesystem::path path,
                                             std::vector<TensorSpec> tensors,
                                             const SafetensorsMetadata& metadata)
    : file_(std::move(path)) {
  SafetensorsLayout layout = LayOutSafetensors(std::move(tensors), metadata, file_.path().string());
  missing_bytes_ = layout.file_bytes - layout.header.size();
  for (TensorPlace& place : layout.tensors) {
    std::string name = place.spec.name;
    slots_.emplace(std::move(name), Slot{std::move(place), 0});
  }
  file_.Reserve(layout.file_bytes);
  file_.WriteAt(0, layout.header.data(), layout.header.size());
}

SafetensorsFileWriter::Slot& SafetensorsFileWriter::FindSlot(std::string_view tensor_name) {
  const auto found = slots_.find(tensor_name);
  if (found == slots_.end()) {
    Fail(ErrorCode::kInvalidArgument, path().string(), ": tensor ", QuoteForMessage(tensor_name),
         " was not declared");
  }
  return found->second;
}

void SafetensorsFileWriter::Append(std::string_view tensor_name, const void* data, uint64_t size) {
  Slot& slot = FindSlot(tensor_name);
  if (size == 0) {
    return;  // an empty tensor may come after the last byte, when the file is closed
  }
  Check(size <= slot.place.num_bytes - slot.written, ErrorCode::kInvalidArgument, path().string(),
        ": tensor ", QuoteForMessage(slot.place.spec.name), ": ", slot.written + size,
        " bytes written, ", slot.place.num_bytes, " declared");
  file_.WriteAt(slot.place.offset + slot.written, data, size);
  slot.written += size;
  missing_bytes_ -= size;
}

void SafetensorsFileWriter::Write(std::string_view tensor_name, const ConstTensorView& view) {
  const TensorSpec& spec = FindSlot(tensor_name).place.spec;
  Check(view.dtype == spec.dtype && view.device == Device{} && view.is_contiguous() &&
            std::equal(spec.shape.begin(), spec.shape.end(), view.shape.begin(),
                       view.shape.begin() + view.rank),
        ErrorCode::kInvalidArgument, path().string(), ": tensor ", QuoteForMessage(spec.name), ": ",
        Describe(view), " written, but another dtype or shape declared");
  Append(tensor_name, view.data, static_cast<uint64_t>(view.num_bytes()));
}

void SafetensorsFileWriter::Finish() {
  for (const auto& [name, slot] : slots_) {
    Check(slot.written == slot.place.num_bytes, ErrorCode::kInvalidArgument, path().string(),
          ": tensor ", QuoteForMessage(name), ": ", slot.written, " bytes written, ",
          slot.place.num_bytes, " declared");
  }
  file_.Finish();
}

void SafetensorsFileWriter::Commit() {
  Finish();
  file_.Commit();
}

CheckpointWriter::CheckpointWriter(std::filesystem::path directory, std::vector<TensorSpec> tensors,
                                   uint64_t max_shard_bytes, SafetensorsMetadata metadata)
    : directory_(std::move(directory)), metadata_(std::move(metadata)) {
  std::error_code error;
  created_directory_ = std::filesystem::create_directories(directory_, error);
  Check(!error, ErrorCode::kIo, directory_.string(),
        ": cannot create the directory: ", error.message());
  DealtTensors dealt = DealTensors(std::move(tensors), max_shard_bytes, directory_.string());
  index_ = std::move(dealt.index);
  for (ShardSpec& shard : dealt.shards) {
    for (const TensorSpec& spec : shard.tensors) {
      shard_of_.emplace(spec.name, shards_.size());
    }
    shards_.push_back({std::move(shard.file_name), std::move(shard.tensors), std::nullopt});
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (created_directory_ && !committed_) {
    shards_.clear();
    std::error_code ignored;
    std::filesystem::remove(directory_, ignored);  // only if nothing else has come to lie in it
  }
}

void CheckpointWriter::Begin(Shard& shard) {
  shard.writer.emplace(directory_ / shard.file_name, std::move(shard.tensors), metadata_);
}

SafetensorsFileWriter& CheckpointWriter::WriterOf(std::string_view tensor_name) {
  const auto found = shard_of_.find(tensor_name);
  if (found == shard_of_.end()) {
    Fail(ErrorCode::kInvalidArgument, directory_.string(), ": tensor ",
         QuoteForMessage(tensor_name), " was not declared");
  }
  Shard& shard = shards_[found->second];
  if (!shard.writer) {
    Begin(shard);
  }
  return *shard.writer;
}

void CheckpointWriter::Append(std::string_view tensor_name, const void* data, uint64_t size) {
  SafetensorsFileWriter& writer = WriterOf(tensor_name);
  writer.Append(tensor_name, data, size);
  if (writer.is_complete()) {
    writer.Finish();  // closes it: a hundred shards need not be open at once
  }
}

void CheckpointWriter::Write(std::string_view tensor_name, const ConstTensorView& view) {
  SafetensorsFileWriter& writer = WriterOf(tensor_name);
  writer.Write(tensor_name, view);
  if (writer.is_complete()) {
    writer.Finish();
  }
}

void CheckpointWriter::Commit() {
  for (Shard& shard : shards_) {
    if (!shard.writer) {
      Begin(shard);  // a shard without a byte: no tensors, or only empty ones
    }
    shard.writer->Finish();
  }
  committed_ = true;
  const std::filesystem::path index_path = directory_ / Checkpoint::kIndexName;
  if (shards_.size() == 1) {
    shards_[0].writer->Commit();
    RemoveFile(index_path);  // of an older checkpoint; readers prefer the single file anyway
    return;
  }
  AtomicFile index(index_path);
  index.WriteAt(0, index_.data(), index_.size());
  index.Finish();
  RemoveFile(index_path);
  RemoveFile(directory_ / Checkpoint::kFileName);
  for (Shard& shard : shards_) {
    shard.writer->Commit();
  }
  index.Commit();
}

}  // namespace dualfp
