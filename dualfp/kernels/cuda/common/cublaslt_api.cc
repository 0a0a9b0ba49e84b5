#include "dualfp/kernels/cuda/common/cublaslt_api.h"

#include <dlfcn.h>

#include "dualfp/base/check.h"
#include "dualfp/base/env.h"

namespace dualfp::cuda::lt {
namespace {

struct Library {
  Api api;
  std::string error;  // empty when api is complete
};

Library Open() {
  Library library;
  const std::string name = GetEnv("DUALFP_CUBLASLT").value_or("libcublasLt.so.13");
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.error = StrCat("needs cuBLASLt for CUDA 13, which did not load (", dlerror(),
                           "); install it or set DUALFP_CUBLASLT to its path");
    return library;
  }
  const auto find = [&](const char* symbol, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, symbol));
    if (function == nullptr && library.error.empty()) {
      library.error = StrCat("needs cuBLASLt, but ", name, " has no ", symbol);
    }
  };
  Api& api = library.api;
  find("cublasLtGetVersion", api.get_version);
  find("cublasLtCreate", api.create);
  find("cublasLtDestroy", api.destroy);
  find("cublasLtMatmulDescCreate", api.desc_create);
  find("cublasLtMatmulDescSetAttribute", api.desc_set);
  find("cublasLtMatmulDescDestroy", api.desc_destroy);
  find("cublasLtMatrixLayoutCreate", api.layout_create);
  find("cublasLtMatrixLayoutDestroy", api.layout_destroy);
  find("cublasLtMatmulPreferenceCreate", api.preference_create);
  find("cublasLtMatmulPreferenceSetAttribute", api.preference_set);
  find("cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  find("cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  find("cublasLtMatmul", api.matmul);
  return library;
}

}  // namespace

const Api* Load(std::string* why) {
  static const Library library = Open();
  *why = library.error;
  return library.error.empty() ? &library.api : nullptr;
}

}  // namespace dualfp::cuda::lt
