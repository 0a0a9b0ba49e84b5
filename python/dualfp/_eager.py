"""The ops by way of ctypes: all of them where torch cannot load the compiled ones, and those that
prepare weights everywhere."""

from __future__ import annotations

import ctypes
from ctypes import byref

import torch

from dualfp import _convert, _native, _precision

_CODES = (torch.float8_e4m3fn, torch.uint8)  # bytes stand for codes, as some checkpoints have them
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def _matrix(x: torch.Tensor) -> torch.Tensor:
    """[..., k] as rows that kernels can read: contiguous columns, on a GPU rows at 16 bytes."""
    if x.dim() == 0:
        raise _native.InvalidArgument("dualfp: x has no dimensions; expected [..., k]")
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[1] > 1 and rows.stride(1) != 1 or rows.shape[0] > 1 and rows.stride(0) < rows.shape[1]:
        return rows.contiguous()
    if rows.is_cuda:
        size = rows.element_size()
        if rows.data_ptr() % 16 or (rows.shape[0] > 1 and rows.stride(0) * size % 16):
            return rows.clone(memory_format=torch.contiguous_format)
    return rows


def _check_x(x: torch.Tensor, k: int, device: torch.device, op: str) -> None:
    if x.dtype not in _FLOATS:
        raise _native.InvalidArgument(f"dualfp::{op}: x is {x.dtype}; expected float16, bfloat16 or float32")
    if x.dim() == 0 or x.shape[-1] != k:
        raise _native.InvalidArgument(f"dualfp::{op}: x is {list(x.shape)}; the weight wants [..., {k}]")
    if x.device != device:
        raise _native.InvalidArgument(f"dualfp::{op}: x is on {x.device}, the weight on {device}")


def _check_bias(bias: torch.Tensor | None, n: int, device: torch.device, op: str) -> None:
    if bias is not None and (
        bias.dtype != torch.float32 or tuple(bias.shape) != (n,) or bias.device != device
    ):
        raise _native.InvalidArgument(
            f"dualfp::{op}: bias is {bias.dtype} {list(bias.shape)} on {bias.device}; "
            f"expected float32 [{n}] on {device}"
        )


def _planes(
    upper: torch.Tensor,
    lower: torch.Tensor,
    scales: torch.Tensor | None,
    outlier_index: torch.Tensor | None,
    outlier_value: torch.Tensor | None,
    op: str,
) -> _native.Weight:
    if upper.dim() != 2 or upper.dtype not in _CODES:
        raise _native.InvalidArgument(
            f"dualfp::{op}: upper is {upper.dtype} {list(upper.shape)}; "
            "expected float8_e4m3fn or uint8 [n, k]"
        )
    if lower.dtype != torch.uint8 or lower.device != upper.device:
        raise _native.InvalidArgument(f"dualfp::{op}: lower is {lower.dtype}; expected uint8 beside upper")
    n, k = upper.shape
    # A GPU's remainders of 12-bit planes come packed, without values of their own.
    packed = scales is not None and upper.is_cuda
    return _convert.weight_struct(
        _native.NESTED if scales is None else _native.NESTED12,
        n,
        k,
        upper,
        lower,
        scales,
        outlier_index=outlier_index,
        outlier_value=None if packed else outlier_value,
    )


def linear(
    x: torch.Tensor,
    upper: torch.Tensor,
    lower: torch.Tensor,
    scales: torch.Tensor | None = None,
    outlier_index: torch.Tensor | None = None,
    outlier_value: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
    precision: int = -1,
) -> torch.Tensor:
    weight = _planes(upper, lower, scales, outlier_index, outlier_value, "linear")
    _check_x(x, weight.k, upper.device, "linear")
    _check_bias(bias, weight.n, upper.device, "linear")
    rows = _matrix(x)
    y = torch.empty(rows.shape[0], weight.n, dtype=x.dtype, device=x.device)
    _convert.gemm(
        rows,
        weight,
        y,
        precision=_precision.current_code() if precision < 0 else precision,
        bias=bias,
        state=state,
    )
    return y.view(*x.shape[:-1], weight.n)


def fp8_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
) -> torch.Tensor:
    struct = _codes(weight, scales, input_scale, "fp8_linear")
    _check_x(x, struct.k, weight.device, "fp8_linear")
    _check_bias(bias, struct.n, weight.device, "fp8_linear")
    rows = _matrix(x)
    y = torch.empty(rows.shape[0], struct.n, dtype=x.dtype, device=x.device)
    quant = _native.PER_TOKEN if input_scale is None else _native.STATIC
    _convert.gemm(
        rows, struct, y, precision=_native.FP8, activation_quant=quant, bias=bias, state=state
    )
    return y.view(*x.shape[:-1], struct.n)


