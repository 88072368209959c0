"""Names follow what results depend on; results appear whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.fleet.jobs import Job
from onnxmerge.fleet.store import OUTCOME, Store, name_of
from tests.plan.test_plan import network


def test_a_name_changes_with_everything_that_the_result_depends_on(tmp_path: Path) -> None:
    model, samples, folder = tmp_path / "m.onnx", tmp_path / "s.npz", tmp_path / "folder"
    onnx.save(network(), model)
    np.savez(samples, x=np.zeros(3))
    folder.mkdir()
    (folder / "0.npy").write_bytes(b"a")
    job = Job(str(model), (0.3, 0.5))
    others = [
        replace(job, calib=str(samples)), replace(job, data=str(samples)), replace(job, calib=str(folder)),
        replace(job, method="prune"), replace(job, seed=1), replace(job, effort="fast"), replace(job, round_to=1),
        replace(job, shape={"x": (1, 2)}), replace(job, calib_size=8), replace(job, min_cosine=0.5),
    ]  # fmt: skip
    names = [name_of(each, 0.3) for each in (job, *others)]
    names.append(name_of(job, 0.5))
    (folder / "0.npy").write_bytes(b"b")
    names.append(name_of(others[2], 0.3))
    (folder / "0.npy").rename(folder / "1.npy")
    names.append(name_of(others[2], 0.3))
    changed = network()
    changed.producer_name = "another"
    onnx.save(changed, model)
    names.append(name_of(job, 0.3))
    assert len(set(names)) == len(names)
    assert names[0].startswith("m-auto-0.3-")


def test_a_name_does_not_change_with_where_files_lie_or_which_other_ratios_there_are(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        onnx.save(network(), tmp_path / place / "m.onnx")
        np.savez(tmp_path / place / "s.npz", x=np.zeros(3))
    one, two = (
        Job(str(tmp_path / place / "m.onnx"), calib=str(tmp_path / place / "s.npz")) for place in ("one", "two")
    )
    assert name_of(one, 0.3) == name_of(replace(two, ratios=(0.3, 0.7)), 0.3)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"cannot read .*s\.npz"):
        name_of(Job(str(tmp_path / "m.onnx"), calib=str(tmp_path / "s.npz")), 0.3)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(partial: Path) -> Mapping[str, Any]:
    (partial / "model.onnx").write_bytes(b"whole")
    return {"state": "done"}


def test_a_result_appears_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    assert store.outcome("r") is None
    store.publish("r", written)
    assert store.outcome("r") == {"state": "done"}
    assert listed(tmp_path / "out") == ["r"]


def test_the_first_of_two_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish("r", written)
    store.publish("r", lambda partial: {"state": "second"})
    assert store.outcome("r") == {"state": "done"}
    assert listed(tmp_path) == ["r"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def broken(partial: Path) -> Mapping[str, Any]:
        written(partial)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="luck"):
        Store(tmp_path).publish("r", broken)
    assert listed(tmp_path) == []


@pytest.mark.parametrize("where", ["while writing", "before renaming"])
def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_result(tmp_path: Path, where: str) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom onnxmerge.fleet.store import Store\n"
        "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def write(partial):\n    (partial / 'model.onnx').write_bytes(b'half')\n"
        "    if sys.argv[2] == 'while writing': kill()\n    return {'state': 'done'}\n"
        "if sys.argv[2] == 'before renaming': Path.rename = kill\n"
        "Store(Path(sys.argv[1])).publish('r', write)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), where], check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.outcome("r") is None
    (left,) = listed(tmp_path)
    assert left.startswith(".r.")
    assert left.endswith(".partial")
    store.publish("r", written)
    store.clean(["r"])
    assert listed(tmp_path) == ["r"]
    assert json.loads((tmp_path / "r" / OUTCOME).read_text(encoding="utf-8")) == {"state": "done"}
