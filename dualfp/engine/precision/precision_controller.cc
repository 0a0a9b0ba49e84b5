#include "dualfp/engine/precision/precision_controller.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

std::string_view NameOf(const PrecisionPlan& plan) {
  return ClassOf(plan) == PrecisionClass::kMixed ? "layers" : PrecisionClassName(ClassOf(plan));
}

class FixedController : public PrecisionController {
 public:
  explicit FixedController(PrecisionPlan plan) : plan_(std::move(plan)) {}

  void Choose(const StepSummary& /*step*/, PrecisionPlan* plan) override { *plan = plan_; }
  bool adaptive() const override { return false; }
  std::string_view name() const override { return NameOf(plan_); }

 private:
  PrecisionPlan plan_;
};

class PhasedController : public PrecisionController {
 public:
  PhasedController(PrecisionPlan prefill, PrecisionPlan decode)
      : prefill_(std::move(prefill)),
        decode_(std::move(decode)),
        name_(StrCat(NameOf(prefill_), "+", NameOf(decode_))) {}

  void Choose(const StepSummary& /*step*/, PrecisionPlan* plan) override { *plan = decode_; }
  bool splits_prefill() const override { return true; }
  void ChoosePrefill(const StepSummary& /*step*/, PrecisionPlan* plan) override {
    *plan = prefill_;
  }
  bool adaptive() const override { return false; }
  std::string_view name() const override { return name_; }

 private:
  PrecisionPlan prefill_;
  PrecisionPlan decode_;
  std::string name_;
};

class ThresholdController : public PrecisionController {
 public:
  explicit ThresholdController(int64_t max_fp16_tokens) : max_fp16_tokens_(max_fp16_tokens) {}

  void Choose(const StepSummary& step, PrecisionPlan* plan) override {
    SetAll(plan, step.batch_tokens > max_fp16_tokens_ ? Precision::kFp8 : Precision::kExact);
  }
  std::string_view name() const override { return "threshold"; }

 private:
  int64_t max_fp16_tokens_;
};

std::vector<int> MiddleOutwards(int num_layers) {
  std::vector<int> order(num_layers);
  std::iota(order.begin(), order.end(), 0);
  const auto distance = [&](int layer) { return std::abs(2 * layer - (num_layers - 1)); };
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return distance(a) < distance(b); });
  return order;
}

class SloSlackController : public PrecisionController {
 public:
  SloSlackController(int num_layers, SloSlackOptions options) : options_(std::move(options)) {
    Check(num_layers >= 1, ErrorCode::kInvalidArgument, "a plan needs at least one layer");
    Check(options_.safety >= 1.0 && options_.release_seconds >= 0.0 && options_.granularity >= 0,
          ErrorCode::kInvalidArgument,
          "SLO-slack policy: safety is at least 1, release_seconds and granularity at least 0");
    if (options_.layer_order.empty()) {
      options_.layer_order = MiddleOutwards(num_layers);
    }
    std::vector<int> sorted = options_.layer_order;
    std::sort(sorted.begin(), sorted.end());
    for (int layer = 0; layer < num_layers; ++layer) {
      Check(static_cast<int>(sorted.size()) == num_layers && sorted[layer] == layer,
            ErrorCode::kInvalidArgument, "SLO-slack policy: layer_order must name each of the ",
            num_layers, " layers once");
    }
    group_ = options_.granularity > 0 ? std::min(options_.granularity, num_layers)
                                      : std::max(1, num_layers / 8);
    num_layers_ = num_layers;
  }

  void Choose(const StepSummary& step, PrecisionPlan* plan) override {
    const int needed = NeededLayers(step);
    if (needed >= fp8_layers_) {
      fp8_layers_ = needed;
      released_at_ = step.now;
    } else {
      Release(step.now, needed);
    }
    SetAll(plan, Precision::kExact);
    for (int i = 0; i < fp8_layers_; ++i) {
      plan->layers[options_.layer_order[i]] = Precision::kFp8;
    }
    LetHeadFollow(plan);
  }

  std::string_view name() const override { return "slo-slack"; }

 private:
  // The smallest multiple of the group, or all layers, that meets every deadline; where none does,
  // the faster of all and none.
  int NeededLayers(const StepSummary& step) const {
    if (step.features.prefill_tokens + step.features.decode_sequences == 0) {
      return 0;  // all rows are pinned
    }
    double allowed = std::numeric_limits<double>::infinity();
    for (const DeadlineSlack& deadline : step.deadlines) {
      allowed = std::min(allowed, deadline.slack / std::max(deadline.steps, 1));
    }
    const double safety = options_.safety + step.cost->relative_error();
    const auto predict = [&step](double fp8_fraction) {
      StepWork work = step.pinned;
      work.Add(step.features, fp8_fraction);
      return step.cost->Predict(work);
    };
    for (int layers = 0; layers < num_layers_; layers += group_) {
      const double fraction = static_cast<double>(layers) / num_layers_;
      if (safety * predict(fraction) <= allowed) {
        return layers;
      }
    }
    // FP8 is not faster everywhere: some CPUs multiply large batches faster in FP16.
    return predict(1.0) <= predict(0.0) ? num_layers_ : 0;
  }

  // One group at a time, each after its share of release_seconds.
  void Release(TimePoint now, int needed) {
    const std::chrono::duration<double> share(options_.release_seconds * group_ / num_layers_);
    while (fp8_layers_ > needed && now - released_at_ >= share) {
      // The last group may be short: the steps down are multiples of the group, as those up.
      fp8_layers_ = std::max(needed, (fp8_layers_ - 1) / group_ * group_);
      released_at_ += std::chrono::duration_cast<Clock::duration>(share);
      if (share.count() == 0.0) {
        fp8_layers_ = needed;
      }
    }
  }

  SloSlackOptions options_;
  int num_layers_ = 0;
  int group_ = 1;
  int fp8_layers_ = 0;
  TimePoint released_at_;  // when the last group went back, or was last needed
};

}  // namespace

std::unique_ptr<PrecisionController> MakeFixedController(PrecisionPlan plan) {
  return std::make_unique<FixedController>(std::move(plan));
}

std::unique_ptr<PrecisionController> MakePhasedController(PrecisionPlan prefill,
                                                          PrecisionPlan decode) {
  return std::make_unique<PhasedController>(std::move(prefill), std::move(decode));
}

std::unique_ptr<PrecisionController> MakeThresholdController(int64_t max_fp16_tokens) {
  return std::make_unique<ThresholdController>(max_fp16_tokens);
}

std::unique_ptr<PrecisionController> MakeSloSlackController(int num_layers,
                                                            SloSlackOptions options) {
  return std::make_unique<SloSlackController>(num_layers, std::move(options));
}

}  // namespace dualfp
