// Where tensors go in a safetensors file, and in which of a checkpoint's files: what a writer needs
// to know before the first byte. Declarations that contradict themselves are kInvalidArgument.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "dualfp/io/safetensors_header.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

// {"format": "pt"}: transformers refuses files without it.
SafetensorsMetadata DefaultSafetensorsMetadata();

struct TensorPlace {
  TensorSpec spec;
  uint64_t offset = 0;  // from the start of the file
  uint64_t num_bytes = 0;
};

struct SafetensorsLayout {
  std::string header;                // eight bytes of length, JSON, blanks up to a multiple of 8
  std::vector<TensorPlace> tensors;  // by offset
  uint64_t file_bytes = 0;
};

// Inside a file tensors are ordered by element size, largest first, and then as declared, and the
// data begins at a multiple of 8 bytes, so that every tensor is aligned. `origin` is the file's
// name in errors.
SafetensorsLayout LayOutSafetensors(std::vector<TensorSpec> tensors,
                                    const SafetensorsMetadata& metadata, const std::string& origin);

inline constexpr uint64_t kDefaultMaxShardBytes = 5'000'000'000;

struct ShardSpec {
  std::string file_name;
  std::vector<TensorSpec> tensors;
};

struct DealtTensors {
  std::vector<ShardSpec> shards;
  std::string index;  // the text of the index file; empty for a single file
};

// model.safetensors, or, where the tensors exceed max_shard_bytes,
// model-00001-of-0000N.safetensors and so on and an index. Tensors are dealt to shards in the order
// of declaration; a tensor larger than max_shard_bytes gets a shard of its own.
DealtTensors DealTensors(std::vector<TensorSpec> tensors, uint64_t max_shard_bytes,
                         const std::string& origin);

}  // namespace dualfp
