# Decides whether CUDA kernels are built, and finds what they need.
# Sets DUALFP_HAS_CUDA. Without nvcc, dualfp/kernels links the stubs in no_cuda/ instead.

set(DUALFP_HAS_CUDA OFF)
if(NOT DUALFP_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(DUALFP_HAS_CUDA ON)
  elseif(DUALFP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DUALFP_CUDA=ON, but no nvcc was found: set CUDACXX or CMAKE_CUDA_COMPILER")
  endif()
endif()

if(DUALFP_HAS_CUDA)
  set(DUALFP_CUDA_ARCHITECTURES "90a" CACHE STRING "Architectures to compile kernels for")
  set(CMAKE_CUDA_ARCHITECTURES ${DUALFP_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  # CMake 3.25 does not know that CUDA 13 speaks C++20 and drops the flag without a word.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  find_package(CUDAToolkit REQUIRED)
endif()
message(STATUS "dualfp: CUDA kernels ${DUALFP_HAS_CUDA}")
