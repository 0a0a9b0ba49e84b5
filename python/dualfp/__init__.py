"""Large language models at low and switchable precision.

dualfp.LLM is the engine (no torch needed), dualfp.torch the modules and torch.ops.dualfp the ops for
PyTorch; `python -m dualfp.verify` says what works on this machine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dualfp._native import version as _version
from dualfp._precision import get_precision, precision, set_precision

if TYPE_CHECKING:
    from dualfp.llm import LLM
    from dualfp.outputs import CompletionOutput, Logprob, RequestOutput
    from dualfp.sampling import SamplingParams

__version__ = _version()
__all__ = [
    "LLM",
    "CompletionOutput",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "get_precision",
    "precision",
    "set_precision",
]

_HOMES = {
    "LLM": "llm",
    "CompletionOutput": "outputs",
    "Logprob": "outputs",
    "RequestOutput": "outputs",
    "SamplingParams": "sampling",
}


def __getattr__(name: str) -> Any:
    """Loads the engine where it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dualfp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dualfp.{_HOMES[name]}"), name)
