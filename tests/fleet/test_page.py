"""The page of a fleet: every outcome has a row, links lead to reports, text of files is escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxmerge.fleet.outcome import Fleet, Outcome

pytest.importorskip("jinja2", reason="needs onnxmerge[report]")
pytest.importorskip("matplotlib", reason="needs onnxmerge[report]")

from onnxmerge.fleet.page import verdict, write_fleet

NUMBERS = {"macs_before": 100.0, "macs": 60.0, "parameters": 5.0, "parameters_before": 9.0}
ACCURACY = {"accuracy": 91.0, "accuracy_before": 93.0}


def fleet(folder: Path) -> Fleet:
    for name, files in (("one", ("report.html", "report.json")), ("two", ("report.json",))):
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).write_text("", encoding="utf-8")
    return Fleet(
        (
            Outcome("/a/m.onnx", "auto", 0.4, "done", "one", numbers={**NUMBERS, **ACCURACY}),
            Outcome("/b/m.onnx", "auto", 0.4, "done", "two", numbers={**NUMBERS, "cosine": 0.9, "faster": 1.25}),
            Outcome("/b/m.onnx", "auto", 0.9, "refused", "three", "gate <b>", 1),
            Outcome("/b/<i>.onnx", "auto", 0.9, "failed", "", "no such file", 2),
        ),
        61.0, 2, 1, ("a note",),
    )  # fmt: skip


def test_the_page(tmp_path: Path) -> None:
    page = write_fleet(fleet(tmp_path), tmp_path, tmp_path / "fleet.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th scope=\"row\" class=\"names\">(.*?)</tr>", page, re.S)
    assert len(rows) == 4
    assert rows[0].startswith("/a/m.onnx<")  # two files have the same name, so the folder is shown
    assert 'href="one/report.html"' in rows[0]
    assert 'href="two/report.json"' in rows[1]
    assert "1.25×" in rows[1]
    assert "gate &lt;b&gt;" in rows[2]
    assert "href" not in rows[3]
    assert "<b>" not in page
    assert "&lt;i&gt;.onnx" in rows[3]
    assert page.count('class="mark"') >= 2
    assert "a note" in page


def test_without_results_there_is_a_page_without_a_chart(tmp_path: Path) -> None:
    nothing = Fleet((Outcome("m.onnx", "auto", 0.9, "failed", words="no such file"),), 1.0, 1, 0)
    page = write_fleet(nothing, tmp_path, tmp_path / "fleet.html").read_text(encoding="utf-8")
    assert "<figure>" not in page
    assert "no such file" in page


def test_verdict(tmp_path: Path) -> None:
    assert verdict(fleet(tmp_path)) == "2 of 4 results are there, 1 were refused, 1 failed"
