"""Which KV blocks hold keys that an FP8 step had a part in.

vLLM hashes blocks by their tokens when a request arrives, before any step's precision is known, so a
prefix hit may answer with blocks of either precision. Requests pinned to exact must not get those of
FP8; all others share them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class KvTags:
    def __init__(self) -> None:
        self._blocks: set[int] = set()
        self._requests: set[str] = set()

    def clean_prefix(self, blocks: Sequence[int]) -> int:
        """How many blocks at the start are free of FP8."""
        for index, block in enumerate(blocks):
            if block in self._blocks:
                return index
        return len(blocks)

    def reuse(self, request: str, blocks: Iterable[int]) -> None:
        """A request begins with these cached blocks: what it computes after them depends on them."""
        self._requests.discard(request)
        if any(block in self._blocks for block in blocks):
            self._requests.add(request)

    def write(self, request: str, fp8: bool, begun: Iterable[int], continued: Iterable[int]) -> None:
        """A step writes keys of a request into blocks that it begins, and into others that have
        keys before them."""
        if fp8:
            self._requests.add(request)
        if request in self._requests:
            self._blocks.update(begun)
            self._blocks.update(continued)
        else:
            self._blocks.difference_update(begun)

    def finish(self, requests: Iterable[str]) -> None:
        self._requests.difference_update(requests)
