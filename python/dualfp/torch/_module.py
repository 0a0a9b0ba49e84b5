"""What the replacements of nn.Linear share: moving planes between devices, and the 16-bit weight in
state_dict under the name that nn.Linear gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

HALF_TYPES = (torch.float16, torch.bfloat16)


def check_linear(linear: nn.Module) -> nn.Linear:
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"expected nn.Linear, got {type(linear).__name__}")
    return linear


def version_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Changes when somebody writes to the tensor, as far as torch knows."""
    version = -1 if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr()


class CodedLinear(nn.Module):
    """A linear layer whose weight is codes. Subclasses keep these in `_codes`, a dict of tensors that
    follow the module's device, but not its dtype: .half() changes no code."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        self.training = linear.training
        self._codes: dict[str, torch.Tensor] = {}

    def _move_codes(self, device: torch.device) -> None:
        """To another device of the same kind or, in subclasses, of any kind."""
        self._codes = {name: code.to(device) for name, code in self._codes.items()}

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CodedLinear:
        super()._apply(fn, recurse)
        if self._codes:
            here = next(iter(self._codes.values())).device
            there = fn(torch.empty(0, device=here)).device
            if there != here:
                self._move_codes(there)
        return self

    def _float_bias(self) -> torch.Tensor | None:
        return None if self.bias is None else self.bias.detach().to(torch.float32)

    def buffers_of_codes(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that the weight is held in, by name."""
        yield from self._codes.items()

    def memory_bytes(self) -> int:
        """Of the codes."""
        return sum(code.numel() * code.element_size() for code in self._codes.values())

    def _put(self, destination: dict[str, Any], name: str, value: torch.Tensor) -> None:
        destination[name] = value.detach()

    def _take_shape(
        self, given: torch.Tensor, key: str, shape: tuple[int, ...], errors: list[str]
    ) -> torch.Tensor | None:
        if tuple(given.shape) == shape:
            return given
        errors.append(f"size mismatch for {key}: {list(given.shape)}, expected {list(shape)}")
        return None
