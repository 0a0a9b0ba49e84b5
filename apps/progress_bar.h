// How far a long command is.

#pragma once

#include <cstdint>
#include <string>

namespace dualfp {

// Shows a bar on stderr where stderr is a terminal, and nothing elsewhere. The
// bar is gone when this is.
class ProgressBar {
 public:
  // The rate shown is that of Update()'s numbers, divided by `unit`, a second.
  explicit ProgressBar(std::string label, double unit = 1e9, const char* rate = "GB/s");
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done, int64_t total);

 private:
  std::string label_;
  double unit_;
  const char* rate_;
  bool shown_ = false;
  double start_seconds_;
  double last_seconds_ = 0;
};

}  // namespace dualfp
