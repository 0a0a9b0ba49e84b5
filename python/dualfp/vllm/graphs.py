"""A set of CUDA graphs for each precision.

vLLM finds a graph by looking up a dict on the host. These dicts are replaced by ones that answer by
the precision in force; capture then runs once for each precision, replay costs what it did."""

from __future__ import annotations

import functools
from collections.abc import Iterator, MutableMapping
from typing import Any

from dualfp import get_precision
from dualfp.vllm.options import PRECISIONS


class ByPrecision(MutableMapping):
    """A dict for each precision; the one in force answers. clear() clears all."""

    def __init__(self) -> None:
        self.of: dict[str, dict[Any, Any]] = {name: {} for name in PRECISIONS}

    @property
    def _now(self) -> dict[Any, Any]:
        return self.of[get_precision()]

    def __getitem__(self, key: Any) -> Any:
        return self._now[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._now[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._now[key]

    def __contains__(self, key: object) -> bool:
        return key in self._now

    def __iter__(self) -> Iterator[Any]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def clear(self) -> None:
        for graphs in self.of.values():
            graphs.clear()


def _route(cls: type, attribute: str) -> None:
    init = cls.__init__
    if getattr(init, "_dualfp_routed", False):
        return

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if getattr(self, attribute) != {}:
            raise RuntimeError(
                f"dualfp: {cls.__name__}.{attribute} is no empty dict in this vLLM; "
                "run with cudagraph_mode=NONE"
            )
        setattr(self, attribute, ByPrecision())

    __init__._dualfp_routed = True
    cls.__init__ = __init__


def route_all() -> None:
    """For all graphs that are made from here on in this process. Called by our worker alone, so
    engines without the plugin's quantization keep vLLM's own dicts."""
    from vllm.compilation.cuda_graph import CUDAGraphWrapper

    _route(CUDAGraphWrapper, "concrete_cudagraph_entries")
    try:
        from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager
    except ImportError:
        pass
    else:
        _route(CudaGraphManager, "graphs")
    try:
        from vllm.compilation.breakable_cudagraph import BreakableCUDAGraphWrapper
    except ImportError:
        pass
    else:
        _route(BreakableCUDAGraphWrapper, "entries")
