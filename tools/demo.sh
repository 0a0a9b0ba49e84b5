#!/usr/bin/env bash
# The main job in a minute: one copy of the bundled model's weights, computed with at two
# precisions, switched while it writes.   demo.sh DUALFP
set -euo pipefail
cd "$(dirname "$0")/.."
dualfp=${1:-build/dualfp}
model=models/reference

run() {
  printf '\n$ dualfp %s\n' "$*"
  "$dualfp" "$@"
}

echo "The model as dualfp holds it: each linear layer as two planes, exact and FP8 in one."
run inspect $model

echo
echo "Text, exact for 48 tokens and then in FP8, from the same weights in the same memory;"
echo "then what each precision cost, and how far FP8 moved the logits."
run generate $model --prompt "And it came to pass in those days, that" --max-tokens 96 \
  --switch-at 48 --temperature 0.7 --top-p 0.9 --seed 1 --compare
