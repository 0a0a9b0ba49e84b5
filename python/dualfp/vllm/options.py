"""What a user can ask of the plugin: `additional_config={"dualfp": {...}}`, or on the command line
`--additional-config '{"dualfp": {"policy": "slo", "tpot_ms": 20}}'`."""

from __future__ import annotations

import dataclasses
from typing import Any

EXACT, FP8 = "exact", "fp8"
PRECISIONS = (EXACT, FP8)
POLICIES = ("fixed", "threshold", "slo")


def precision_named(value: Any, where: str) -> str:
    """exact or fp8; "fp16" is an alias of exact."""
    name = EXACT if value == "fp16" else value
    if name not in PRECISIONS:
        raise ValueError(f"dualfp: {where} is {value!r}; expected exact (alias fp16) or fp8")
    return name


@dataclasses.dataclass(frozen=True)
class Options:
    """precision: where the engine starts, and stays under the policy "fixed".
    policy: fixed, threshold, slo, or "package.module:name" of a callable that returns an object
        with adjust_precision(load_factor, latency_requirement) -> "exact" | "fp8".
    max_exact_tokens: "threshold" computes steps of more tokens in FP8.
    tpot_ms, ttft_ms: "slo" keeps these while it can, exact where they allow it; also the
        latency_requirement (seconds a token) of a callable.
    ignore: names of modules, or ends of them, that keep their weights as they are.
    max_outlier_share: a layer with a larger share of weights that the planes cannot hold stays plain.
    """

    precision: str = EXACT
    policy: str = "fixed"
    max_exact_tokens: int = 128
    tpot_ms: float = 50.0
    ttft_ms: float = 1000.0
    ignore: tuple[str, ...] = ()
    max_outlier_share: float = 0.01

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Options:
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(
                    f"dualfp: additional_config has no option {name!r}; there are {', '.join(known)}"
                )
        values = dict(values)
        if "precision" in values:
            values["precision"] = precision_named(values["precision"], "option precision")
        policy = values.get("policy", "fixed")
        if policy not in POLICIES and (not isinstance(policy, str) or ":" not in policy):
            raise ValueError(
                f"dualfp: option policy is {policy!r}; expected {', '.join(POLICIES)} or module:name"
            )
        ignore = values.get("ignore", ())
        if isinstance(ignore, str) or not all(isinstance(name, str) for name in ignore):
            raise ValueError(f"dualfp: option ignore is {ignore!r}; expected a list of module names")
        values["ignore"] = tuple(ignore)
        for name in ("max_exact_tokens", "tpot_ms", "ttft_ms", "max_outlier_share"):
            value = values.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"dualfp: option {name} is {value!r}; expected a positive number")
        return cls(**values)


def of(vllm_config: Any) -> Options:
    additional = vllm_config.additional_config
    values = additional.get("dualfp", {}) if isinstance(additional, dict) else {}
    if not isinstance(values, dict):
        raise ValueError(f"dualfp: additional_config['dualfp'] is {values!r}; expected an object")
    return Options.parse(values)