def _codes(
    weight: torch.Tensor, scales: torch.Tensor, input_scale: torch.Tensor | None, op: str
) -> _native.Weight:
    if weight.dim() != 2 or weight.dtype not in _CODES:
        raise _native.InvalidArgument(
            f"dualfp::{op}: the weight is {weight.dtype} {list(weight.shape)}; "
            "expected float8_e4m3fn or uint8 [n, k]"
        )
    n, k = weight.shape
    if scales.numel() == 1:
        granularity = _native.SCALE_PER_TENSOR
    elif scales.numel() == n:
        granularity = _native.SCALE_PER_CHANNEL
    else:
        raise _native.InvalidArgument(
            f"dualfp::{op}: {scales.numel()} scales for {n} rows; expected 1 or {n}"
        )
    return _convert.weight_struct(
        _native.FORMAT_FP8,
        n,
        k,
        weight,
        scales=scales.reshape(-1),
        granularity=granularity,
        input_scale=None if input_scale is None else input_scale.reshape(-1),
    )


def fp8_linear_quantized(
    codes: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    state: torch.Tensor | None = None,
) -> torch.Tensor:
    struct = _codes(weight, scales, None, "fp8_linear_quantized")
    _check_bias(bias, struct.n, weight.device, "fp8_linear_quantized")
    if codes.dtype not in _CODES or codes.shape[-1] != struct.k:
        raise _native.InvalidArgument(
            f"dualfp::fp8_linear_quantized: codes are {codes.dtype} {list(codes.shape)}; "
            f"expected float8_e4m3fn or uint8 [..., {struct.k}]"
        )
    rows = codes.view(torch.float8_e4m3fn).reshape(-1, codes.shape[-1])
    y = torch.empty(rows.shape[0], struct.n, dtype=dtype, device=codes.device)
    _convert.gemm(
        rows,
        struct,
        y,
        precision=_native.FP8,
        x_scales=x_scales.reshape(-1),
        bias=bias,
        state=state,
    )
    return y.view(*codes.shape[:-1], struct.n)


