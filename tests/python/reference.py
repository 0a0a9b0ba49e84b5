"""What the tests of the Python package compare with: float64 and the formats' definitions by torch."""

import torch


def planes_value(weight):
    """E4M3 of 256 w, over 256: what a nested weight of up to 1.75 is worth at FP8."""
    return (weight.float() * 256).to(torch.float8_e4m3fn).double() / 256


def per_token(x):
    """x as FP8 products see it: E4M3(x / s) s with s = max |x| / 448 a row, as float32 rounds it."""
    amax = x.float().abs().amax(-1, keepdim=True)
    scale = torch.where(amax > 0, amax / 448, torch.ones_like(amax))
    return (x.float() / scale).to(torch.float8_e4m3fn).double() * scale.double()


def product(x, weight, bias=None):
    y = x.double() @ weight.double().T
    return y if bias is None else y + bias.double()


def assert_rounded(y, expected, x, weight):
    """y is `expected` up to a float32 sum's error and the rounding to its own dtype."""
    magnitude = x.double().abs() @ weight.double().abs().T
    bound = 1e-5 * magnitude + torch.finfo(y.dtype).eps * expected.abs() + 1e-30
    assert y.shape == expected.shape
    excess = (y.double() - expected).abs() - bound
    assert excess.max() <= 0, f"off by {excess.max()} more than rounding explains"
