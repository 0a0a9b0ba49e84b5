"""torch.ops.dualfp: schemas, implementations, fake implementations and what autograd says.

Importing this module registers everything. The ops that a model calls at every step are compiled
against torch's stable ABI (csrc/torch_ops.cc) where that loads; `compiled` says whether it did, and
`compiled_missing` why not. docs/python.md describes each op.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import torch

from dualfp import _eager, _native, _precision

_PLANES = "Tensor upper, Tensor lower, Tensor? scales=None, Tensor? outlier_index=None, Tensor? outlier_value=None"
_SCHEMAS = {
    "linear": f"(Tensor x, {_PLANES}, Tensor? bias=None, Tensor? state=None, int precision=-1) -> Tensor",
    "fp8_linear": "(Tensor x, Tensor weight, Tensor scales, Tensor? bias=None, "
    "Tensor? input_scale=None, Tensor? state=None) -> Tensor",
    "fp8_linear_quantized": "(Tensor codes, Tensor x_scales, Tensor weight, Tensor scales, "
    "Tensor? bias, ScalarType dtype, Tensor? state=None) -> Tensor",
    "quantize": "(Tensor x, Tensor? static_scale=None, bool per_tensor=False, "
    "bool kernel_order=False) -> (Tensor, Tensor)",
    "dequantize": "(Tensor codes, Tensor scales, ScalarType dtype=float) -> Tensor",
    "quantize_weight": "(Tensor weight, bool per_channel=True) -> (Tensor, Tensor)",
    "nest": "(Tensor weight, float max_outlier_share=0.01) -> (Tensor, Tensor, Tensor, Tensor)",
    "nest12": "(Tensor weight, float max_outlier_share=0.01) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "merge": f"({_PLANES}) -> Tensor",
    "fp16_custom": "(SymInt M, SymInt N, SymInt K, Tensor upper, Tensor lower, Tensor x) -> Tensor",
    "fp8_custom": "(SymInt M, SymInt N, SymInt K, Tensor upper, Tensor x8) -> Tensor",
}
# Those that csrc/torch_ops.cc implements.
_COMPILED = ("linear", "fp8_linear", "fp8_linear_quantized")

_library = torch.library.Library("dualfp", "DEF")


def _fake_rows(x: torch.Tensor, n: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], n), dtype=x.dtype if dtype is None else dtype)


def _fake_quantize(x, static_scale=None, per_tensor=False, kernel_order=False):  # noqa: ANN001
    return (
        torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device),
        x.new_empty(x.shape[:-1], dtype=torch.float32),
    )


def _fake_outliers(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        weight.new_empty((count,), dtype=torch.int64),
        weight.new_empty((count,), dtype=torch.float32),
    )


def _fake_nest(weight, max_outlier_share=0.01):  # noqa: ANN001
    planes = [
        torch.empty(weight.shape, dtype=dtype, device=weight.device)
        for dtype in (torch.float8_e4m3fn, torch.uint8)
    ]
    return (*planes, *_fake_outliers(weight))


def _fake_nest12(weight, max_outlier_share=0.01):  # noqa: ANN001
    n, k = weight.shape
    upper = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    if weight.device.type == "cuda":
        lower = weight.new_empty(((k + 127) // 128 * n * 64,), dtype=torch.uint8)
        scales = weight.new_empty((n,), dtype=torch.float32)
        rows = torch.library.get_ctx().new_dynamic_size()
        index = weight.new_empty((rows, 32), dtype=torch.int64)
        return upper, lower, scales, index, weight.new_empty((0,), dtype=torch.float32)
    lower = weight.new_empty((n, (k + 1) // 2), dtype=torch.uint8)
    return upper, lower, weight.new_empty((n,), dtype=torch.int8), *_fake_outliers(weight)


_FAKES: dict[str, Callable[..., Any]] = {
    "linear": lambda x, upper, *_, **__: _fake_rows(x, upper.shape[0]),
    "fp8_linear": lambda x, weight, *_, **__: _fake_rows(x, weight.shape[0]),
    "fp8_linear_quantized": lambda codes, x_scales, weight, scales, bias, dtype, state=None: (
        _fake_rows(codes, weight.shape[0], dtype)
    ),
    "quantize": _fake_quantize,
    "dequantize": lambda codes, scales, dtype=torch.float32: torch.empty(
        codes.shape, dtype=dtype, device=codes.device
    ),
    "quantize_weight": lambda weight, per_channel=True: (
        torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device),
        weight.new_empty((weight.shape[0] if per_channel else 1,), dtype=torch.float32),
    ),
    "nest": _fake_nest,
    "nest12": _fake_nest12,
    "merge": lambda upper, lower, scales=None, *_, **__: torch.empty(
        upper.shape,
        dtype=torch.float16 if scales is None else torch.bfloat16,
        device=upper.device,
    ),
    "fp16_custom": lambda M, N, K, upper, lower, x: x.new_empty((M, N)),
    "fp8_custom": lambda M, N, K, upper, x8: x8.new_empty((M, N), dtype=torch.float16),
}


def _refuse(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            f"dualfp::{name} has no gradient: its weights are fixed codes. Call it under "
            "torch.no_grad(), or train the module that it replaced."
        )

    return backward


def _load_compiled() -> str:
    """Empty, or why the compiled ops are not in use."""
    if os.environ.get("DUALFP_TORCH_OPS") == "ctypes":
        return "DUALFP_TORCH_OPS=ctypes"
    path = _native.library_path("_torch_ops.so")
    if not path.exists():
        return f"{path.name} was not built: torch's headers were not found"
    try:
        torch.ops.load_library(str(path))
        tell = ctypes.CDLL(str(path)).dualfp_torch_set_precision
    except (OSError, AttributeError) as error:
        return f"torch {torch.__version__} cannot load {path.name}: {error}"
    tell.argtypes = [ctypes.c_int32, ctypes.c_int32]
    tell.restype = None
    _precision.add_listener(tell)
    return ""


for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
compiled_missing = _load_compiled()
compiled = not compiled_missing
for _name in _SCHEMAS:
    if not (compiled and _name in _COMPILED):
        for _key in ("CPU", "CUDA"):
            _library.impl(_name, getattr(_eager, _name), _key)
    _library._register_fake(_name, _FAKES[_name])
    torch.library.register_autograd(f"dualfp::{_name}", _refuse(_name), lib=_library)
