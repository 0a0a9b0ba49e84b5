"""torch.ops.dualfp against float64, under opcheck and torch.compile, compiled and by ctypes."""

import subprocess
import sys

import pytest
import torch

import dualfp
import dualfp.ops
from dualfp import ops
from reference import assert_rounded, per_token, planes_value, product

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
SHAPES = [(1, 16, 16), (5, 48, 272), (33, 7, 100), (3, 130, 33)]


def weight_of(n, k, dtype=torch.float16, seed=0):
    return (torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.3).to(dtype)


def input_of(shape, dtype=torch.float16, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def nested():
    weight = weight_of(48, 272)
    weight[3, 5] = 9.0
    weight[0, 0] = -100.0
    return weight, torch.ops.dualfp.nest(weight)


def planes(parts):
    upper, lower, index, value = parts
    return upper, lower, None, index, value


def test_the_compiled_ops_are_in_use_where_torch_offers_its_stable_abi():
    assert ops.compiled, ops.compiled_missing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m, n, k", SHAPES)
def test_linear_is_exact_and_fp8_by_the_precision_in_force(m, n, k, dtype):
    weight = weight_of(n, k).clamp(-1.75, 1.75)
    weight[n // 2, k // 2] = 7.5
    upper, lower, index, value = torch.ops.dualfp.nest(weight)
    assert index.tolist() == [n // 2 * k + k // 2] and value.tolist() == [5.75]
    x = input_of((m, k), dtype)
    bias = torch.randn(n)
    exact = torch.ops.dualfp.linear(x, upper, lower, None, index, value, bias)
    assert_rounded(exact, product(x, weight, bias), x, weight)
    fp8_weight = planes_value(weight.clamp(-1.75, 1.75))
    fp8_weight[n // 2, k // 2] += 5.75
    with dualfp.precision("fp8"):
        fp8 = torch.ops.dualfp.linear(x, upper, lower, None, index, value, bias)
    assert_rounded(fp8, product(per_token(x), fp8_weight, bias), per_token(x), fp8_weight)
    # Pinned at the call, whatever is in force.
    pinned = torch.ops.dualfp.linear(x, upper, lower, None, index, value, bias, None, 1)
    assert torch.equal(pinned, fp8)


@pytest.mark.parametrize("n, k", [(48, 272), (5, 33)])
def test_nested12_is_exact_bfloat16(n, k):
    weight = weight_of(n, k, torch.bfloat16) * torch.logspace(-6, 3, n).unsqueeze(1).bfloat16()
    parts = torch.ops.dualfp.nest12(weight)
    assert torch.equal(torch.ops.dualfp.merge(*parts), weight)
    x = input_of((4, k), torch.bfloat16)
    y = torch.ops.dualfp.linear(x, *parts)
    assert_rounded(y, product(x, weight), x, weight)


def test_every_float16_pattern_merges_back():
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    weight = patterns[torch.isfinite(patterns)].reshape(-1, 32)
    parts = torch.ops.dualfp.nest(weight, 1.0)
    merged = torch.ops.dualfp.merge(*planes(parts))
    assert torch.equal(merged.view(torch.int16), weight.view(torch.int16))


def test_published_ops():
    weight = weight_of(48, 272).clamp(-1.75, 1.75)
    upper, lower, _, _ = torch.ops.dualfp.nest(weight)
    x = input_of((5, 272))
    y = torch.ops.dualfp.fp16_custom(5, 48, 272, upper, lower, x)
    assert y.dtype == torch.float16
    assert_rounded(y, product(x, weight), x, weight)
    # Planes as bytes too, as published. The activation's scale is applied outside.
    scale = 448 / x.abs().max()
    x8 = (x * scale).to(torch.float8_e4m3fn)
    y8 = torch.ops.dualfp.fp8_custom(5, 48, 272, upper.view(torch.uint8), x8)
    assert_rounded(y8, product(x8.double(), planes_value(weight)), x8.double(), planes_value(weight))


def test_planes_of_the_published_form_become_ours():
    weight = weight_of(48, 272).clamp(-1.75, 1.75)
    upper, lower, _, _ = torch.ops.dualfp.nest(weight)
    bits = weight.view(torch.int16).to(torch.int32) & 0x7FFF
    published = (bits & 255).to(torch.uint8)
    assert torch.equal(published + 64, lower)
    assert torch.equal(torch.ops.dualfp.fp16_custom(2, 48, 272, upper, published + 64, input_of((2, 272))),
                       torch.ops.dualfp.fp16_custom(2, 48, 272, upper, lower, input_of((2, 272))))


@pytest.mark.parametrize("per_channel", [True, False])
def test_fp8_linear(per_channel):
    weight = weight_of(48, 272, torch.bfloat16)
    codes, scales = torch.ops.dualfp.quantize_weight(weight, per_channel)
    amax = weight.float().abs().amax(1) if per_channel else weight.float().abs().max().reshape(1)
    assert torch.equal(scales, amax / 448)
    wide = scales.reshape(-1, 1).expand(48, 1)
    assert torch.equal(codes.view(torch.uint8), (weight.float() / wide).to(torch.float8_e4m3fn).view(torch.uint8))
    value = codes.double() * wide.double()
    x = input_of((2, 3, 272), torch.bfloat16)
    y = torch.ops.dualfp.fp8_linear(x, codes, scales)
    assert_rounded(y, product(per_token(x), value), per_token(x), value)
    x_codes, x_scales = torch.ops.dualfp.quantize(x, None, False, True)
    again = torch.ops.dualfp.fp8_linear_quantized(x_codes, x_scales, codes, scales, None, torch.bfloat16)
    assert torch.equal(y, again)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize(dtype):
    x = input_of((2, 5, 100), dtype)
    x[0, 1] = 0
    codes, scales = torch.ops.dualfp.quantize(x)
    assert scales.shape == (2, 5) and scales[0, 1] == 1
    assert torch.equal(torch.ops.dualfp.dequantize(codes, scales).double(), per_token(x).float().double())
    _, per_tensor = torch.ops.dualfp.quantize(x, None, True)
    assert torch.equal(per_tensor, (x.float().abs().max() / 448).expand(2, 5))
    codes, scales = torch.ops.dualfp.quantize(x, torch.tensor([0.25]))
    assert torch.equal(codes.view(torch.uint8), (x.float() / 0.25).to(torch.float8_e4m3fn).view(torch.uint8))


def test_inputs_of_any_stride_and_no_rows(nested):
    weight, parts = nested
    args = planes(parts)
    x = input_of((6, 272))
    plain = torch.ops.dualfp.linear(x, *args)
    for other in (x.T.contiguous().T, torch.cat([x, x], 1)[:, :272], x.view(2, 3, 272).transpose(0, 1)):
        y = torch.ops.dualfp.linear(other, *args)
        assert torch.equal(y.reshape(6, 48).sort(0).values, plain.sort(0).values)
    assert torch.ops.dualfp.linear(x[:0], *args).shape == (0, 48)
    assert torch.ops.dualfp.linear(x[0], *args).shape == (48,)


@pytest.mark.parametrize("name", ["linear", "fp8_linear", "quantize", "dequantize", "quantize_weight", "nest",
                                  "nest12", "merge", "fp16_custom", "fp8_custom", "fp8_linear_quantized"])
def test_opcheck(name, nested):
    weight, parts = nested
    x = input_of((5, 272))
    codes, scales = torch.ops.dualfp.quantize_weight(weight)
    x_codes, x_scales = torch.ops.dualfp.quantize(x)
    # As bytes: opcheck multiplies inputs, which torch cannot do with float8 on a CPU.
    codes, x_codes, upper = (c.view(torch.uint8) for c in (codes, x_codes, parts[0]))
    parts = (upper, *parts[1:])
    arguments = {
        "linear": (x, *planes(parts)),
        "fp8_linear": (x, codes, scales, torch.zeros(48)),
        "fp8_linear_quantized": (x_codes, x_scales, codes, scales, None, torch.float16),
        "quantize": (x,),
        "dequantize": (x_codes, x_scales),
        "quantize_weight": (weight,),
        "nest": (weight,),
        "nest12": (weight.bfloat16(),),
        "merge": planes(parts),
        "fp16_custom": (5, 48, 272, parts[0], parts[1], x),
        "fp8_custom": (5, 48, 272, parts[0], x_codes),
    }[name]
    torch.library.opcheck(getattr(torch.ops.dualfp, name).default, arguments)


def test_compile_leaves_the_precision_open(nested):
    _, parts = nested
    args = planes(parts)

    @torch.compile(fullgraph=True, dynamic=True)
    def model(x):
        return torch.relu(torch.ops.dualfp.linear(torch.sin(x), *args)) + 1

    for rows in (3, 8):
        x = input_of((rows, 272))
        for precision in ("exact", "fp8", "exact"):
            with dualfp.precision(precision):
                eager = torch.relu(torch.ops.dualfp.linear(torch.sin(x), *args)) + 1
                torch.testing.assert_close(model(x), eager)


def test_autograd_refuses(nested):
    _, parts = nested
    x = input_of((5, 272)).requires_grad_()
    y = torch.ops.dualfp.linear(x, *planes(parts))
    with pytest.raises(RuntimeError, match="dualfp::linear has no gradient"):
        y.sum().backward()


def test_bad_input(nested):
    weight, parts = nested
    args = planes(parts)
    x = input_of((5, 272))
    linear = torch.ops.dualfp.linear
    for call, message in [
        (lambda: linear(x[:, :271], *args), r"the weight wants \[\.\.\., 272\]"),
        (lambda: linear(x.double(), *args), "x"),
        (lambda: linear(x.to(torch.int64), *args), "x"),
        (lambda: linear(x, args[0], args[1].float(), *args[2:]), "lower"),
        (lambda: linear(x, args[0][0], args[1], *args[2:]), r"\[n, k\]"),
        (lambda: linear(x, args[0], args[1][:, :16], *args[2:]), "lower plane"),
        (lambda: linear(x, *args, torch.zeros(47)), "bias"),
        (lambda: linear(x, *args, None, None, 2), "precision|fp4|FP4"),
        (lambda: torch.ops.dualfp.nest(weight.clone().fill_(float("nan"))), "element 0"),
        (lambda: torch.ops.dualfp.nest(weight * 10), "allowed"),
        (lambda: torch.ops.dualfp.nest12(weight), "bfloat16"),
        (lambda: torch.ops.dualfp.fp16_custom(4, 48, 272, args[0], args[1], x), "M, N, K are 4"),
        (lambda: torch.ops.dualfp.fp8_custom(5, 48, 272, args[0], x), "float8_e4m3fn"),
        (lambda: torch.ops.dualfp.quantize(x.int()), "float16"),
        (lambda: dualfp.set_precision("fp7"), "exact"),
        (lambda: dualfp.precision("fp7").__enter__(), "exact"),
    ]:
        with pytest.raises((RuntimeError, ValueError), match=message):
            call()
    # Nothing of that stays.
    assert dualfp.get_precision() == "exact"
    linear(x, *args)


def test_ctypes_gives_the_same_bits(tmp_path):
    script = """
import torch, dualfp, dualfp.ops
torch.manual_seed(0)
w = torch.randn(48, 272).half()
x = torch.randn(5, 272).half()
u, l, i, v = torch.ops.dualfp.nest(w, 0.2)
ys = []
for precision in ("exact", "fp8"):
    dualfp.set_precision(precision)
    ys.append(torch.ops.dualfp.linear(x, u, l, None, i, v, torch.arange(48.0)))
c, s = torch.ops.dualfp.quantize_weight(w)
ys.append(torch.ops.dualfp.fp8_linear(x, c, s))
torch.save([dualfp.ops.compiled, *ys], "FILE")
"""
    results = []
    for mode in ("", "ctypes"):
        file = tmp_path / f"ys{mode}.pt"
        done = subprocess.run([sys.executable, "-c", script.replace("FILE", str(file))], text=True,
                              stderr=subprocess.PIPE, env={"DUALFP_TORCH_OPS": mode})
        assert done.returncode == 0, done.stderr
        results.append(torch.load(file))
    assert results[0][0] and not results[1][0]
    for compiled, by_ctypes in zip(results[0][1:], results[1][1:]):
        assert torch.equal(compiled, by_ctypes)
