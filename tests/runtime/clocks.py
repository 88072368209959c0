"""A clock that only models advance, and models that take the time they are told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.runtime.load import Clocks

Feed = Mapping[str, NDArray[Any]]
FEEDS: list[Feed] = [{"x": np.full((3, 2), i, np.float32)} for i in range(2)]


class FakeTime:
    """Wall-clock time and processor time, and the cores that other programs use all the time."""

    def __init__(self, others: float | None = 0.0, cores: int = 2) -> None:
        self.wall = self.cpu = 0
        self.others, self.cores = others, cores
        self.diary: list[str] = []

    @property
    def clocks(self) -> Clocks:
        def machine() -> int | None:
            return None if self.others is None else self.cpu + int(self.others * self.wall)

        return Clocks(lambda: self.wall, lambda: self.cpu, machine, self.cores)


class Model:
    """Takes the given milliseconds of wall-clock time, one after another and around again.

    Args:
        time: What it advances.
        name: What it writes in the diary.
        milliseconds: Of each run, or a function that says it.
        cpu: Processor time over wall-clock time, or a function that says it.
        provider: What runs it.
        opening: Milliseconds that opening takes.
    """

    threads: int | None = 1

    def __init__(
        self,
        time: FakeTime,
        name: str,
        *milliseconds: float | Callable[[], float],
        cpu: float | Callable[[], float] = 1.0,
        provider: str = "CPUExecutionProvider",
        opening: float = 0.0,
    ) -> None:
        self.time, self.name, self.milliseconds = time, name, milliseconds
        self.cpu, self.provider, self.opening = cpu, provider, opening
        self.runs = self.opened = 0

    def run(self, feed: Feed) -> Feed:
        self.time.diary.append(f"{self.name}{int(feed['x'][0, 0])}")
        taken = self.milliseconds[self.runs % len(self.milliseconds)]
        spent = (taken if isinstance(taken, (int, float)) else taken()) * 1e6
        self.time.wall += round(spent)
        self.time.cpu += round(spent * (self.cpu() if callable(self.cpu) else self.cpu))
        self.runs += 1
        return {}

    @contextmanager
    def open(self) -> Iterator[Model]:
        self.time.diary.append(f"open {self.name}")
        self.time.wall += round(self.opening * 1e6)
        self.opened += 1
        yield self
        self.time.diary.append(f"close {self.name}")
