"""Free memory: the least of what the system and the container report, and a guess where neither does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxmerge.pipeline import memory


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def limit(container: Path, most: str, used: str = "100") -> None:
    (container / "memory.max").write_text(most)
    (container / "memory.current").write_text(used)


def test_a_container_limits_what_is_free(container: Path) -> None:
    without = memory.free_memory()
    limit(container, "max")
    assert memory.free_memory() > 100_000
    limit(container, "1100")
    assert memory.free_memory() == 1000
    limit(container, "100", "300")
    assert memory.free_memory() == 0
    assert without > 1000


@pytest.mark.usefixtures("container")
def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", absent)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    assert memory.free_memory() == 4096 * 500
    monkeypatch.delattr(os, "sysconf")
    assert memory.free_memory() == 8 << 30
