"""NestedLinear: nn.Linear that computes exactly or at FP8 from one copy of its weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dualfp import _precision
from dualfp.torch._module import HALF_TYPES, CodedLinear, check_linear

# A weight of more elements that the planes do not hold had better stay as it is.
MAX_OUTLIER_SHARE = 0.01


class NestedLinear(CodedLinear):
    """float16 weights lie in two planes of a byte, bfloat16 weights in 12 bits, both exactly. What it
    computes at is `precision`, or where that is None what dualfp.precision() says. state_dict() has
    the exact weight under nn.Linear's name."""

    def __init__(self, linear: nn.Linear, *, precision: str | None = None) -> None:
        check_linear(linear)
        if linear.weight.dtype not in HALF_TYPES:
            raise TypeError(
                f"NestedLinear: the weight is {linear.weight.dtype}; expected float16 or bfloat16"
            )
        super().__init__(linear)
        self.precision = precision
        self._dtype = linear.weight.dtype
        self._split(linear.weight)

    @property
    def precision(self) -> str | None:
        return self._precision

    @precision.setter
    def precision(self, name: str | None) -> None:
        self._pin = -1 if name is None else _precision.code_of(name)
        self._precision = None if name is None else _precision.NAMES[self._pin]

    @property
    def weight(self) -> torch.Tensor:
        """The exact weight: a new tensor at each access."""
        codes = self._codes
        return torch.ops.dualfp.merge(
            codes["upper"], codes["lower"], codes.get("scales"), codes["index"], codes["value"]
        )

    def _split(self, weight: torch.Tensor) -> None:
        weight = weight.detach()
        if self._dtype == torch.float16:
            upper, lower, index, value = torch.ops.dualfp.nest(weight, MAX_OUTLIER_SHARE)
            codes = {}
        else:
            upper, lower, scales, index, value = torch.ops.dualfp.nest12(weight, MAX_OUTLIER_SHARE)
            codes = {"scales": scales}
        codes |= {"upper": upper.view(torch.uint8), "lower": lower, "index": index, "value": value}
        self._codes = codes

    def _move_codes(self, device: torch.device) -> None:
        if device.type == self._codes["upper"].device.type:
            super()._move_codes(device)
        else:  # planes lie otherwise there
            self._split(self.weight.to(device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = self._codes
        return torch.ops.dualfp.linear(
            x,
            codes["upper"],
            codes["lower"],
            codes.get("scales"),
            codes["index"],
            codes["value"],
            self._float_bias(),
            None,
            self._pin,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self._dtype}, precision={self.precision}, "
            f"outliers={self._codes['value'].numel()}"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self._put(destination, prefix + "weight", self.weight)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "weight"
        given = state_dict.pop(key, None)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if given is None:
            missing_keys.append(key)
            return
        state_dict[key] = given
        shape = (self.out_features, self.in_features)
        if self._take_shape(given, key, shape, error_msgs) is None:
            return
        if given.dtype != self._dtype:
            error_msgs.append(f"{key} is {given.dtype}; this layer holds {self._dtype} exactly")
            return
        before = self._codes
        try:
            self._split(given.to(before["upper"].device))
        except ValueError as error:
            self._codes = before
            error_msgs.append(f"{key}: {error}")
