// What this build computes with: one ordered list of backends, best first and the reference last.
// Everything that has an implementation for each instruction set or device is found here.
//
// DUALFP_CPU=name lowers the CPU's choice to that instruction set's (base/cpu_features.h), and
// DUALFP_KERNEL=name forces one GEMM kernel (gemm.h).

#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/kernels/op_table.h"

namespace dualfp {

namespace cpu {
struct RowInner;
struct NestInner;
struct Nest12Inner;
struct ProbeInner;
}  // namespace cpu

struct Backend {
  std::string_view name;  // "avx512", "sm90", ..., "reference"
  DeviceType device = DeviceType::kCpu;
  CpuIsa isa = CpuIsa::kScalar;  // CPU: the lowest that can run it
  int compute_capability = 0;    // GPU: the major version that runs it, 9 for 9.0; 0: any

  // nullptr where the device has no implementation yet. Loops along rows and planes are the CPU's;
  // nest and nest12 are nullptr where the definition, one element at a time, serves.
  const OpTable* ops = nullptr;
  const cpu::RowInner* rows = nullptr;
  const cpu::NestInner* nest = nullptr;
  const cpu::Nest12Inner* nest12 = nullptr;
  const cpu::ProbeInner* probe = nullptr;

  std::span<const GemmKernel> gemms;  // in order of preference; each says itself what it runs

  // What `ops` take: how blocks of the key-value cache lie, of which dtypes it may be, and the
  // dtypes of hidden states, the preferred one first.
  KvLayout kv_layout;
  std::span<const DType> kv_dtypes;
  std::span<const DType> activations;
};

// All of this build.
std::span<const Backend> Backends();

// Those of a kind of device that this machine, and DUALFP_CPU, can run. For the CPU never empty.
std::vector<const Backend*> UsableBackends(DeviceType device);

// The best of them. Throws kUnsupported where there is none, and kInvalidArgument, with the names
// there are, for an unknown DUALFP_CPU.
const Backend& BestBackend(DeviceType device);

// The parts of the list, from the folder of each kind.
std::vector<Backend> CudaBackends();  // cuda/ or no_cuda/
std::vector<Backend> CpuBackends();   // cpu/
Backend ReferenceBackend();           // reference/

}  // namespace dualfp
