"""Items prepared ahead: the same, in order, few at a time, and with the errors of their sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from onnxmerge.runtime.threads import THREADS
from onnxmerge.signals import ahead as module
from onnxmerge.signals.ahead import ahead


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    monkeypatch.delenv(THREADS, raising=False)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_items_and_order_stay(count: int) -> None:
    assert list(ahead(range(count))) == list(range(count))


def test_another_thread_is_a_few_items_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, made = set(), []

    def items() -> Iterator[int]:
        for item in range(10):
            threads.add(threading.get_ident())
            made.append(item)
            yield item

    for item in ahead(items()):
        assert len(made) <= item + 4
    assert threads - {threading.get_ident()} == threads
    threads.clear()
    monkeypatch.setenv(THREADS, "1")
    assert list(ahead(items())) == list(range(10))
    assert threads == {threading.get_ident()}


def test_an_error_arrives_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second item")

    sequence = ahead(items())
    assert next(sequence) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(sequence)


def test_nothing_is_left_running_when_the_rest_is_not_wanted() -> None:
    before = threading.active_count()
    sequence = ahead(iter(range(100)))
    next(sequence)
    sequence.close()
    assert threading.active_count() == before
