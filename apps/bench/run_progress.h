// How far a long run is: a bar on a terminal, a line every ten seconds elsewhere.

#pragma once

#include <cstdint>
#include <string>

#include "apps/progress_bar.h"
#include "dualfp/engine/request.h"

namespace dualfp {

class RunProgress {
 public:
  RunProgress(std::string label, int64_t total);

  void Update(int64_t done, int64_t in_flight);

 private:
  std::string label_;
  int64_t total_;
  bool terminal_;
  ProgressBar bar_;
  TimePoint begin_ = Clock::now();
  TimePoint last_line_ = begin_;
};

}  // namespace dualfp
