// An environment variable that tests set.

#pragma once

#include <cstdlib>

namespace dualfp {

// Sets the variable for a scope, and unsets it then. While it lives, no other thread may read or
// change the environment.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~ScopedEnv() { unsetenv(name_); }
  ScopedEnv(const ScopedEnv&) = delete;
  ScopedEnv& operator=(const ScopedEnv&) = delete;

 private:
  const char* name_;
};

}  // namespace dualfp
