#!/bin/sh
# Runs every libFuzzer target with address and undefined-behaviour sanitizers.
#
#   fuzz/soak.sh [SECONDS_PER_TARGET [NAME...]]
#
# Finds are left in build-fuzz/finds/; `build-fuzz/fuzz/libfuzzer_NAME FILE` repeats one. The corpus
# grows in build-fuzz/corpus/; only the seeds in fuzz/corpus/ belong to the repository.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-300}
[ $# -gt 0 ] && shift

cmake -S . -B build-fuzz -G Ninja -DCMAKE_CXX_COMPILER="${CLANGXX:-clang++}" \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DDUALFP_SANITIZE=fuzzer-no-link,address,undefined \
  -DDUALFP_BUILD_FUZZERS=ON -DDUALFP_BUILD_TESTS=OFF -DDUALFP_BUILD_BENCHMARKS=OFF \
  -DDUALFP_CUDA=OFF >/dev/null
cmake --build build-fuzz --target libfuzzers

[ $# -gt 0 ] || set -- $(ls fuzz/corpus)
mkdir -p build-fuzz/finds
for name in "$@"; do
  echo "== $name: $seconds s"
  mkdir -p "build-fuzz/corpus/$name"
  dictionary=fuzz/$name.dict
  [ -f "$dictionary" ] || dictionary=fuzz/json.dict
  "build-fuzz/fuzz/libfuzzer_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -max_len=65536 -dict="$dictionary" -print_final_stats=1 \
    -artifact_prefix="build-fuzz/finds/$name-" \
    "build-fuzz/corpus/$name" "fuzz/corpus/$name"
done
