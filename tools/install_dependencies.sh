#!/usr/bin/env bash
# Installs what building dualfp needs; with --tests, also the Python environment (.venv) that the
# tests compare against. Safe to run again: it installs only what is missing.
#
# On Debian 12 and later, as root (or with sudo), it does everything. Elsewhere it prints what to
# install and stops.
set -euo pipefail
cd "$(dirname "$0")/.."

build_packages=(
  build-essential ca-certificates ccache cmake git ninja-build pkg-config
  libboost1.81-dev libcli11-dev libfmt-dev libpcre2-dev libspdlog-dev libssl-dev libutf8proc-dev
  nlohmann-json3-dev libgmock-dev libgtest-dev libbenchmark-dev zlib1g-dev
)
test_packages=(
  chromium clang-14 clang-format-14 clang-tidy-14 curl fonts-dejavu-core libclang-rt-14-dev
  python3 python3-venv
)

with_tests=0
case "${1:-}" in
  "") ;;
  --tests) with_tests=1 ;;
  *)
    echo "usage: $0 [--tests]" >&2
    exit 2
    ;;
esac

packages=("${build_packages[@]}")
if [ "$with_tests" = 1 ]; then
  packages+=("${test_packages[@]}")
fi

missing=()
if command -v dpkg-query >/dev/null; then
  for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$state" = "install ok installed" ] || missing+=("$package")
  done
else
  cat >&2 <<TEXT
This is not a Debian system. Install by your own package manager, then run make again with
SKIP_DEPENDENCIES=1:
  a C++20 compiler (g++ >= 12 or clang >= 16), CMake >= 3.25, Ninja, pkg-config, ccache (optional)
  Boost >= 1.81 (headers), CLI11 >= 2.1, {fmt} >= 9, spdlog >= 1.10, nlohmann-json >= 3.10,
  PCRE2 (8 bit), utf8proc, OpenSSL >= 3, zlib, GoogleTest >= 1.12, Google Benchmark >= 1.7
  for the tests: Python >= 3.10 with venv, clang with its compiler-rt, clang-format, clang-tidy, curl
CUDA kernels are built where nvcc (CUDA 13.0) is found; nothing else is needed for the CPU.
TEXT
  exit 1
fi

if [ "${#missing[@]}" -gt 0 ]; then
  sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "Run as root: apt-get install ${missing[*]}" >&2
      exit 1
    }
    sudo=(sudo)
  fi
  echo "Installing: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ "$with_tests" = 1 ]; then
  venv=${DUALFP_VENV:-.venv}
  stamp=$venv/requirements.txt
  if ! cmp -s tests/requirements.txt "$stamp"; then
    echo "Installing the Python packages of tests/requirements.txt into $venv"
    [ -x "$venv/bin/python3" ] || python3 -m venv "$venv"
    # torch first: packages that merely ask for some torch then keep this one.
    "$venv/bin/pip" install -q --disable-pip-version-check "$(grep '^torch==' tests/requirements.txt)"
    "$venv/bin/pip" install -q --disable-pip-version-check -r tests/requirements.txt
    cp tests/requirements.txt "$stamp"
  fi
fi
