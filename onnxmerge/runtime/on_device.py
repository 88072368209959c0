"""Runs whose arrays stay on the device, for latency without the copies between host and device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from onnxmerge.runtime.turns import Feed, Runnable

__all__ = ["Bindable", "OnDevice"]


class Bindable(Runnable, Protocol):
    """A model that can also run with its arrays on the device, such as ``Session``."""

    def bound(self, feed: Feed) -> Callable[[], None]:
        """Runs once, without copies between host and device."""
        ...


class OnDevice:
    """A session whose arrays stay on the device: a run excludes the copies."""

    def __init__(self, session: Bindable) -> None:
        """Feeds are bound on first use."""
        self._session = session
        self._runs: dict[int, Callable[[], None]] = {}
        self.provider, self.threads = session.provider, session.threads

    def run(self, feed: Feed) -> Feed:
        """Runs once; outputs stay on the device."""
        if id(feed) not in self._runs:
            self._runs[id(feed)] = self._session.bound(feed)
        self._runs[id(feed)]()
        return {}
