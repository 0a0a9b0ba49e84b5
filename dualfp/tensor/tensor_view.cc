#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

std::string Describe(const ConstTensorView& view) {
  std::string text = StrCat(DTypeName(view.dtype), "[");
  for (int axis = 0; axis < view.rank; ++axis) {
    text += StrCat(axis == 0 ? "" : ", ", view.shape[axis]);
  }
  return text + "]";
}

}  // namespace dualfp
