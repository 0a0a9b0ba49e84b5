// The flags that every subcommand which loads a model has, and loading with a progress bar.

#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "apps/progress_bar.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/model/model.h"
#include "dualfp/model/weights.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

struct ModelArguments {
  std::string model;
  std::string quantization = "auto";
  std::string load_format = "auto";
  bool quantize_lm_head = false;
  int threads = 0;

  // MODEL and the flags above.
  void AddTo(CLI::App& app);
};

// --kv-cache-dtype, and what its value stands for.
void AddKvCacheDType(CLI::App& app, std::string& name, const std::string& group);
DType KvCacheDType(const std::string& name);

// "512 B", "2.21 GB": powers of ten, three digits.
std::string HumanBytes(int64_t bytes);

Model LoadModelWithProgress(const ModelArguments& arguments, const ModelConfig& config,
                            ThreadPool& threads);

// "Loaded MODEL: 2.21 GB in 1.4 s (1.6 GB/s), 112 of 112 linear layers nested", or "fp8".
std::string DescribeLoad(const ModelArguments& arguments, const Model& model);

// Why some of the layers compute in FP16 only although nesting was asked for; empty if none do.
std::string DescribeExceptions(const Model& model);

}  // namespace dualfp
