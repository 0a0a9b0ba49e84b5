#include "dualfp/server/engine_client.h"

#include <utility>

namespace dualfp {
namespace {

class ForwardingClient final : public EngineClient {
 public:
  explicit ForwardingClient(Engine* engine) : engine_(engine) {}

  RequestId Submit(Request request, OutputSink sink) override {
    return engine_->Submit(std::move(request), std::move(sink));
  }
  void Cancel(RequestId id) override { engine_->Cancel(id); }
  void SetPrecision(PrecisionSetting setting) override {
    engine_->SetPrecision(std::move(setting));
  }
  PrecisionStatus GetPrecision() const override { return engine_->GetPrecision(); }
  const EngineMetrics& metrics() const override { return engine_->metrics(); }
  const RunnerInfo& info() const override { return engine_->info(); }
  const EngineConfig& config() const override { return engine_->config(); }

 private:
  Engine* engine_;
};

}  // namespace

std::unique_ptr<EngineClient> MakeEngineClient(Engine* engine) {
  return std::make_unique<ForwardingClient>(engine);
}

}  // namespace dualfp
