"""FP8Linear: nn.Linear with E4M3 weights and activations."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from dualfp import _eager
from dualfp.torch._module import HALF_TYPES, CodedLinear, check_linear, version_of

_STORAGES = ("discard", "keep", "cpu_offload")


@dataclass(frozen=True)
class FP8GemmOptions:
    """cast_inputs: inputs that are not float16 or bfloat16 are cast to the weight's 16-bit type;
        else such inputs go through the 16-bit weights.
    cast_output_back: a result whose input was cast has the input's dtype.
    fp16_weight_storage: what becomes of the 16-bit weights once there are codes: "discard",
        "keep" (as the module's parameter), or "cpu_offload" (a copy on the CPU).
    materialize_fp8_on_wrap: quantize while wrapping, where the weights are on a GPU (or
        compute_on_cpu is set), and not at the first call.
    per_channel: a scale for each output row; else one for the tensor.
    compute_on_cpu: CPU calls compute at FP8 too; else they go through the 16-bit weights."""

    cast_inputs: bool = True
    cast_output_back: bool = True
    fp16_weight_storage: Literal["discard", "keep", "cpu_offload"] = "discard"
    materialize_fp8_on_wrap: bool = True
    per_channel: bool = True
    compute_on_cpu: bool = False

    def check(self) -> None:
        if self.fp16_weight_storage not in _STORAGES:
            raise ValueError(
                f"fp16_weight_storage={self.fp16_weight_storage!r}: expected one of "
                f"{', '.join(_STORAGES)}"
            )
        if self.fp16_weight_storage == "discard" and not self.cast_inputs:
            raise ValueError(
                "fp16_weight_storage='discard' needs cast_inputs=True: other inputs would want "
                "the 16-bit weights"
            )


class FP8Linear(CodedLinear):
    """Quantizes each token of its input, and its weight when that was changed. With the weight kept,
    `weight` is nn.Linear's own parameter; elsewhere it is None. state_dict() has `weight` as nn.Linear
    has it while the 16-bit weights are there, else E4M3 codes and `weight_scale`, and loads both."""

    weight: nn.Parameter | None
    options: FP8GemmOptions

    def __init__(self, linear: nn.Linear, *, options: FP8GemmOptions) -> None:
        check_linear(linear)
        options.check()
        super().__init__(linear)
        self.options = options
        kept = options.fp16_weight_storage == "keep"
        self.weight = linear.weight if kept else None
        # Until there are codes: where the weight comes from, whatever device that is on.
        self._source: torch.Tensor | None = None if kept else linear.weight.detach()
        self._offloaded: torch.Tensor | None = None
        self._quantized_version: tuple[int, int] | None = None
        dtype = linear.weight.dtype
        self._compute_dtype = dtype if dtype in HALF_TYPES else torch.bfloat16

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, options: FP8GemmOptions) -> FP8Linear:
        module = cls(linear, options=options)
        device = linear.weight.device
        if options.materialize_fp8_on_wrap and (device.type == "cuda" or options.compute_on_cpu):
            module.materialize_fp8_weight(device)
        return module

    @property
    def linear(self) -> nn.Linear | None:
        """The layer as it was, over the same parameters, while the weight is kept."""
        if self.weight is None:
            return None
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        linear.weight = self.weight
        linear.register_parameter("bias", self.bias)
        return linear.train(self.training)

    def invalidate_weight_cache(self) -> None:
        """Forgets the codes; the next call quantizes again, from weights that are still there."""
        self._codes = {}
        self._quantized_version = None

    def materialize_fp8_weight(self, device: torch.device | str) -> None:
        """Codes on a device now. The weight is quantized where it is, and codes travel."""
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        source = self._sixteen_bit()
        stale = self.weight is not None and self._quantized_version != version_of(self.weight)
        if self._codes and not stale:
            if self._codes["weight"].device != device:
                self._move_codes(device)
            return
        if source is None:
            raise RuntimeError(
                "FP8Linear: there are no 16-bit weights to quantize: "
                "fp16_weight_storage='discard' let them go and the codes were invalidated"
            )
        codes, scales = torch.ops.dualfp.quantize_weight(source, self.options.per_channel)
        self._set_codes(codes, scales)
        if self._codes["weight"].device != device:
            self._move_codes(device)
        if self.weight is not None:
            self._quantized_version = version_of(self.weight)
        elif self.options.fp16_weight_storage == "cpu_offload" and self._offloaded is None:
            # A copy of its own: a parameter on the CPU may be written to by its owner.
            self._offloaded = source.to("cpu", copy=True)
        self._source = None

    def _set_codes(self, codes: torch.Tensor, scales: torch.Tensor) -> None:
        self._codes = {"weight": codes.view(torch.uint8), "scales": scales}

    def _move_codes(self, device: torch.device) -> None:
        before = self._codes["weight"].device.type
        if before != device.type:
            reorder = _eager.kernel_order if device.type == "cuda" else _eager.logical_order
            self._codes["weight"] = reorder(self._codes["weight"])
        super()._move_codes(device)

    def _sixteen_bit(self) -> torch.Tensor | None:
        if self.weight is not None:
            return self.weight.detach()
        return self._source if self._source is not None else self._offloaded

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        weight = self._sixteen_bit()
        if weight is None:
            raise RuntimeError(
                f"FP8Linear cannot compute on {x.device.type} in {x.dtype}: its 16-bit weights were "
                "discarded; fp16_weight_storage='cpu_offload' or 'keep' has them, and "
                "compute_on_cpu=True computes at FP8 there"
            )
        if self.weight is not None:
            weight = self.weight
        bias = None if self.bias is None else self.bias.to(x.device, x.dtype)
        return functional.linear(x, weight.to(x.device, x.dtype), bias)

    def _takes(self, x: torch.Tensor) -> bool:
        return (x.device.type == "cuda" or self.options.compute_on_cpu) and (
            x.dtype in HALF_TYPES or self.options.cast_inputs
        )

    def _ready(self, device: torch.device) -> None:
        if torch.compiler.is_compiling():
            if not self._codes:
                raise RuntimeError("FP8Linear: call materialize_fp8_weight() before torch.compile")
            return
        self.materialize_fp8_weight(device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._takes(x):
            return self._plain(x)
        self._ready(x.device)
        cast = x.dtype not in HALF_TYPES
        y = torch.ops.dualfp.fp8_linear(
            x.to(self._compute_dtype) if cast else x,
            self._codes["weight"],
            self._codes["scales"],
            self._float_bias(),
        )
        return y.to(x.dtype) if cast and self.options.cast_output_back else y

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, storage={self.options.fp16_weight_storage}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> FP8Linear:
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        clone.__dict__ = copy.deepcopy(self.__dict__, memo)
        # The copy's weight is another tensor of the same values.
        if self._codes and self.weight is not None and clone.weight is not None:
            fresh = self._quantized_version == version_of(self.weight)
            clone._quantized_version = version_of(clone.weight) if fresh else None
        return clone

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight is not None:
            return
        source = self._sixteen_bit()
        if source is not None:
            self._put(destination, prefix + "weight", source)
        elif self._codes:
            codes = self._codes["weight"]
            codes = _eager.logical_order(codes) if codes.is_cuda else codes
            self._put(destination, prefix + "weight", codes.view(torch.float8_e4m3fn))
            self._put(destination, prefix + "weight_scale", self._codes["scales"])

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
        # The published module has its layer as a child in "keep".
        for name in ("weight", "bias"):
            if prefix + "linear." + name in state_dict:
                state_dict[prefix + name] = state_dict.pop(prefix + "linear." + name)
        given = state_dict.pop(prefix + "weight", None)
        scales = state_dict.pop(prefix + "weight_scale", None)
        if self.weight is not None and given is not None and scales is None:
            state_dict[prefix + "weight"] = given  # nn.Module's own way
            given = None
        elif self.weight is not None and given is not None:
            error_msgs.append(f"{prefix}weight: codes without the 16-bit weight that 'keep' keeps")
            state_dict[prefix + "weight"] = self.weight.detach()
            given = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if self.weight is not None:
            return
        state_dict[prefix + "weight"] = given
        if given is None:
            del state_dict[prefix + "weight"]
            missing_keys.append(prefix + "weight")
            return
        shape = (self.out_features, self.in_features)
        if self._take_shape(given, prefix + "weight", shape, error_msgs) is None:
            return
        if scales is not None:
            state_dict[prefix + "weight_scale"] = scales
            codes = given.detach().view(torch.uint8).clone()
            target = self._codes["weight"].device if self._codes else codes.device
            self._source = self._offloaded = None
            self._set_codes(_eager.kernel_order(codes) if codes.is_cuda else codes, scales.clone())
            if target != codes.device:
                self._move_codes(target)
            return
        before = self._codes["weight"].device if self._codes else None
        self._offloaded = None
        self._source = given.detach().clone()
        self.invalidate_weight_cache()
        if before is not None:
            self.materialize_fp8_weight(before)
