// The ops of each instruction set (ops_<isa>.cc).

#pragma once

#include "dualfp/kernels/op_table.h"

namespace dualfp::cpu {

extern const OpTable kAvx2Ops;
extern const OpTable kAvx512Ops;

}  // namespace dualfp::cpu
