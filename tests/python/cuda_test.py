"""The package on a GPU: against float64 and against the CPU, eager and captured."""

import pytest
import torch
from torch import nn

import dualfp
import dualfp.ops  # noqa: F401
import dualfp.torch as dt
from dualfp import _eager, _native
from reference import assert_rounded, per_token, planes_value, product

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and _native.gpu_count() > 0), reason="needs a GPU and CUDA kernels"
)
DTYPES = [torch.float16, torch.bfloat16]


def weight_of(n, k, dtype):
    weight = (torch.randn(n, k, generator=torch.Generator().manual_seed(0)) * 0.3).clamp(-1.75, 1.75).to(dtype)
    weight[n // 2, k // 2] = 7.5
    return weight


def input_of(m, k, dtype):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(1)).to(dtype)


def planes_of(weight):
    if weight.dtype == torch.bfloat16:
        return torch.ops.dualfp.nest12(weight)
    upper, lower, index, value = torch.ops.dualfp.nest(weight)
    return upper, lower, None, index, value


def assert_fp8(y, want):
    # Tensor cores keep about 14 bits of an FP8 sum.
    assert ((y.double().cpu() - want).norm() / want.norm()).item() < 4e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 5, 64, 300])
def test_linear(m, dtype):
    weight, x = weight_of(256, 512, dtype), input_of(m, 512, dtype)
    planes = planes_of(weight.cuda())
    assert torch.equal(torch.ops.dualfp.merge(*planes).cpu(), weight)
    bias = torch.randn(256)
    y = torch.ops.dualfp.linear(x.cuda(), *planes, bias.cuda())
    assert_rounded(y.cpu(), product(x, weight, bias), x, weight)
    with dualfp.precision("fp8"):
        y8 = torch.ops.dualfp.linear(x.cuda(), *planes, bias.cuda())
        on_cpu = torch.ops.dualfp.linear(x, *planes_of(weight), bias)
    assert_fp8(y8, on_cpu.double())
    if dtype == torch.float16:
        value = planes_value(weight.clamp(-1.75, 1.75))
        value[128, 256] += 5.75
        assert_fp8(y8, product(per_token(x), value, bias))


def test_published_ops():
    weight, x = weight_of(256, 512, torch.float16).clamp(-1.75, 1.75), input_of(5, 512, torch.float16)
    upper, lower, _, _ = torch.ops.dualfp.nest(weight.cuda())
    y = torch.ops.dualfp.fp16_custom(5, 256, 512, upper, lower, x.cuda())
    assert_rounded(y.cpu(), product(x, weight), x, weight)
    x8 = (x * 100).to(torch.float8_e4m3fn)
    assert_fp8(torch.ops.dualfp.fp8_custom(5, 256, 512, upper, x8.cuda()), product(x8, planes_value(weight)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize_gives_the_cpus_codes(dtype):
    x = input_of(33, 512, dtype)
    for arguments in [(), (None, True), (torch.tensor([0.01]),)]:
        on_gpu = [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]
        for gpu, cpu in zip(torch.ops.dualfp.quantize(x.cuda(), *on_gpu), torch.ops.dualfp.quantize(x, *arguments)):
            assert torch.equal(gpu.cpu().view(torch.uint8), cpu.view(torch.uint8))
    codes, _ = torch.ops.dualfp.quantize(x.cuda(), None, False, True)
    assert torch.equal(_eager.kernel_order(_eager.logical_order(codes)).view(torch.uint8), codes.view(torch.uint8))


@pytest.mark.parametrize("precision", ["exact", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_captured_calls_give_the_same_bits(dtype, precision):
    dt.prepare("cuda")
    planes = planes_of(weight_of(256, 512, dtype).cuda())
    x = input_of(8, 512, dtype).cuda()
    with dualfp.precision(precision), torch.no_grad():
        eager = torch.ops.dualfp.linear(x, *planes)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = torch.ops.dualfp.linear(x, *planes)
    for _ in range(3):
        captured.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, eager)


def test_a_state_of_ones_own():
    state = dt.new_stream_state("cuda")
    planes = planes_of(weight_of(256, 512, torch.bfloat16).cuda())
    x = input_of(8, 512, torch.bfloat16).cuda()
    y = torch.ops.dualfp.linear(x, *planes, None, state)
    assert torch.equal(y, torch.ops.dualfp.linear(x, *planes))


@pytest.mark.parametrize("dtype", DTYPES)
def test_modules_move_between_devices(dtype):
    torch.manual_seed(0)
    linear = nn.Linear(512, 256).to(dtype)
    nested = dt.NestedLinear(linear).cuda()
    fp8 = dt.FP8Linear.from_linear(linear, options=dt.FP8GemmOptions(compute_on_cpu=True)).cuda()
    x = input_of(8, 512, dtype)
    with torch.no_grad():
        assert_rounded(nested(x.cuda()).cpu(), product(x, linear.weight, linear.bias), x, linear.weight)
        y = fp8(x.cuda())
        assert torch.equal(nested.weight.cpu(), linear.weight)
        assert torch.equal(fp8.state_dict()["weight"].cpu().view(torch.uint8),
                           torch.ops.dualfp.quantize_weight(linear.weight)[0].view(torch.uint8))
        assert torch.equal(nested.cpu().weight, linear.weight)
        assert_fp8(y, fp8.cpu()(x).double())


def test_bad_input():
    planes = planes_of(weight_of(256, 512, torch.bfloat16).cuda())
    x = input_of(8, 512, torch.bfloat16)
    with pytest.raises(RuntimeError, match="device"):
        torch.ops.dualfp.linear(x, *planes)
    with pytest.raises(RuntimeError, match="multiple of 16"):
        torch.ops.dualfp.nest(torch.zeros(16, 24, device="cuda", dtype=torch.float16))
    with pytest.raises(ValueError, match="NaN or infinite"):
        torch.ops.dualfp.nest(torch.full((16, 32), float("nan"), device="cuda", dtype=torch.float16))
    assert torch.ops.dualfp.linear(x[:0].cuda(), *planes).shape == (0, 256)
    shifted = torch.zeros(8 * 512 + 1, device="cuda", dtype=torch.bfloat16)[1:].view(8, 512).copy_(x)
    assert torch.equal(torch.ops.dualfp.linear(shifted, *planes), torch.ops.dualfp.linear(x.cuda(), *planes))
