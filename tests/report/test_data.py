from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.channels.reasons import Reason
from onnxmerge.errors import UsageError
from onnxmerge.report.data import to_json
from onnxmerge.report.model import Account, Inspection, PinnedEntry, SideBySide
from onnxmerge.runtime.fidelity import Fidelity, OutputFidelity
from onnxmerge.writing import check_writable, write_text


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_an_account_as_data(account: Account) -> None:
    data = strict(to_json(account))
    assert list(data)[:4] == ["schema", "kind", "source", "target"]
    assert (data["schema"], data["kind"]) == (1, "account")
    assert data["groups"][0]["producers"] == ["conv1"]
    assert data["shapes"] == {"x": [1, 3, 224, 224]}
    assert data["latency"]["dense"]["median_ms"] == 17.2
    assert data["fidelity"]["outputs"][0]["cosine"] == 0.99871
    assert data["synthetic"] is False


def test_a_pin_has_words_advice_and_a_code_for_each_reason(account: Account) -> None:
    entry = PinnedEntry("fc", 4, 10, (Reason("batch_first", "GRU", where="r"), Reason("tokens", "Attention")), 7)
    assert strict(to_json(replace(account, pinned=(entry,))))["pinned"] == [
        {
            "name": "fc", "size": 4, "total": 10,
            "reasons": ["r: GRU has the batch axis first", "tokens of Attention"],
            "fixes": ["export with layout 0, (sequence, batch, input)", ""],
            "place": 7, "codes": ["batch_first", "tokens"], "module": "", "macs_share": 0.0,
        }
    ]  # fmt: skip


def test_no_field_of_a_pin_is_left_out(account: Account) -> None:
    named = {field.name for field in dataclasses.fields(PinnedEntry)}
    assert named <= set(strict(to_json(account))["pinned"][0])


def test_single_timings_are_left_out(account: Account) -> None:
    assert "times_ms" not in to_json(account)


def test_what_json_does_not_have_is_null(account: Account) -> None:
    fidelity = Fidelity((OutputFidelity("y", math.nan, math.inf, -math.inf, None, None, 1),))
    output = strict(to_json(replace(account, fidelity=fidelity)))["fidelity"]["outputs"][0]
    assert output["cosine"] is output["relative_l2"] is output["max_abs"] is None


def test_scalars_and_paths_of_options(account: Account) -> None:
    options = {"a": np.float32(0.5), "b": np.int64(3), "c": Path("x"), "d": True, "e": [np.float64("nan")]}
    assert strict(to_json(replace(account, options=options)))["options"] == {
        "a": 0.5, "b": 3, "c": "x", "d": True, "e": [None],
    }  # fmt: skip


def test_an_unknown_type_is_an_error(account: Account) -> None:
    with pytest.raises(TypeError, match="object has no form"):
        to_json(replace(account, options={"a": object()}))


def test_any_name_survives(account: Account) -> None:
    name = 'ü"\\\n\udcff'
    text = to_json(replace(account, source=name))
    assert text.isascii()
    assert strict(text)["source"] == name


def test_the_other_results(account: Account) -> None:
    inspection = Inspection("m", 17, "", 9, account.before, 1.0, {}, account.groups, account.pinned)
    assert strict(to_json(inspection))["kind"] == "inspection"
    pair = SideBySide("a", "b", "", account.before, account.after, None, None, None, None)
    assert strict(to_json(pair))["kind"] == "side_by_side"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    write_text(target, "new\n")
    assert target.read_text() == "new\n"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_new_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    write_text(tmp_path / "a.json", "")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "a.json"
    target.write_text("old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match=r"a\.json cannot be written: No space left"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_the_file_behind_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="has no such device")
def test_a_device_is_written_to_and_not_replaced() -> None:
    check_writable(Path("/dev/null"))
    write_text(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match="does not exist; create"):
        check_writable(tmp_path / "no" / "a.json")
    check_writable(tmp_path / "a.json")
    assert not any(tmp_path.iterdir())
