#include "dualfp/base/heap.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dualfp {

void ReturnLargeBlocksToSystem() {
#ifdef __GLIBC__
  // Setting a threshold ends its adaptation.
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 256 << 10);
#endif
}

}  // namespace dualfp
