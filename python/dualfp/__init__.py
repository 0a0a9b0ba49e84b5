"""Large language models at low and switchable precision.

dualfp.LLM is the engine (no torch needed), dualfp.torch the modules and torch.ops.dualfp the ops for
PyTorch; `python -m dualfp.verify` says what works on this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dualfp._native import version as _version
from dualfp._precision import get_precision, precision, set_precision

__version__ = _version()
__all__ = ["get_precision", "precision", "set_precision"]
