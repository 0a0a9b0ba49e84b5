"""python -m dualfp.verify: what works on this machine, and the proof of it.

Prints a line for each thing that a user may count on: "ok", "missing" where this machine or environment
lacks something, with the remedy, or "WRONG". Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from dualfp import _native


class Missing(Exception):
    """What this machine or environment lacks."""


def _machine() -> str:
    gpus = [_native.device_name(i) for i in range(_native.gpu_count())]
    found = ", ".join(gpus) or "no GPU that this build can use"
    return f"dualfp {_native.version()}, {_native.device_name(_native.CPU)}; {found}"


def _torch() -> str:
    try:
        import torch
    except ImportError as error:
        raise Missing(f"{error}; pip install 'torch>=2.11' for dualfp.torch") from None
    from dualfp import ops

    if not ops.compiled:
        raise Missing(f"torch {torch.__version__}: ops go through ctypes: {ops.compiled_missing}")
    return f"torch {torch.__version__}, ops by its stable ABI"


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _close(y: Any, x: Any, weight: Any, what: str) -> float:
    """y against x weight^T in float64; the largest part of the allowed error."""
    import torch

    want = x.double() @ weight.double().T
    bound = 1e-5 * (x.double().abs() @ weight.double().abs().T) + torch.finfo(y.dtype).eps * want.abs()
    part = ((y.double() - want).abs() / (bound + 1e-30)).max().item()
    _require(part <= 1, f"{what}: off by {part:.2f} times what rounding explains")
    return part


def _ops(device: str, dtype_name: str) -> str:
    import torch

    import dualfp
    import dualfp.ops  # noqa: F401

    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(256, 512, generator=generator) * 0.2).to(dtype)
    weight[3, 5] = 6.0
    x = torch.randn(33, 512, generator=generator).to(dtype)
    on = weight.to(device)
    if dtype == torch.float16:
        upper, lower, index, value = torch.ops.dualfp.nest(on)
        planes = (upper, lower, None, index, value)
        scale = torch.full((256, 1), 1 / 256, dtype=torch.float64)
    else:
        planes = torch.ops.dualfp.nest12(on)
        amax = weight.double().abs().amax(1, keepdim=True)
        scale = 2 ** (-8 - torch.floor(torch.log2(1.75 / amax)))
    _require(torch.equal(torch.ops.dualfp.merge(*planes).cpu(), weight), "planes do not merge back")
    _close(torch.ops.dualfp.linear(x.to(device), *planes).cpu(), x, weight, "exact")

    from dualfp import _eager

    upper = planes[0]
    codes = _eager.logical_order(upper) if upper.is_cuda else upper
    fp8_weight = codes.cpu().double() * scale
    if dtype == torch.float16:
        fp8_weight[3, 5] += 6.0 - 1.75
    amax = x.float().abs().amax(1, keepdim=True)
    seen = (x.float() / (amax / 448)).to(torch.float8_e4m3fn).double() * (amax / 448).double()
    with dualfp.precision("fp8"):
        y = torch.ops.dualfp.linear(x.to(device), *planes).cpu()
    if device == "cpu":
        _close(y, seen, fp8_weight, "fp8")
    else:  # tensor cores keep about 14 bits of an FP8 sum
        want = seen @ fp8_weight.T
        error = ((y.double() - want).norm() / want.norm()).item()
        _require(error < 4e-3, f"fp8: relative error {error:.1e}")
    return "planes merge back; exact and fp8 products are those of float64"


def _fp8_linear(device: str) -> str:
    import torch

    import dualfp.torch as dt

    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 64).to(device, torch.bfloat16)
    x = torch.randn(8, 128, device=device, dtype=torch.bfloat16)
    with torch.no_grad():
        want = linear(x).float()
        module = dt.enable_fp8_gemm(
            torch.nn.Sequential(linear), options=dt.FP8GemmOptions(compute_on_cpu=True)
        )
        error = ((module(x).float() - want).norm() / want.norm()).item()
    _require(error < 0.06, f"relative error {error:.3f}")
    return f"FP8Linear within {error:.1%} of nn.Linear"


def _graph(device: str) -> str:
    import torch

    import dualfp.torch as dt

    dt.prepare(device)
    linear = dt.NestedLinear(torch.nn.Linear(256, 256).to(device, torch.bfloat16))
    x = torch.randn(16, 256, device=device, dtype=torch.bfloat16)
    with torch.no_grad():
        eager = linear(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = linear(x)
        graph.replay()
        torch.cuda.synchronize(device)
    _require(torch.equal(eager, captured), "a captured call differs from an eager one")
    return "captured calls give the same bits"


def _engine() -> str:
    from dualfp import _engine

    _engine._load()
    return "dualfp.LLM is there"


def _checks() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "machine", _machine
    yield "engine", _engine
    yield "torch", _torch
    try:
        import torch
    except ImportError:
        return
    devices = ["cpu"]
    if torch.cuda.is_available() and _native.gpu_count() > 0:
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    for device in devices:
        for dtype in ("float16", "bfloat16"):
            yield f"{device} {dtype}", functools.partial(_ops, device, dtype)
        yield f"{device} FP8Linear", functools.partial(_fp8_linear, device)
        if device != "cpu":
            yield f"{device} graphs", functools.partial(_graph, device)


def main() -> int:
    wrong = 0
    for name, check in _checks():
        try:
            print(f"{name:18} ok       {check()}")
        except (Missing, NotImplementedError, ImportError) as error:
            print(f"{name:18} missing  {error}")
        except Exception as error:  # noqa: BLE001  whatever it is, it is a result
            wrong += 1
            print(f"{name:18} WRONG    {type(error).__name__}: {error}")
            traceback.print_exc()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
