#!/usr/bin/env bash
# Formatting and static analysis, as errors.   lint.sh BUILD
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}

git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format-14 --dry-run -Werror
echo "clang-format: clean"

[ -f "$build/compile_commands.json" ] || cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release > /dev/null
# Tests are left to the compiler's warnings: GoogleTest's macros drown the analyser.
git ls-files '*.cc' | grep -v -e '_test\.cc$' -e '^tests/' -e '^fuzz/' |
  xargs -P "$(nproc)" -n 4 clang-tidy-14 --quiet -p "$build" 2> /dev/null
echo "clang-tidy: clean"
