// The engine as the server needs it. One implementation forwards to Engine, whose comments are the
// contract; tests have another, which they drive token by token.

#pragma once

#include <memory>

#include "dualfp/engine/engine.h"

namespace dualfp {

class EngineClient {
 public:
  virtual ~EngineClient() = default;

  virtual RequestId Submit(Request request, OutputSink sink) = 0;
  virtual void Cancel(RequestId id) = 0;
  virtual void SetPrecision(PrecisionSetting setting) = 0;
  virtual PrecisionStatus GetPrecision() const = 0;
  virtual const EngineMetrics& metrics() const = 0;
  virtual const RunnerInfo& info() const = 0;
  virtual const EngineConfig& config() const = 0;
};

// `engine` must outlive the result.
std::unique_ptr<EngineClient> MakeEngineClient(Engine* engine);

}  // namespace dualfp
