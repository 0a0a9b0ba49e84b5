// Stands in for the vector kernels on processors that have none of ours.

#include "dualfp/kernels/op_table.h"

namespace dualfp {

extern const OpTable* const kAvx512OpTable;
extern const OpTable* const kAvx2OpTable;
const OpTable* const kAvx512OpTable = nullptr;
const OpTable* const kAvx2OpTable = nullptr;

}  // namespace dualfp
