"""DUALFPConfig and DUALFPLinearMethod: planes instead of weights, one op instead of a product."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import (
    LinearBase,
    LinearMethodBase,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.parameter import ModelWeightParameter
from vllm.model_executor.utils import set_weight_attrs

import dualfp.ops  # noqa: F401  torch.ops.dualfp
from dualfp import _convert, get_precision, set_precision
from dualfp.vllm import NAME, options

_log = logging.getLogger("vllm.dualfp")
# Encoders replay graphs of their own, which know no precision: their layers stay as they are.
_ENCODERS = frozenset(
    {"vision_tower", "vision_model", "visual", "audio_tower", "audio_encoder", "encoder", "image_encoder"}
)


def _stored_dtype(default: torch.dtype) -> torch.dtype:
    """The checkpoint's own: a parameter of another type would round weights before they are seen."""
    config = get_current_vllm_config().model_config.hf_config
    text = getattr(config, "text_config", config)
    for source in (text, config):
        for name in ("dtype", "torch_dtype"):
            dtype = getattr(source, name, None)
            if isinstance(dtype, str):
                dtype = getattr(torch, dtype, None)
            if dtype in (torch.float16, torch.bfloat16):
                return dtype
    return default


@register_quantization_config(NAME)
class DUALFPConfig(QuantizationConfig):
    """BF16 checkpoints are held in 12 bits a weight (planes of 8 and 4), FP16 ones in 16 (8 and 8).

    `fp8` is the precision of the process that holds the weights; between processes the scheduler's
    choice travels with each step (dualfp/vllm/scheduler.py)."""

    is_dualfp_enabled = True

    def get_name(self) -> str:
        return NAME

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 90

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DUALFPConfig:
        return cls()

    @property
    def fp8(self) -> bool:
        return get_precision() == options.FP8

    @fp8.setter
    def fp8(self, on: bool) -> None:
        set_precision(options.FP8 if on else options.EXACT)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> LinearMethodBase | None:
        if not isinstance(layer, LinearBase):
            return None  # embeddings, lm_head, attention and experts stay as they are
        names = prefix.split(".")
        chosen = options.of(get_current_vllm_config())
        ignored = any(prefix == name or prefix.endswith("." + name) for name in chosen.ignore)
        plain = ignored or not _ENCODERS.isdisjoint(names)
        return DUALFPLinearMethod(prefix, chosen.max_outlier_share, plain)


@register_weight_loader_v2_supported_method
class DUALFPLinearMethod(LinearMethodBase):
    """Of one layer. No subclass of vLLM's UnquantizedLinearMethod: there are isinstance checks on
    that which read `weight` as a 16-bit matrix."""

    def __init__(self, prefix: str, max_outlier_share: float, plain: bool = False):
        self._prefix = prefix
        self._max_outlier_share = max_outlier_share
        self._plain = plain

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra: Any,
    ) -> None:
        rows, columns = sum(output_partition_sizes), input_size_per_partition
        dtype = params_dtype if self._plain else _stored_dtype(params_dtype)
        if dtype == torch.float16 and params_dtype == torch.bfloat16:
            raise ValueError(
                "dualfp: this checkpoint is FP16, whose planes take FP16 activations: use dtype auto "
                "or float16"
            )
        if not self._plain and (rows % 16 or columns % 16):
            _log.warning(
                "dualfp: %s stays plain: [%d, %d] has a size that 16 does not divide",
                self._prefix, rows, columns,
            )
            self._plain, dtype = True, params_dtype
        weight = ModelWeightParameter(
            data=torch.empty(rows, columns, dtype=dtype),
            input_dim=1,
            output_dim=0,
            weight_loader=extra.pop("weight_loader"),
        )
        layer.register_parameter("weight", weight)
        set_weight_attrs(weight, extra)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        if self._plain:
            return
        weight = layer.weight.data
        nest = torch.ops.dualfp.nest12 if weight.dtype == torch.bfloat16 else torch.ops.dualfp.nest
        try:
            upper, lower, *rest = nest(weight, self._max_outlier_share)
        except (ValueError, RuntimeError) as error:
            _log.warning("dualfp: %s stays plain: %s", self._prefix, error)
            self._plain = True
            layer.weight = torch.nn.Parameter(weight.to(layer.params_dtype), requires_grad=False)
            return
        scales = rest[0] if len(rest) == 3 else None
        index, value = rest[-2:]
        # Multi-head latent attention looks for one attribute of this name; it does not read it.
        layer.weight = torch.nn.Parameter(upper, requires_grad=False)
        if index.numel() == 0:
            index = value = None
        bias = getattr(layer, "bias", None)
        for name, tensor in (
            ("dualfp_lower", lower),
            ("dualfp_scales", scales),
            ("dualfp_outlier_index", index),
            ("dualfp_outlier_value", value),
            ("dualfp_bias", None if bias is None else bias.data.float()),
            ("dualfp_state", _state_of(upper.device)),
        ):
            layer.register_buffer(name, tensor, persistent=False)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self._plain:
            return F.linear(x, layer.weight, bias)
        return torch.ops.dualfp.linear(
            x,
            layer.weight,
            layer.dualfp_lower,
            layer.dualfp_scales,
            layer.dualfp_outlier_index,
            layer.dualfp_outlier_value,
            None if bias is None else layer.dualfp_bias,
            layer.dualfp_state,
        )


_states: dict[torch.device, torch.Tensor | None] = {}


def _state_of(device: torch.device) -> torch.Tensor | None:
    """What kernels keep between launches: one for all layers, whose products follow each other."""
    if device.type == "cpu":
        return None
    if device not in _states:
        _states[device] = _convert.new_stream_state(device)
    return _states[device]
