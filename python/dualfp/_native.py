"""libdualfp_c by ctypes: the structs of dualfp.h, its functions, and status codes as exceptions."""

from __future__ import annotations

import ctypes
import os
import pathlib
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64
from ctypes import c_void_p
from typing import Any, NoReturn

ABI_VERSION = 1

# dualfp_dtype
F32, F16, BF16, F8_E4M3, F8_E5M2, F8_E8M0, U8, I8, I64, U16 = range(10)
# dualfp_precision
EXACT, FP8, FP4 = range(3)
# dualfp_format
PLAIN, NESTED, NESTED12, FORMAT_FP8 = range(4)
# dualfp_granularity
SCALE_NONE, SCALE_PER_TENSOR, SCALE_PER_CHANNEL, SCALE_BLOCK128, SCALE_GROUP = range(5)
# dualfp_activation_quant
PER_TOKEN, PER_TENSOR, STATIC, WEIGHT_ONLY, PER_GROUP = range(5)
CPU = -1
PER_TENSOR_SCRATCH = 1024

# dualfp_status
INVALID_ARGUMENT, NOT_FOUND, INVALID_DATA, UNSUPPORTED, RESOURCE_EXHAUSTED = range(1, 6)


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("shape", c_int64 * 4),
        ("strides", c_int64 * 4),
        ("rank", c_int32),
        ("dtype", c_int32),
        ("device", c_int32),
        ("reserved", c_int32),
    ]


class Weight(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("format", c_int32),
        ("granularity", c_int32),
        ("reserved", c_int32),
        ("n", c_int64),
        ("k", c_int64),
        ("values", Tensor),
        ("lower", Tensor),
        ("scales", Tensor),
        ("global_scale", Tensor),
        ("input_scale", Tensor),
        ("outlier_index", Tensor),
        ("outlier_value", Tensor),
    ]


class GemmArgs(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("precision", c_int32),
        ("activation_quant", c_int32),
        ("promoted", c_int32),
        ("silu_mul", c_int32),
        ("reserved", c_int32),
        ("weight", POINTER(Weight)),
        ("x", Tensor),
        ("x_scales", Tensor),
        ("y", Tensor),
        ("bias", Tensor),
        ("residual", Tensor),
        ("stream", c_void_p),
        ("stream_state", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_int64),
    ]


class PlaneCounts(ctypes.Structure):
    _fields_ = [
        ("outliers", c_uint64),
        ("non_finite", c_uint64),
        ("not_before", c_uint64),
        ("rounded", c_uint64),
        ("invalid", c_uint64),
        ("largest_error", c_float),
        ("reserved", c_uint32),
    ]


def _folder() -> pathlib.Path:
    """Where the package's shared libraries lie; DUALFP_LIBRARY_DIR names another place."""
    return pathlib.Path(os.environ.get("DUALFP_LIBRARY_DIR", pathlib.Path(__file__).parent / "lib"))


def library_path(name: str) -> pathlib.Path:
    return _folder() / name


_TENSOR = POINTER(Tensor)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "dualfp_abi_version": (c_int32, []),
    "dualfp_version": (c_char_p, []),
    "dualfp_last_error": (c_char_p, []),
    "dualfp_gpu_count": (c_int32, []),
    "dualfp_compute_capability": (c_int32, [c_int32, POINTER(c_int32)]),
    "dualfp_device_name": (c_int32, [c_int32, c_char_p, c_size_t]),
    "dualfp_set_num_threads": (c_int32, [c_int32]),
    "dualfp_stream_state_bytes": (c_int32, [c_int32, POINTER(c_int64)]),
    "dualfp_stream_state_init": (c_int32, [c_int32, c_void_p, c_void_p]),
    "dualfp_gemm_workspace_bytes": (c_int32, [POINTER(GemmArgs), POINTER(c_int64)]),
    "dualfp_gemm": (c_int32, [POINTER(GemmArgs)]),
    "dualfp_gemm_kernel": (c_int32, [POINTER(GemmArgs), c_char_p, c_size_t]),
    "dualfp_quantize": (c_int32, [_TENSOR, c_int32, _TENSOR, _TENSOR, _TENSOR, c_void_p]),
    "dualfp_quantize_weight": (c_int32, [_TENSOR, c_int32, c_int32, _TENSOR, _TENSOR, _TENSOR]),
    "dualfp_nest": (c_int32, [_TENSOR] * 5 + [c_void_p, c_void_p]),
    "dualfp_nest12": (c_int32, [_TENSOR] * 6 + [c_void_p, c_void_p]),
    "dualfp_nibble_bytes": (c_int64, [c_int32, c_int64, c_int64]),
    "dualfp_nest12_batches": (
        c_int32,
        [c_int64, c_int64, c_void_p, c_void_p, c_int64, c_void_p, c_int64, POINTER(c_int64)],
    ),
    "dualfp_merge": (c_int32, [POINTER(Weight), _TENSOR, c_void_p]),
    "dualfp_planes_to_device": (c_int32, [_TENSOR, _TENSOR, c_void_p]),
}


def _load() -> ctypes.CDLL:
    path = library_path("libdualfp_c.so.1")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"dualfp: cannot load {path}: {error}") from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    found = library.dualfp_abi_version()
    if found != ABI_VERSION:
        raise ImportError(
            f"dualfp: {path} speaks version {found} of the C interface, this package {ABI_VERSION}"
        )
    return library


class InvalidArgument(ValueError, RuntimeError):
    """An argument that no op takes. A RuntimeError too, as torch's own ops raise."""


lib = _load()


def check(status: int) -> None:
    """Raises what a status stands for, with the library's message."""
    if status != 0:
        raise_status(status, lib.dualfp_last_error().decode(errors="replace"))


def raise_status(status: int, message: str) -> NoReturn:
    if status in (INVALID_ARGUMENT, INVALID_DATA):
        raise InvalidArgument(message)
    if status == NOT_FOUND:
        raise LookupError(message)
    if status == UNSUPPORTED:
        raise NotImplementedError(message)
    if status == RESOURCE_EXHAUSTED:
        raise MemoryError(message)
    raise RuntimeError(message)


def version() -> str:
    return lib.dualfp_version().decode()


def gpu_count() -> int:
    return lib.dualfp_gpu_count()


def compute_capability(device: int) -> int:
    """90 for 9.0; of the CPU (device -1) 0."""
    capability = c_int32()
    check(lib.dualfp_compute_capability(device, byref(capability)))
    return capability.value


def device_name(device: int) -> str:
    name = ctypes.create_string_buffer(256)
    check(lib.dualfp_device_name(device, name, len(name)))
    return name.value.decode()


def set_num_threads(threads: int) -> None:
    """CPU threads that all ops share; 0: one a core."""
    check(lib.dualfp_set_num_threads(threads))
