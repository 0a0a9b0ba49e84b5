"""libdualfp_llm by ctypes. Calls let go of the interpreter's lock while they wait."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from typing import Any

from dualfp import _native

_Progress = ctypes.CFUNCTYPE(None, c_int64, c_int64)
_TEXT = POINTER(c_void_p)
_SIGNATURES: dict[str, list[Any]] = {
    "open": [c_char_p, _Progress, POINTER(c_void_p)],
    "info": [c_void_p, _TEXT],
    "submit": [c_void_p, c_char_p, POINTER(c_uint64)],
    "next": [c_void_p, c_uint64, c_double, _TEXT],
    "cancel": [c_void_p, c_uint64],
    "set_precision": [c_void_p, c_char_p],
    "get_precision": [c_void_p, _TEXT],
    "encode": [c_void_p, c_char_p, _TEXT],
    "decode": [c_void_p, c_char_p, _TEXT],
    "render_chat": [c_void_p, c_char_p, _TEXT],
}
_WAIT_SECONDS = 0.25  # between looks at what the interpreter wants, such as Ctrl-C


def _load() -> ctypes.CDLL:
    path = _native.library_path("libdualfp_llm.so.1")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"dualfp.LLM: cannot load {path}: {error}") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, f"dualfp_llm_{name}")
        function.restype = c_int32
        function.argtypes = arguments
    library.dualfp_llm_last_error.restype = c_char_p
    library.dualfp_llm_free.argtypes = [c_void_p]
    library.dualfp_llm_free.restype = None
    library.dualfp_llm_close.argtypes = [c_void_p]
    library.dualfp_llm_close.restype = None
    return library


class Engine:
    """A loaded model and the thread that runs it."""

    def __init__(
        self, options: dict[str, Any], progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._handle = c_void_p()
        self._library = _load()
        self._pid = os.getpid()
        callback = _Progress(progress) if progress is not None else _Progress()
        self._check(
            self._library.dualfp_llm_open(
                json.dumps(options).encode(), callback, byref(self._handle)
            )
        )

    def _check(self, status: int) -> None:
        if status != 0:
            _native.raise_status(status, self._library.dualfp_llm_last_error().decode(errors="replace"))

    def _open_handle(self) -> c_void_p:
        if not self._handle:
            raise RuntimeError("the LLM was closed")
        if os.getpid() != self._pid:
            raise RuntimeError("the LLM belongs to the process that loaded it, not to its fork")
        return self._handle

    def _take(self, text: c_void_p) -> Any:
        if not text:
            return None
        try:
            return json.loads(ctypes.string_at(text))
        finally:
            self._library.dualfp_llm_free(text)

    def _ask(self, name: str, *arguments: Any) -> Any:
        text = c_void_p()
        function = getattr(self._library, f"dualfp_llm_{name}")
        self._check(function(self._open_handle(), *arguments, byref(text)))
        return self._take(text)

    def ask(self, name: str, request: dict[str, Any]) -> Any:
        return self._ask(name, json.dumps(request).encode())

    def info(self) -> dict[str, Any]:
        return self._ask("info")

    def submit(self, request: dict[str, Any]) -> int:
        number = c_uint64()
        self._check(
            self._library.dualfp_llm_submit(
                self._open_handle(), json.dumps(request).encode(), byref(number)
            )
        )
        return number.value

    def next(self, number: int) -> dict[str, Any]:
        """The request's next output; waits for it."""
        while True:
            output = self._ask("next", number, _WAIT_SECONDS)
            if output is not None:
                return output

    def cancel(self, number: int) -> None:
        if self._handle and os.getpid() == self._pid:
            self._check(self._library.dualfp_llm_cancel(self._handle, number))

    def set_precision(self, precision: str | list[str]) -> None:
        self._check(
            self._library.dualfp_llm_set_precision(
                self._open_handle(), json.dumps(precision).encode()
            )
        )

    def get_precision(self) -> dict[str, Any]:
        return self._ask("get_precision")

    def close(self) -> None:
        handle, self._handle = self._handle, c_void_p()
        # A fork has the memory but not the thread, which cannot be waited for.
        if handle and os.getpid() == self._pid:
            self._library.dualfp_llm_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()
