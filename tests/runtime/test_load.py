from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from onnxmerge.runtime import load
from onnxmerge.runtime.load import Clocks, load_of, used_by_all


@pytest.mark.parametrize(
    ("cores", "threads", "others", "waited", "busy"),
    [
        (2, None, 0.1, 1.0, False),
        (2, None, 0.3, 1.0, True),  # a model with a thread for each core shares one
        (2, 1, 0.9, 1.0, False),  # a core is left for the model
        (2, 1, 1.4, 1.0, True),
        (16, 4, 12.0, 1.0, False),
        (16, None, 2.0, 1.0, True),
        (2, 8, 0.1, 1.0, False),
        (2, None, None, 1.2, False),
        (2, None, None, 2.0, True),  # nothing is counted, but runs waited
        (2, None, 0.0, None, False),
    ],
)
def test_whether_the_machine_is_busy(
    cores: int, threads: int | None, others: float | None, waited: float | None, busy: bool
) -> None:
    assert load_of(cores, threads, others, waited).busy == busy


@pytest.mark.skipif(not load._STAT.exists(), reason="only Linux counts what all programs use")
def test_what_all_programs_use_counts_this_one() -> None:
    before, own = used_by_all(), time.process_time_ns()
    if before is None:
        pytest.skip("the kernel counts nothing here")
    while time.process_time_ns() - own < 100_000_000:
        pass
    after = used_by_all()
    assert after is not None
    assert after - before >= 70_000_000  # the kernel counts in steps of 10 ms


def test_an_unreadable_count_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "_STAT", tmp_path / "nothing")
    assert used_by_all() is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert used_by_all() is None


def test_only_usable_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 100 50 4 5 6 7 0\ncpu1 1000 0 0 0 0 0 0 0 0 0\nintr 5\n")
    monkeypatch.setattr(load, "_STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    # Neither idle nor waiting for a disk; guests are in the time of users already.
    assert used_by_all() == (1 + 2 + 3 + 4 + 5 + 6) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def test_cores_are_those_given_or_usable() -> None:
    assert Clocks(cores=3).known_cores == 3
    assert Clocks().known_cores >= 1
