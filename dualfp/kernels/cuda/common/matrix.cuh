// 8x8 matrices of 16-bit elements between shared memory and registers: lane l holds row l/4,
// columns 2(l%4) and 2(l%4)+1 (PTX ISA 9.7.14.5.15 ldmatrix, 9.7.14.5.16 stmatrix).

#pragma once

#include <cstdint>

namespace dualfp::cuda {

// Lanes 8i..8i+7 give the row addresses of matrix i; r[i] receives this lane's part of it.
__device__ __forceinline__ void LoadMatrix4(uint32_t (&r)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address)
               : "memory");
}

// The same of two matrices, by the addresses of lanes 0..15.
__device__ __forceinline__ void LoadMatrix2(uint32_t (&r)[2], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row_address)
               : "memory");
}

// The reverse: lanes 8i..8i+7 give the addresses of matrix i's rows.
__device__ __forceinline__ void StoreMatrix4(uint32_t row_address, uint32_t r0, uint32_t r1,
                                             uint32_t r2, uint32_t r3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
      "r"(r0), "r"(r1), "r"(r2), "r"(r3)
      : "memory");
}

// The same of two matrices.
__device__ __forceinline__ void StoreMatrix2(uint32_t row_address, uint32_t r0, uint32_t r1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row_address),
               "r"(r0), "r"(r1)
               : "memory");
}

// Stores the transposes of two matrices: lanes 8i..8i+7 give the addresses of matrix i's columns.
__device__ __forceinline__ void StoreMatrix2Transposed(uint32_t column_address, uint32_t r0,
                                                       uint32_t r1) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(column_address),
      "r"(r0), "r"(r1)
      : "memory");
}

// The same of four matrices.
__device__ __forceinline__ void StoreMatrix4Transposed(uint32_t column_address, uint32_t r0,
                                                       uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   column_address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

}  // namespace dualfp::cuda
