"""Replacing the linear layers of a model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, overload

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from dualfp.torch._module import HALF_TYPES
from dualfp.torch.fp8_linear import FP8GemmOptions, FP8Linear
from dualfp.torch.nested_linear import NestedLinear

ModuleFilter = Callable[[str, nn.Module], bool]
_TILE = 16  # sizes that GPU kernels take are multiples of it


@dataclass(frozen=True)
class Decision:
    """What is to become of a linear layer, and why it stays where it does."""

    name: str
    shape: tuple[int, int]
    replaced: bool
    reason: str = ""


@dataclass(frozen=True)
class Report:
    decisions: list[Decision] = field(default_factory=list)

    @property
    def replaced(self) -> list[str]:
        return [decision.name for decision in self.decisions if decision.replaced]

    @property
    def skipped(self) -> dict[str, str]:
        return {d.name: d.reason for d in self.decisions if not d.replaced}

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} of {len(self.decisions)} linear layers replaced"]
        for decision in self.decisions:
            outcome = "replaced" if decision.replaced else f"kept: {decision.reason}"
            lines.append(f"  {decision.name or '(root)'} {list(decision.shape)}: {outcome}")
        return "\n".join(lines)


Owners = dict[int, list[str]]


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Each once, by its first name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def _owners(model: nn.Module) -> Owners:
    """The modules that have each parameter, by their first names."""
    owners: Owners = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def _reason(name: str, module: nn.Linear, owners: Owners, gpu: bool) -> str:
    """Why a layer cannot be replaced; empty where it can."""
    weight = module.weight
    if type(module).forward is not nn.Linear.forward:
        return f"{type(module).__name__} computes in its own way"
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention multiplies by its weight itself"
    if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"):
        return "it has hooks or parametrizations"
    if weight.is_meta:
        return "its weight is on the meta device"
    if gpu and (module.in_features % _TILE or module.out_features % _TILE):
        return f"GPU kernels want multiples of {_TILE}"
    if module.in_features == 0 or module.out_features == 0:
        return "it is empty"
    others = [owner for owner in owners.get(id(weight), []) if owner != name]
    if others:
        return f"its weight is shared with {others[0]}"
    if not torch.isfinite(weight).all():
        return "its weight has NaN or infinite elements"
    return ""


def _swap(model: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    if id(model) in replacements:
        return replacements[id(model)]
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in replacements:
                module._modules[name] = replacements[id(child)]
    return model


def _replace(
    model: nn.Module,
    module_filter: ModuleFilter | None,
    inplace: bool,
    dry_run: bool,
    why_not: Callable[[str, nn.Linear, Owners], str],
    make: Callable[[nn.Linear], nn.Module],
    what: str,
) -> nn.Module | Report:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{what}: expected an nn.Module, got {type(model).__name__}")
    if not inplace and not dry_run:
        model = copy.deepcopy(model)
    owners = _owners(model)
    decisions = []
    wanted: list[tuple[str, nn.Linear]] = []
    for name, module in _linears(model):
        shape = (module.out_features, module.in_features)
        if module_filter is not None and not module_filter(name, module):
            decisions.append(Decision(name, shape, False, "module_filter"))
            continue
        reason = why_not(name, module, owners)
        if not reason:
            wanted.append((name, module))
        decisions.append(Decision(name, shape, not reason, reason))
    if dry_run:
        return Report(decisions)
    failed: dict[str, str] = {}
    for name, module in wanted:
        try:
            replacement = make(module)
        except (ValueError, NotImplementedError) as error:
            failed[name] = str(error)
            continue
        # One at a time, so that the memory of one layer at most is held twice.
        model = _swap(model, {id(module): replacement})
    decisions = [
        Decision(d.name, d.shape, False, failed[d.name]) if d.name in failed else d
        for d in decisions
    ]
    report = Report(decisions)
    skipped = {n: r for n, r in report.skipped.items() if r != "module_filter"}
    if skipped or not report.replaced:
        shown = "; ".join(f"{name or '(root)'}: {reason}" for name, reason in list(skipped.items())[:8])
        more = f"; and {len(skipped) - 8} more" if len(skipped) > 8 else ""
        warnings.warn(
            f"{what}: {len(report.replaced)} of {len(decisions)} linear layers replaced. "
            + (f"Kept as they are: {shown}{more}" if skipped else "module_filter let none through"),
            stacklevel=3,
        )
    return model


@overload
def enable_fp8_gemm(
    model: nn.Module,
    *,
    options: FP8GemmOptions = ...,
    module_filter: ModuleFilter | None = ...,
    inplace: bool = ...,
    dry_run: Literal[False] = ...,
) -> nn.Module: ...
@overload
def enable_fp8_gemm(
    model: nn.Module,
    *,
    options: FP8GemmOptions = ...,
    module_filter: ModuleFilter | None = ...,
    inplace: bool = ...,
    dry_run: Literal[True],
) -> Report: ...
def enable_fp8_gemm(
    model: nn.Module,
    *,
    options: FP8GemmOptions = FP8GemmOptions(),
    module_filter: ModuleFilter | None = None,
    inplace: bool = True,
    dry_run: bool = False,
) -> nn.Module | Report:
    """Replaces nn.Linear by FP8Linear and returns the model, or with `dry_run` the Report of what
    would be done, with nothing changed.

    A layer that is used in several places stays one layer. A model that is itself a linear layer is
    returned replaced, whatever `inplace` says. Warns about layers that stay as they are."""
    options.check()

    def why_not(name: str, module: nn.Linear, owners: Owners) -> str:
        tied = {} if options.fp16_weight_storage == "keep" else owners
        gpu = module.weight.is_cuda or not options.compute_on_cpu
        return _reason(name, module, tied, gpu)

    return _replace(
        model,
        module_filter,
        inplace,
        dry_run,
        why_not,
        lambda linear: FP8Linear.from_linear(linear, options=options),
        "enable_fp8_gemm",
    )


@overload
def enable_dual_precision(
    model: nn.Module,
    *,
    module_filter: ModuleFilter | None = ...,
    inplace: bool = ...,
    dry_run: Literal[False] = ...,
) -> nn.Module: ...
@overload
def enable_dual_precision(
    model: nn.Module,
    *,
    module_filter: ModuleFilter | None = ...,
    inplace: bool = ...,
    dry_run: Literal[True],
) -> Report: ...
def enable_dual_precision(
    model: nn.Module,
    *,
    module_filter: ModuleFilter | None = None,
    inplace: bool = True,
    dry_run: bool = False,
) -> nn.Module | Report:
    """Replaces nn.Linear of float16 or bfloat16 by NestedLinear, as enable_fp8_gemm() does."""

    def why_not(name: str, module: nn.Linear, owners: Owners) -> str:
        if module.weight.dtype not in HALF_TYPES:
            return f"its weight is {module.weight.dtype}; only float16 and bfloat16 can be nested"
        return _reason(name, module, owners, module.weight.is_cuda)

    return _replace(
        model, module_filter, inplace, dry_run, why_not, NestedLinear, "enable_dual_precision"
    )