def quantize(
    x: torch.Tensor,
    static_scale: torch.Tensor | None = None,
    per_tensor: bool = False,
    kernel_order: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_x(x, x.shape[-1] if x.dim() else 0, x.device, "quantize")
    if static_scale is not None and per_tensor:
        raise _native.InvalidArgument("dualfp::quantize: a static scale is per tensor already")
    rows = _matrix(x)
    codes = torch.empty(rows.shape, dtype=torch.float8_e4m3fn, device=x.device)
    mode = _native.PER_TENSOR if per_tensor else _native.PER_TOKEN
    if static_scale is not None:
        mode = _native.STATIC
        static_scale = static_scale.reshape(-1)
    floats = max(rows.shape[0], _native.PER_TENSOR_SCRATCH if per_tensor and x.is_cuda else 0)
    scales = torch.empty(floats, dtype=torch.float32, device=x.device)
    _native.check(
        _native.lib.dualfp_quantize(
            byref(_convert.tensor(rows)),
            mode,
            byref(_convert.tensor(static_scale)),
            byref(_convert.tensor(codes)),
            byref(_convert.tensor(scales)),
            _convert.stream(x.device),
        )
    )
    if per_tensor and x.is_cuda:
        scales = scales[:1].expand(rows.shape[0]).contiguous()
    if x.is_cuda and not kernel_order:
        codes = logical_order(codes)
    return codes.view(x.shape), scales.view(x.shape[:-1])


# Byte 4t + j of 16 holds column {2t, 2t + 1, 2t + 8, 2t + 9}[j].
_KERNEL_COLUMNS = [(2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9)[j] for t in range(4) for j in range(4)]


def logical_order(codes: torch.Tensor) -> torch.Tensor:
    """Codes of a GPU's kernels, in the order of their columns."""
    place = torch.empty(16, dtype=torch.int64)
    place[torch.tensor(_KERNEL_COLUMNS)] = torch.arange(16)
    rows, columns = codes.shape
    grouped = codes.view(torch.uint8).view(rows, columns // 16, 16)
    return grouped[:, :, place.to(codes.device)].reshape(rows, columns).view(codes.dtype)


def kernel_order(codes: torch.Tensor) -> torch.Tensor:
    """The inverse."""
    rows, columns = codes.shape
    grouped = codes.view(torch.uint8).view(rows, columns // 16, 16)
    places = torch.tensor(_KERNEL_COLUMNS, device=codes.device)
    return grouped[:, :, places].reshape(rows, columns).view(codes.dtype)


def dequantize(
    codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    if codes.dtype not in _CODES or scales.shape != codes.shape[:-1]:
        raise _native.InvalidArgument(
            f"dualfp::dequantize: codes {codes.dtype} {list(codes.shape)} and scales "
            f"{list(scales.shape)}; expected float8_e4m3fn or uint8 [..., k] and [...]"
        )
    return (codes.view(torch.float8_e4m3fn).to(torch.float32) * scales.unsqueeze(-1)).to(dtype)


def quantize_weight(
    weight: torch.Tensor, per_channel: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    if weight.dim() != 2 or weight.dtype not in _FLOATS:
        raise _native.InvalidArgument(
            f"dualfp::quantize_weight: the weight is {weight.dtype} {list(weight.shape)}; "
            "expected float16, bfloat16 or float32 [n, k]"
        )
    source = weight.detach().contiguous()
    if not torch.isfinite(source).all():
        raise _native.InvalidArgument(
            "dualfp::quantize_weight: the weight has NaN or infinite elements"
        )
    if source.is_cuda and source.dtype == torch.float32:
        amax = source.abs().amax(1) if per_channel else source.abs().amax().reshape(1)
        scales = torch.where(amax == 0, torch.ones_like(amax), amax / 448)
        codes = (source / scales.unsqueeze(1)).clamp(-448, 448).to(torch.float8_e4m3fn)
        return kernel_order(codes), scales
    if source.is_cuda:
        # Rows of a weight are quantized as rows of activations are: max |w| / 448.
        codes, scales = torch.ops.dualfp.quantize(source, None, not per_channel, True)
        return codes, scales if per_channel else scales[:1].clone()
    codes = torch.empty(source.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(source.shape[0] if per_channel else 1, dtype=torch.float32)
    _native.check(
        _native.lib.dualfp_quantize_weight(
            byref(_convert.tensor(source)),
            _native.FORMAT_FP8,
            _native.SCALE_PER_CHANNEL if per_channel else _native.SCALE_PER_TENSOR,
            byref(_convert.tensor(codes)),
            byref(_convert.tensor(scales)),
            None,
        )
    )
    return codes, scales


def _check_weight(weight: torch.Tensor, dtypes: tuple[torch.dtype, ...], op: str) -> torch.Tensor:
    if weight.dim() != 2 or weight.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise _native.InvalidArgument(
            f"dualfp::{op}: the weight is {weight.dtype} {list(weight.shape)}; "
            f"expected {names} [n, k]"
        )
    return weight.detach().contiguous()


class _Lists:
    """Room for outliers, the counts of a split, and what they say."""

    def __init__(self, source: torch.Tensor, share: float, value_dtype: torch.dtype) -> None:
        self.room = max(1, int(source.numel() * share))
        self.index = torch.empty(self.room, dtype=torch.int64, device=source.device)
        self.value = torch.empty(self.room, dtype=value_dtype, device=source.device)
        self._counts = torch.zeros(
            ctypes.sizeof(_native.PlaneCounts), dtype=torch.uint8, device=source.device
        )

    @property
    def pointer(self) -> int:
        return self._counts.data_ptr()

    def found(self, op: str, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Sorted. Waits for a GPU."""
        counts = _native.PlaneCounts.from_buffer_copy(bytes(self._counts.tolist()))
        if counts.non_finite:
            first = ~counts.not_before & (2**64 - 1)
            raise _native.InvalidArgument(
                f"dualfp::{op}: {counts.non_finite} elements are NaN or infinite, the first at "
                f"[{first // columns}, {first % columns}]"
            )
        if counts.outliers > self.room:
            raise _native.InvalidArgument(
                f"dualfp::{op}: {counts.outliers} elements that the planes do not hold, more than "
                f"the {self.room} allowed"
            )
        order = torch.argsort(self.index[: counts.outliers])
        return self.index[order], self.value[order]


def nest(
    weight: torch.Tensor, max_outlier_share: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    source = _check_weight(weight, _FLOATS, "nest")
    upper = torch.empty(source.shape, dtype=torch.float8_e4m3fn, device=source.device)
    lower = torch.empty(source.shape, dtype=torch.uint8, device=source.device)
    lists = _Lists(source, max_outlier_share, torch.float32)
    _native.check(
        _native.lib.dualfp_nest(
            byref(_convert.tensor(source)),
            byref(_convert.tensor(upper)),
            byref(_convert.tensor(lower)),
            byref(_convert.tensor(lists.index)),
            byref(_convert.tensor(lists.value)),
            lists.pointer,
            _convert.stream(source.device),
        )
    )
    index, value = lists.found("nest", source.shape[1])
    return upper, lower, index, value


def nest12(
    weight: torch.Tensor, max_outlier_share: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    source = _check_weight(weight, (torch.bfloat16,), "nest12")
    device = source.device
    n, k = source.shape
    upper = torch.empty(source.shape, dtype=torch.float8_e4m3fn, device=device)
    size = _native.lib.dualfp_nibble_bytes(_convert.device_index(device), n, k)
    lower = torch.empty(size, dtype=torch.uint8, device=device)
    scales = torch.empty(n, dtype=torch.float32 if source.is_cuda else torch.int8, device=device)
    if not source.is_cuda:
        lower = lower.view(n, (k + 1) // 2)
    lists = _Lists(source, max_outlier_share, torch.int16 if source.is_cuda else torch.float32)
    _native.check(
        _native.lib.dualfp_nest12(
            byref(_convert.tensor(source)),
            byref(_convert.tensor(upper)),
            byref(_convert.tensor(lower)),
            byref(_convert.tensor(scales)),
            byref(_convert.tensor(lists.index)),
            byref(_convert.tensor(lists.value)),
            lists.pointer,
            _convert.stream(device),
        )
    )
    index, value = lists.found("nest12", k)
    if source.is_cuda:
        index, value = _batches(n, k, index, value)
    return upper, lower, scales, index, value


def _batches(
    n: int, k: int, index: torch.Tensor, bits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A GPU's form of the remainders: packed, with nothing left for a list of values."""
    host_index = index.cpu()
    host_bits = bits.cpu()
    rows = ctypes.c_int64()
    capacity = 0
    packed = torch.empty(0, 32, dtype=torch.int64)
    while True:
        _native.check(
            _native.lib.dualfp_nest12_batches(
                n,
                k,
                host_index.data_ptr(),
                host_bits.data_ptr(),
                host_index.numel(),
                packed.data_ptr(),
                capacity,
                byref(rows),
            )
        )
        if rows.value <= capacity:
            empty = torch.empty(0, dtype=torch.float32, device=index.device)
            return packed.to(index.device), empty
        capacity = rows.value
        packed = torch.empty(capacity, 32, dtype=torch.int64)


def merge(
    upper: torch.Tensor,
    lower: torch.Tensor,
    scales: torch.Tensor | None = None,
    outlier_index: torch.Tensor | None = None,
    outlier_value: torch.Tensor | None = None,
) -> torch.Tensor:
    weight = _planes(upper, lower, scales, outlier_index, outlier_value, "merge")
    dtype = torch.float16 if scales is None else torch.bfloat16
    out = torch.empty(upper.shape, dtype=dtype, device=upper.device)
    _native.check(
        _native.lib.dualfp_merge(
            byref(weight), byref(_convert.tensor(out)), _convert.stream(upper.device)
        )
    )
    if upper.is_cuda and scales is None and outlier_index is not None and outlier_value is not None:
        flat = out.view(-1)
        exact = flat[outlier_index].float() + outlier_value
        flat[outlier_index] = exact.to(dtype)
    return out


def fp16_custom(
    M: int, N: int, K: int, upper: torch.Tensor, lower: torch.Tensor, x: torch.Tensor  # noqa: N803
) -> torch.Tensor:
    _check_published("fp16_custom", M, N, K, upper, x)
    return linear(x, upper, lower, precision=_native.EXACT)


def fp8_custom(
    M: int, N: int, K: int, upper: torch.Tensor, x8: torch.Tensor  # noqa: N803
) -> torch.Tensor:
    _check_published("fp8_custom", M, N, K, upper, x8)
    if x8.dtype not in _CODES:
        raise _native.InvalidArgument(f"dualfp::fp8_custom: x8 is {x8.dtype}; expected float8_e4m3fn")
    x8 = x8.view(torch.float8_e4m3fn)
    weight = _convert.weight_struct(_native.NESTED, N, K, upper, upper.view(torch.uint8))
    y = torch.empty(M, N, dtype=torch.float16, device=x8.device)
    ones = torch.ones(M, dtype=torch.float32, device=x8.device)
    codes = kernel_order(x8.contiguous()) if x8.is_cuda else x8.contiguous()
    _convert.gemm(codes, weight, y, precision=_native.FP8, x_scales=ones)
    return y


def _check_published(
    op: str, m: int, n: int, k: int, upper: torch.Tensor, x: torch.Tensor
) -> None:
    if tuple(x.shape) != (m, k) or tuple(upper.shape) != (n, k):
        raise _native.InvalidArgument(
            f"dualfp::{op}: M, N, K are {m}, {n}, {k}, but x is {list(x.shape)} and upper "
            f"{list(upper.shape)}; expected [M, K] and [N, K]"
        )
    if x.device != upper.device:
        raise _native.InvalidArgument(f"dualfp::{op}: x is on {x.device}, upper on {upper.device}")
