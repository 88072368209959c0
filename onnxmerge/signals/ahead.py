"""Prepare items of a sequence in a thread of their own, while the last ones are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from onnxmerge.runtime.kernels import usable_cores
from onnxmerge.runtime.threads import threads_of

__all__ = ["ahead"]

T = TypeVar("T")

_AHEAD = 2
_END: Any = object()


def ahead(items: Iterable[T]) -> Generator[T]:
    """The same items in the same order, two of them prepared ahead; reading files and copying arrays use one core.

    Nothing is prepared ahead in a process that has one thread.
    """
    if usable_cores() == 1 or threads_of(None) == 1:
        yield from items
        return
    source = iter(items)
    with ThreadPoolExecutor(1) as worker:
        waiting = deque(worker.submit(next, source, _END) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(worker.submit(next, source, _END))
            yield item
