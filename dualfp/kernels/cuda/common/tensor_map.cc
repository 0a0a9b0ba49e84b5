#include "dualfp/kernels/cuda/common/tensor_map.h"

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::cuda {
namespace {

using EncodeFunction = decltype(&cuTensorMapEncodeTiled);

EncodeFunction FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  CheckCuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                             cudaEnableDefault, &result),
            "cudaGetDriverEntryPointByVersion");
  Check(result == cudaDriverEntryPointSuccess && function != nullptr, ErrorCode::kUnsupported,
        "the NVIDIA driver has no cuTensorMapEncodeTiled; 525 or newer is needed");
  return reinterpret_cast<EncodeFunction>(function);
}

}  // namespace

CUtensorMap EncodeTensorMap(const MatrixMap& map) {
  static const EncodeFunction encode = FindEncode();
  const int element_bytes = map.element == MapElement::kU8 ? 1 : 2;
  const int box_bytes = map.box_columns * element_bytes;
  CheckInternal(box_bytes == 32 || box_bytes == 64 || box_bytes == 128, "tensor map box of ",
                box_bytes, " bytes");
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(map.columns),
                               static_cast<cuuint64_t>(map.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(map.row_stride * element_bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(map.box_columns),
                             static_cast<cuuint32_t>(map.box_rows)};
  const cuuint32_t element_strides[2] = {1, 1};
  CUtensorMap encoded;
  const CUresult status =
      encode(&encoded,
             map.element == MapElement::kU8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                            : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
             2, const_cast<void*>(map.data), sizes, strides, box, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE,
             box_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
             : box_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                               : CU_TENSOR_MAP_SWIZZLE_32B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  Check(status == CUDA_SUCCESS, ErrorCode::kInvalidArgument, "cuTensorMapEncodeTiled refused [",
        map.rows, ", ", map.columns, "] with row stride ", map.row_stride * element_bytes,
        " bytes at ", map.data, " (error ", static_cast<int>(status),
        "): rows must start at multiples of 16 bytes");
  return encoded;
}

}  // namespace dualfp::cuda
