#!/usr/bin/env bash
# Installs BUILD into a scratch prefix, then configures, builds and runs the consumer project
# against nothing but that prefix.   run.sh CMAKE BUILD SOURCE
set -euo pipefail
cmake=$1 build=$2 source=$3
scratch=$build/consumer
rm -rf "$scratch"
"$cmake" --install "$build" --prefix "$scratch/prefix" > /dev/null
"$cmake" -S "$source/tests/consumer" -B "$scratch/build" -G Ninja \
  -DCMAKE_PREFIX_PATH="$scratch/prefix" > /dev/null
"$cmake" --build "$scratch/build" > /dev/null
"$scratch/build/consumer"
"$scratch/build/generate" "$source/models/reference"
"$scratch/prefix/bin/dualfp" --help > /dev/null
