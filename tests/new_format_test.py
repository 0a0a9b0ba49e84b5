"""Adding a weight format is three edits: new_format.patch has them, one hunk each (a header in
numeric/, a row in quant_format.h, an entry in the typed test suite). They are applied to a copy of
the sources; then the format is verified by the typed suite, multiplies in every GEMM test through
the reference kernel, and has its name on the command line. (That every name of the table loads,
refills and runs, weights_test and evaluate_test see to.)

When quant_format.h or the typed suite changes, make the edits again in a clean tree and store
`git add -A && git diff --cached -U40`."""

import os
import pathlib
import re
import shutil
import subprocess

SOURCE = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"])
PATCH = SOURCE / "tests" / "new_format.patch"
LAYERS = ["base", "numeric", "tensor", "kernels"]
PROJECT = """cmake_minimum_required(VERSION 3.25)
project(dualfp VERSION 0.1.0 LANGUAGES CXX)
set(DUALFP_CUDA OFF)
set(DUALFP_BUILD_TESTS ON)
list(APPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_SOURCE_DIR}/cmake)
include(GNUInstallDirs)
include(DualfpTargets)
include(DualfpDependencies)
include(DualfpCuda)
enable_testing()
foreach(layer %s)
  add_subdirectory(dualfp/${layer} layers/${layer})
endforeach()
""" % " ".join(LAYERS)
# Binary, filter, and a test that must have run.
RUNS = [
    ("numeric/numeric_test", "SmallFloatTest/5.*", "RoundsToNearestEvenAtEveryBoundary"),
    ("tensor/tensor_test", "QuantFormatTest.*:WeightSchemeTest.*", "EverySchemeItsName"),
    ("kernels/gemm_test", "*__e3m4*", "gemm_any_any_any_reference__e3m4_token"),
]


def run(*command, **keywords):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **keywords)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_three_hunks_in_three_files():
    text = PATCH.read_text()
    files = re.findall(r"^\+\+\+ b/(.*)$", text, re.M)
    assert files == ["dualfp/numeric/e3m4.h", "dualfp/numeric/small_float_test.cc", "dualfp/tensor/quant_format.h"]
    assert len(re.findall(r"^@@ ", text, re.M)) == 3


def test_a_new_format_runs_everywhere(tmp_path):
    tree = tmp_path / "tree"
    for name in ["cmake", *(f"dualfp/{layer}" for layer in LAYERS)]:
        shutil.copytree(SOURCE / name, tree / name)
    (tree / "CMakeLists.txt").write_text(PROJECT)
    run("patch", "-p1", "-i", PATCH, cwd=tree)
    build = tmp_path / "build"
    run("cmake", "-S", tree, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS_DEBUG=-O1")
    run("ninja", "-C", build, "-j2", *(binary.split("/")[1] for binary, _, _ in RUNS))
    for binary, chosen, name in RUNS:
        binary = build / "layers" / binary
        out = run(binary, f"--gtest_filter={chosen}")
        assert re.search(rf"\[       OK \] .*{name}", out), out[-2000:]
