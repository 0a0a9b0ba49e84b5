"""Linear layers of one input: quantized once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dualfp.torch._module import HALF_TYPES, check_linear
from dualfp.torch.fp8_linear import FP8GemmOptions, FP8Linear


class SharedInputFP8Linear(nn.Module):
    """q, k and v, or gate and up: a tuple of what each layer makes of the same input, bit for bit, with
    the input quantized once. Layers that are not FP8Linear become it by `options`."""

    def __init__(
        self, linears: Iterable[nn.Module], *, options: FP8GemmOptions | None = None
    ) -> None:
        super().__init__()
        options = FP8GemmOptions() if options is None else options
        layers = [
            linear
            if isinstance(linear, FP8Linear)
            else FP8Linear.from_linear(check_linear(linear), options=options)
            for linear in linears
        ]
        if not layers:
            raise ValueError("SharedInputFP8Linear: no layers")
        widths = {layer.in_features for layer in layers}
        if len(widths) > 1:
            raise ValueError(f"SharedInputFP8Linear: layers of {sorted(widths)} input features")
        if len({(layer._compute_dtype, layer.options.cast_inputs) for layer in layers}) > 1:
            raise ValueError("SharedInputFP8Linear: layers that cast their input differently")
        self.linears = nn.ModuleList(layers)

    def _layers(self) -> list[FP8Linear]:
        return [layer for layer in self.linears if isinstance(layer, FP8Linear)]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = self._layers()
        if not all(layer._takes(x) for layer in layers):
            return tuple(layer(x) for layer in layers)
        for layer in layers:
            layer._ready(x.device)
        cast = x.dtype not in HALF_TYPES
        typed = x.to(layers[0]._compute_dtype) if cast else x
        codes, scales = torch.ops.dualfp.quantize(typed, None, False, True)
        results = []
        for layer in layers:
            y = torch.ops.dualfp.fp8_linear_quantized(
                codes,
                scales,
                layer._codes["weight"],
                layer._codes["scales"],
                layer._float_bias(),
                typed.dtype,
            )
            results.append(y.to(x.dtype) if cast and layer.options.cast_output_back else y)
        return tuple(results)
