"""Linear layers of PyTorch models at FP8, or exact and FP8 from one copy of the weights.

    import dualfp
    import dualfp.torch

    dualfp.torch.enable_dual_precision(model)      # NestedLinear: exact until told otherwise
    with dualfp.precision("fp8"):
        model(inputs)

    dualfp.torch.enable_fp8_gemm(model)            # FP8Linear: FP8 alone, half the memory

Importing this package registers torch.ops.dualfp. docs/python.md has the whole story.
"""

from __future__ import annotations

import torch as _torch

from dualfp import _convert
from dualfp import ops as _ops  # noqa: F401  registers torch.ops.dualfp
from dualfp._precision import get_precision, precision, set_precision
from dualfp.torch.fp8_linear import FP8GemmOptions, FP8Linear
from dualfp.torch.nested_linear import NestedLinear
from dualfp.torch.replace import Decision, Report, enable_dual_precision, enable_fp8_gemm
from dualfp.torch.shared_input import SharedInputFP8Linear

__all__ = [
    "Decision",
    "FP8GemmOptions",
    "FP8Linear",
    "NestedLinear",
    "Report",
    "SharedInputFP8Linear",
    "enable_dual_precision",
    "enable_fp8_gemm",
    "get_precision",
    "new_stream_state",
    "precision",
    "prepare",
    "set_precision",
]


def new_stream_state(device: _torch.device | str) -> _torch.Tensor:
    """Memory for what kernels keep on one stream of a GPU, initialised; the ops' `state`.

    Ops that are given none use one for each stream and one that all captured graphs of a device
    share. Pass states of your own where graphs run at the same time. Waits for the device."""
    return _convert.new_stream_state(_torch.device(device))


def prepare(device: _torch.device | str) -> None:
    """Everything that a first call on a device would do, so that it can be captured."""
    device = _torch.device(device)
    if device.type == "cuda":
        with _torch.cuda.device(device):
            weight = _torch.zeros(16, 16, dtype=_torch.float8_e4m3fn, device=device)
            scales = _torch.ones(16, device=device)
            x = _torch.zeros(1, 16, dtype=_torch.float16, device=device)
            _torch.ops.dualfp.fp8_linear(x, weight, scales)
            _convert.default_state(device)
            _torch.cuda.synchronize(device)
