"""Linear layers of one input: quantized once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dualfp.torch._module import HALF_TYPES
from dualfp.torch.fp8_linear import FP8GemmOptions, FP8Linear


class SharedInputFP8Linear(nn.Module):
    """q, k and v, or gate and up: a tuple of what each layer makes of the same input, bit for bit, with
    the input quantized once. Layers that are not FP8Linear become it by `options`."""

    def __init__(
        self, linears: Iterable[nn.Module], *, options: FP8GemmOptions | None = None
    ) -> None:
        super().__init__()
        options = FP8GemmOptions() if options is None else options
        self.linears = nn.ModuleList(
            linear
            if isinstance(linear, FP8Linear)
            else FP8Linear.from_linear(linear, options=options)
            for linear in linears
        )
        if len(self.linears) == 0:
            raise ValueError("SharedInputFP8Linear: no layers")
        widths = {linear.in_features for linear in self.linears}
        if len(widths) > 1:
            raise ValueError(f"SharedInputFP8Linear: layers of {sorted(widths)} input features")
        if len({(linear._compute_dtype, linear.options.cast_inputs) for linear in self.linears}) > 1:
            raise ValueError("SharedInputFP8Linear: layers that cast their input differently")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not all(linear._takes(x) for linear in self.linears):
            return tuple(linear(x) for linear in self.linears)
        for linear in self.linears:
            linear._ready(x.device)
        cast = x.dtype not in HALF_TYPES
        typed = x.to(self.linears[0]._compute_dtype) if cast else x
        codes, scales = torch.ops.dualfp.quantize(typed, None, False, True)
        results = []
        for linear in self.linears:
            y = torch.ops.dualfp.fp8_linear_quantized(
                codes,
                scales,
                linear._codes["weight"],
                linear._codes["scales"],
                linear._float_bias(),
                typed.dtype,
            )
            results.append(y.to(x.dtype) if cast and linear.options.cast_output_back else y)
        return tuple(results)
