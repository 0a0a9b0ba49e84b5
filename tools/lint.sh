#!/usr/bin/env bash
# Formatting and static analysis, as errors.   lint.sh [--quick] [BUILD]
# --quick, for continuous integration: all formatting, but of clang-tidy only the checks that need
# no path analysis, on the 40 sources that changed last. A few minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=0
if [ "${1:-}" = --quick ]; then
  quick=1
  shift
fi
build=${1:-build}

git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format-14 --dry-run -Werror
echo "clang-format: clean"

# Torch's headers are in the environment of the tests.
[ -f "$build/compile_commands.json" ] || cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DDUALFP_PYTHON="${DUALFP_VENV:-$PWD/.venv}/bin/python3" > /dev/null

# Tests are left to the compiler's warnings: GoogleTest's macros drown the analyser.
sources() { grep '\.cc$' | grep -v -e '_test\.cc$' -e '^tests/' -e '^fuzz/'; }
if [ "$quick" = 1 ]; then
  checks=(--checks=-clang-analyzer-*)
  files=$(git log --format= --name-only --diff-filter=AM -- '*.cc' | sources |
    awk '!seen[$0]++' | while read -r file; do [ ! -f "$file" ] || echo "$file"; done |
    awk 'NR <= 40')
else
  checks=()
  files=$(git ls-files | sources)
fi
xargs -P "$(nproc)" -n 4 clang-tidy-14 --quiet -p "$build" "${checks[@]}" <<< "$files" 2> /dev/null
echo "clang-tidy: clean"
