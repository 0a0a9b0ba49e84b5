"""Our scalar codecs against ml_dtypes and numpy, which we did not write.

tests/numeric_codes prints each format's decoded values and the codes of a list of floats; the
comparison is exact.
"""

import os
import pathlib
import subprocess

import ml_dtypes
import numpy as np
import pytest

TOOL = pathlib.Path(os.environ["DUALFP_BUILD_DIR"]) / "tests" / "numeric_codes"

FORMATS = {
    "fp16": (np.float16, 16),
    "bf16": (ml_dtypes.bfloat16, 16),
    "e4m3": (ml_dtypes.float8_e4m3fn, 8),
    "e5m2": (ml_dtypes.float8_e5m2, 8),
    "e2m1": (ml_dtypes.float4_e2m1fn, 4),
}
# Formats whose oracle saturates on overflow, as ours do; the others we clip first.
MAXIMUM = {"e4m3": 448.0, "e5m2": 57344.0, "e2m1": 6.0}


def run(*arguments, data=b""):
    return subprocess.run([TOOL, *arguments], input=data, capture_output=True, check=True).stdout


def samples():
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, size=200_000, dtype=np.uint32)
    scaled = rng.standard_normal(200_000).astype(np.float32) * np.exp2(
        rng.integers(-30, 20, size=200_000)
    ).astype(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 448, 464, 465, 65519, 65520], np.float32)
    values = np.concatenate([bits.view(np.float32), scaled, special])
    return values[~np.isnan(values)]


@pytest.mark.parametrize("name", FORMATS)
def test_decode_every_code(name):
    dtype, bits = FORMATS[name]
    ours = np.frombuffer(run("decode", name), np.float32)
    raw = np.arange(2**bits, dtype=np.uint16 if bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):
        expected = raw.view(dtype).astype(np.float32)
    assert np.array_equal(ours, expected, equal_nan=True)
    finite = ~np.isnan(expected)
    assert np.array_equal(np.signbit(ours[finite]), np.signbit(expected[finite]))


@pytest.mark.parametrize("name", FORMATS)
def test_encode(name):
    dtype, bits = FORMATS[name]
    values = samples()
    ours = np.frombuffer(run("encode", name, data=values.tobytes()), np.uint16)
    clipped = values
    if name in MAXIMUM:
        clipped = np.clip(values, -MAXIMUM[name], MAXIMUM[name])
    with np.errstate(over="ignore"):
        expected = clipped.astype(dtype).view(np.uint16 if bits == 16 else np.uint8)
    assert np.array_equal(ours, expected.astype(np.uint16) & (2**bits - 1))


def test_e8m0_decode():
    ours = np.frombuffer(run("decode", "e8m0"), np.float32)
    expected = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(ours, expected, equal_nan=True)


def test_nested_upper_is_e4m3_of_256_w():
    """The upper byte over every eligible weight, by numpy and ml_dtypes."""
    split = np.frombuffer(run("nested"), np.uint8).reshape(-1, 2)
    codes = np.arange(2**16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        eligible = np.abs(codes.view(np.float16)) <= 1.75
    weights = codes[eligible].view(np.float16).astype(np.float32)
    expected = (256 * weights).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(split[:, 0], expected)
    # The published lower byte is the weight's own; ours is that plus 64.
    assert np.array_equal(split[:, 1], ((codes[eligible] & 255) + 64).astype(np.uint8))


def test_nested12_holds_bf16_and_a_nearest_e4m3():
    """Both columns' bits of every weight up to 1.75, by numpy and ml_dtypes."""
    bits = np.frombuffer(run("nested12"), np.uint8).reshape(-1, 2, 2).astype(np.int32)
    patterns = np.arange(2**16, dtype=np.uint16)
    patterns = patterns[(patterns & 0x7FFF) <= 0x3FE0]
    weights = patterns.view(ml_dtypes.bfloat16).astype(np.float64)
    normal = np.abs(weights) >= 2.0**-14
    all_codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    codes = all_codes[np.isfinite(all_codes)]
    for column, bias in enumerate([8, 7]):
        upper, nibble = bits[:, column].T
        code = 16 * (upper & 127) + nibble - bias
        fp16 = ((upper & 128) << 8 | 8 * code).astype(np.uint16).view(np.float16)
        linear = np.round(weights * 2.0**21) * 2.0**-21
        assert np.array_equal(fp16.astype(np.float64), np.where(normal, weights, linear))
        bf16 = ((upper & 128) << 8 | code + 0x3800).astype(np.uint16)
        assert np.array_equal(bf16[normal], patterns[normal])
        error = np.abs(all_codes[upper] - 256 * weights)[normal]
        best = np.abs(codes[:, None] - 256 * weights[normal]).min(axis=0)
        assert np.array_equal(error, best)
