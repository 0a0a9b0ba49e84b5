#!/usr/bin/env bash
# The long runs: a mixed load on BUILD/dualfp serve for SOAK_MINUTES (default 20), sanitizers over
# all C++ tests, a thousand random tokenizers against Hugging Face's library, then each fuzzer for
# FUZZ_SECONDS (default 600).   soak.sh [BUILD]
# Crashing inputs are left under build-fuzz/crashes.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/serve_soak.py --dualfp "${1:-build}/dualfp" --minutes "${SOAK_MINUTES:-20}"
tools/sanitize.sh asan-ubsan
tools/sanitize.sh tsan

cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DDUALFP_BUILD_TESTS=ON > /dev/null
cmake --build build --target text_golden_tool -j "$(nproc)" | tail -n 1
DUALFP_BUILD_DIR=$PWD/build DUALFP_RANDOM_TOKENIZERS=1000 DUALFP_RANDOM_TEXTS=100 \
  "${DUALFP_VENV:-.venv}/bin/python3" -m pytest -q -p no:cacheprovider \
  dualfp/text/golden/tokenizer_fuzz_test.py

cmake -S . -B build-fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DDUALFP_CUDA=OFF \
  -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 -DDUALFP_BUILD_FUZZERS=ON \
  -DDUALFP_BUILD_TESTS=OFF -DDUALFP_BUILD_BENCHMARKS=OFF -DDUALFP_SANITIZE=address,undefined > /dev/null
cmake --build build-fuzz -j "$(nproc)" | tail -n 1
mkdir -p build-fuzz/crashes
for fuzzer in build-fuzz/fuzz/*_fuzz; do
  name=$(basename "$fuzzer" _fuzz)
  mkdir -p "build-fuzz/corpus/$name"
  echo "fuzzing $name for ${FUZZ_SECONDS:-600} s"
  "$fuzzer" -max_total_time="${FUZZ_SECONDS:-600}" -timeout=10 -rss_limit_mb=4096 \
    -max_len=65536 -dict=fuzz/json.dict \
    -artifact_prefix=build-fuzz/crashes/ "build-fuzz/corpus/$name" "fuzz/corpus/$name" 2>&1 | tail -n 2
done
