"""The precision in force: what ops compute at that are not told one.

A thread's own (`with precision("fp8"):`) goes before the process's (`set_precision("fp8")`), which
is "exact" to begin with.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from dualfp import _native

NAMES = ("exact", "fp8")
_CODES = {"exact": _native.EXACT, "fp16": _native.EXACT, "fp8": _native.FP8}

_process = _native.EXACT
_thread = threading.local()
# Told of every change: (code of the process's, code of this thread's or -1).
_listeners: list[Callable[[int, int], None]] = []


def code_of(name: str) -> int:
    code = _CODES.get(name) if isinstance(name, str) else None
    if code is None:
        raise ValueError(f"precision {name!r}: expected exact (alias fp16) or fp8")
    return code


def current_code() -> int:
    own = getattr(_thread, "code", -1)
    return _process if own < 0 else own


def _tell() -> None:
    for listener in _listeners:
        listener(_process, getattr(_thread, "code", -1))


def add_listener(listener: Callable[[int, int], None]) -> None:
    _listeners.append(listener)
    _tell()


def get_precision() -> str:
    """ "exact" or "fp8": of this thread."""
    return NAMES[current_code()]


def set_precision(name: str) -> None:
    """For all threads that have none of their own. Takes effect at their next call."""
    global _process
    _process = code_of(name)
    _tell()


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Computes at `name` in this thread, whatever the process's precision is. The innermost counts."""
    code = code_of(name)
    before = getattr(_thread, "code", -1)
    _thread.code = code
    _tell()
    try:
        yield
    finally:
        _thread.code = before
        _tell()
