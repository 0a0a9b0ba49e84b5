#!/usr/bin/env bash
# The CPU benchmarks, each a ratio measured within one run.   bench.sh BUILD
# Run it on a machine with nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}

title() { printf '\n== %s\n' "$*"; }

title "GEMM 4096 x 4096 and 14336 x 4096: against streaming-read bandwidth and FMA peak"
"$build/dualfp" bench gemm --n 4096 --k 4096 --m 1,8,64,512
"$build/dualfp" bench gemm --n 14336 --k 4096 --m 1,512

title "Loading and nesting from the page cache: speed and peak memory"
"$build/bench/bench_load"

title "Decoding a 1B-parameter model with random weights at both precisions"
"$build/bench/bench_decode"

title "Engine: scheduling overhead, and the first step after a switch"
"$build/bench/bench_engine" overhead
"$build/bench/bench_engine" serve models/reference
"$build/bench/bench_engine" switch models/reference

title "Engine: 32 requests over one, on random weights of a 1B shape"
for precision in exact fp8; do
  "$build/dualfp" bench throughput bench/shapes/1b --load-format dummy --quantization nested \
    --precision $precision --concurrency 1,32 --num-prompts 32 --input-len 16 --output-len 48 \
    --max-num-seqs 32 --kv-cache-memory 0.5 --rounds 2
done

title "Server: 64 streaming clients for two minutes, and 1,000 slow connections"
python3 bench/bench_serving.py soak --build "$build"
python3 bench/bench_serving.py slow --build "$build"

if [ -x "${DUALFP_VENV:-.venv}/bin/python3" ]; then
  title "Tokenizer against Hugging Face tokenizers"
  "${DUALFP_VENV:-.venv}/bin/python3" bench/bench_tokenizer.py --build-dir "$build"
fi
