#!/usr/bin/env bash
# Builds and runs the C++ tests under sanitizers.   sanitize.sh asan-ubsan|tsan [ctest arguments]
# The Python tests are left out: they test the same code through a binary built without sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1
shift
# Not detect_stack_use_after_return: GCC 12 then aligns locals of AVX-512 code to 32 bytes and faults
# (GCC bug 110027).
export ASAN_OPTIONS=detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1
cmake --preset "cpu-$kind" > /dev/null
cmake --build "build-cpu-$kind" -j "$(nproc)" | tail -n 1
ctest --test-dir "build-cpu-$kind" --output-on-failure -j "$(nproc)" -LE python "$@" | tail -n 30
