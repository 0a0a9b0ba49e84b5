// Loading of one linear layer: from how its parts are stored to how it shall be held.

#pragma once

#include <memory>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/io/name_pattern.h"
#include "dualfp/model/model.h"
#include "dualfp/model/weight_source.h"
#include "dualfp/model/weights.h"

namespace dualfp {

class LinearLoader {
 public:
  // All outlive the loader. Throws kInvalidArgument for a pattern of LoadOptions::rules that is
  // none.
  LinearLoader(WeightSource& source, const LoadOptions& options, ThreadPool& threads);

  // The schemes that LoadOptions ask for, by the names and types of a linear's parts. Throws
  // kInvalidArgument where rules want parts of one weight to be held differently.
  WeightScheme LayerScheme(const Linear& linear);
  WeightScheme HeadScheme(const Linear& linear);

  // Loads a linear whose name, parts and weight's shape are set. Parts that are quantized alike are
  // held as they are stored where that is what LoadOptions ask for; else their values are held in
  // `scheme`.
  LinearReport Load(Linear& linear, const WeightScheme& scheme);

 private:
  struct Rule {
    NamePattern pattern;
    WeightScheme scheme;
  };

  // What a rule wants, or LoadOptions::scheme does; nothing: as the checkpoint says.
  std::optional<WeightScheme> Wanted(const Linear& linear) const;
  std::vector<LinearQuantization> StoredAs(const Linear& linear) const;
  // The part's tensor as values, and their type.
  std::unique_ptr<TensorRows> Open(const LinearPart& part);
  DType ValueDType(const LinearPart& part);
  bool IsBf16(const Linear& linear);
  // From values, to a scheme or, where its planes hold too few of them, to plain; or as the parts
  // are stored.
  void FillValues(Linear& linear, const WeightScheme& scheme, DType plain_dtype,
                  LinearReport& report);
  NestReport FillAll(Linear& linear, const WeightScheme& scheme, DType dtype, int64_t max_outliers);
  void CopyAll(Linear& linear, const WeightScheme& scheme);

  WeightSource& source_;
  const LoadOptions& options_;
  ThreadPool& threads_;
  std::vector<Rule> rules_;
};

}  // namespace dualfp
