// How the process's allocator keeps memory.

#pragma once

namespace dualfp {

// From now on blocks of 128 KiB and more go back to the system when they are freed. By default
// glibc keeps freed blocks of up to 32 MiB once it has seen one of their size, and a server's
// memory is then the largest coincidence of requests it ever had. Does nothing with other C
// libraries.
void ReturnLargeBlocksToSystem();

}  // namespace dualfp
