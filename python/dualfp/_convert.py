"""torch tensors as the C interface's structs, and what its calls want of a device."""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_int64

import torch

from dualfp import _native

_DTYPES = {
    torch.float32: _native.F32,
    torch.float16: _native.F16,
    torch.bfloat16: _native.BF16,
    torch.float8_e4m3fn: _native.F8_E4M3,
    torch.float8_e5m2: _native.F8_E5M2,
    torch.float8_e8m0fnu: _native.F8_E8M0,
    torch.uint8: _native.U8,
    torch.int8: _native.I8,
    torch.int64: _native.I64,
    torch.int16: _native.U16,
}


def device_index(device: torch.device) -> int:
    if device.type == "cpu":
        return _native.CPU
    if device.type != "cuda":
        raise _native.InvalidArgument(f"dualfp: a tensor on {device}; expected the CPU or a CUDA GPU")
    return torch.cuda.current_device() if device.index is None else device.index


def tensor(value: torch.Tensor | None, dtype: int | None = None) -> _native.Tensor:
    """`dtype` replaces the tensor's own, for bytes that stand for another type."""
    result = _native.Tensor()
    if value is None:
        return result
    code = _DTYPES.get(value.dtype) if dtype is None else dtype
    if code is None:
        raise _native.InvalidArgument(f"dualfp: a tensor of {value.dtype}")
    if not 1 <= value.dim() <= 4:
        raise _native.InvalidArgument(f"dualfp: a tensor of {value.dim()} dimensions")
    # A tensor without elements may have no memory, which would stand for "absent".
    result.data = value.data_ptr() or 256
    result.rank = value.dim()
    result.shape[: value.dim()] = value.shape
    result.strides[: value.dim()] = value.stride()
    result.dtype = code
    result.device = device_index(value.device)
    return result


def stream(device: torch.device) -> int | None:
    return None if device.type == "cpu" else torch.cuda.current_stream(device).cuda_stream


def aligned_bytes(count: int, device: torch.device) -> torch.Tensor:
    """`count` bytes at a multiple of 256."""
    memory = torch.empty(count + 255, dtype=torch.uint8, device=device)
    skip = -memory.data_ptr() % 256
    return memory[skip : skip + count]


_states: dict[tuple[int, int | None], torch.Tensor] = {}
_states_lock = threading.Lock()


def new_stream_state(device: torch.device) -> torch.Tensor:
    """Initialised memory for what kernels keep on one stream; empty where they keep nothing."""
    index = device_index(device)
    wanted = c_int64()
    _native.check(_native.lib.dualfp_stream_state_bytes(index, byref(wanted)))
    if wanted.value == 0:
        return torch.empty(0, dtype=torch.uint8, device=device)
    state = aligned_bytes(wanted.value, device)
    _native.check(_native.lib.dualfp_stream_state_init(index, state.data_ptr(), stream(device)))
    torch.cuda.current_stream(device).synchronize()
    return state


def default_state(device: torch.device) -> torch.Tensor | None:
    """The current stream's; under capture the one that graphs of a device share."""
    if device.type == "cpu":
        return None
    index = device_index(device)
    capturing = torch.cuda.is_current_stream_capturing()
    key = (index, None if capturing else stream(device))
    with _states_lock:
        state = _states.get(key)
        if state is None:
            if capturing:
                raise RuntimeError(
                    "dualfp: the first call on a GPU cannot be captured; call once before, or "
                    "dualfp.torch.prepare(device)"
                )
            state = _states[key] = new_stream_state(device)
            if (index, None) not in _states:
                _states[(index, None)] = new_stream_state(device)
    return state


def gemm(
    x: torch.Tensor,
    weight: _native.Weight,
    y: torch.Tensor,
    *,
    precision: int = _native.EXACT,
    activation_quant: int = _native.PER_TOKEN,
    x_scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
) -> None:
    """y = x weight^T + bias over matrices."""
    args = _native.GemmArgs()
    args.struct_size = ctypes.sizeof(args)
    args.precision = precision
    args.activation_quant = activation_quant
    args.weight = ctypes.pointer(weight)
    args.x = tensor(x)
    args.x_scales = tensor(x_scales)
    args.y = tensor(y)
    args.bias = tensor(bias)
    wanted = c_int64()
    _native.check(_native.lib.dualfp_gemm_workspace_bytes(byref(args), byref(wanted)))
    workspace = aligned_bytes(wanted.value, x.device) if wanted.value > 0 else None
    if workspace is not None:
        args.workspace = workspace.data_ptr()
        args.workspace_bytes = wanted.value
    if x.is_cuda:
        state = default_state(x.device) if state is None else state
        args.stream = stream(x.device)
        args.stream_state = None if state is None else state.data_ptr() or None
    _native.check(_native.lib.dualfp_gemm(byref(args)))


def weight_struct(
    format: int,  # noqa: A002
    n: int,
    k: int,
    values: torch.Tensor,
    lower: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    granularity: int = _native.SCALE_NONE,
    outlier_index: torch.Tensor | None = None,
    outlier_value: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
) -> _native.Weight:
    weight = _native.Weight()
    weight.struct_size = ctypes.sizeof(weight)
    weight.format = format
    weight.granularity = granularity
    weight.n = n
    weight.k = k
    weight.values = tensor(values, None if format == _native.PLAIN else _native.F8_E4M3)
    weight.lower = tensor(lower)
    weight.scales = tensor(scales)
    weight.input_scale = tensor(input_scale)
    if outlier_index is not None and outlier_index.numel() > 0:
        weight.outlier_index = tensor(outlier_index)
        weight.outlier_value = tensor(outlier_value)
    return weight
