"""The report as a page, read without a browser: whole, escaped, with the numbers of the account."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.report import units
from onnxmerge.report.charts import depth_key, latency_range
from onnxmerge.report.page import check_page
from onnxmerge.report.results import Report
from onnxmerge.report.svg import DEPTHS
from onnxmerge.runtime.differences import Confusion, Differences
from tests.pages import SEEN, Reader, full_account

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")


@pytest.fixture
def full(account: Report) -> Report:
    return full_account(account)


def page_of(account: Report, folder: Path) -> str:
    return account.html(folder / "report.html").read_text(encoding="utf-8")


def test_every_tag_is_closed_and_no_id_is_used_twice(full: Report, tmp_path: Path) -> None:
    read = Reader(page_of(full, tmp_path))
    assert len(read.ids) == len(set(read.ids))
    assert [tag for tag, _ in read.tags].count("h1") == 1


def test_words_of_the_model_stay_words(full: Report, tmp_path: Path) -> None:
    page = page_of(full, tmp_path)
    read = Reader(page)
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert "alert('x')</script>" not in page
    assert "\x1b" not in page
    shown = "".join(read.text)
    # Group, note, pin, source, samples, environment, hash: each as text.
    assert shown.count(SEEN) >= 8
    labels = [given["aria-label"] for tag, given in read.tags if tag == "g" and given.get("class") == "mark"]
    assert any(label is not None and SEEN in label for label in labels)


def test_the_script_is_the_one_that_the_policy_allows(full: Report, tmp_path: Path) -> None:
    page = page_of(full, tmp_path)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page or f"script-src 'sha256-{digest}'" in page


def test_nothing_is_loaded_from_elsewhere(full: Report, tmp_path: Path) -> None:
    loaded = [
        given[name]
        for _, given in Reader(page_of(full, tmp_path)).tags
        for name in ("src", "href", "xlink:href", "action")
        if given.get(name)
    ]
    assert loaded
    assert all(str(address).startswith(("data:", "#")) for address in loaded)


def test_tables_hold_the_numbers_of_the_account(full: Report, tmp_path: Path) -> None:
    read = Reader(page_of(full, tmp_path))
    assert read.column("groups", 0) == ["4", "9"]
    assert read.column("groups", 1) == [SEEN, "conv2"]
    assert read.column("groups", 2) == ["32", "32"]
    assert read.column("groups", 3) == ["64", "32"]
    assert read.column("groups", 4) == ["50.0 %", "100.0 %"]
    assert read.column("groups", 5) == ["75.0 %", "25.0 %"]
    assert read.column("groups", 6) == ["0.125", "–"]
    assert read.column("groups", 7) == ["l2 + merge", "left alone"]
    assert read.column("times", 1) == ["17.2 ms", "10 ms"]
    assert read.cells["confusion"][1:] == [
        ["0", "5", "·", "·", "·"], ["1", "·", "·", "·", "·"], ["2", "·", "·", "·", "·"], ["3", "·", "2", "·", "·"],
    ]  # fmt: skip
    # LRN pins two producers with one reason; 12 of their 32 channels.
    row = next(row for row in read.cells["pins"] if "LRN" in row[0])
    assert (row[1:3], row[4]) == (["12", "32"], "2")
    text = " ".join("".join(read.text).split())
    assert "changed for 2 of 7 samples" in text
    assert "1 became wrong" in text
    for digest in (*full.hashes_before.values(), *full.hashes_after.values()):
        assert digest in text


def test_cards_hold_the_numbers_of_the_account(full: Report, tmp_path: Path) -> None:
    text = " ".join("".join(Reader(page_of(full, tmp_path)).text).split())
    for name, before, after in (
        ("MACs", units.count(full.before.macs), units.count(full.after.macs)),
        ("Parameters", units.count(full.before.parameters), units.count(full.after.parameters)),
        ("Top-1 accuracy", "91.9 %", "90.4 %"),
        ("Latency", "17.2 ms", "10 ms"),
    ):
        assert f"{name} before {before} → after {after}" in text
    assert "1.72x faster (95 % interval 1.65-1.80)" in text


def test_marks_say_what_the_bars_mean(full: Report, tmp_path: Path) -> None:
    marks = [
        given for tag, given in Reader(page_of(full, tmp_path)).tags if given.get("class") == "mark" and tag == "g"
    ]
    labels = {str(given["data-key"]): str(given["aria-label"]) for given in marks}
    first = next(
        label for key, label in labels.items() if key.startswith("depth") and SEEN in label and "kept" in label
    )
    assert "node 4 of 12" in first
    assert "32 of 64 channels kept (50.0 %)" in first
    assert "method: l2 + merge" in first
    assert "predicted error: 0.125" in first
    assert {"curve0", "choice0", "latency-before", "latency-after"} <= labels.keys()
    assert sum(key.startswith("depth") for key in labels) == len(full.groups) + len(full.pinned)
    # One stop of the tab key for each chart, in each of its two forms.
    assert [given["tabindex"] for given in marks].count("0") == 6


@pytest.mark.parametrize(("slow", "ends", "hidden"), [(0.005, 11.0, 0.01), (0.04, 30.0, 0.04)])
def test_the_axes_of_the_latency_end_before_the_slowest_runs(
    account: Report, slow: float, ends: float, hidden: float
) -> None:
    rng = np.random.default_rng(0)
    assert account.latency is not None
    runs = [tuple(np.r_[rng.uniform(9, 11, 1000 - round(1000 * slow)), np.full(round(1000 * slow), 90.0)])] * 2
    dense, cut = (
        replace(each, times_ms=times, median_ms=10.0)
        for each, times in zip((account.latency.dense, account.latency.compressed), runs, strict=True)
    )
    end, beyond = latency_range(replace(account.latency, dense=dense, compressed=cut))
    # At the 99th percentile if fewer runs are slow, at three medians if more are.
    assert end == pytest.approx(ends, abs=0.1)
    assert beyond == pytest.approx(hidden)


def test_curves_are_coloured_from_input_to_output(account: Report) -> None:
    groups = [replace(account.groups[0], place=place) for place in (30, 2, 9, 2, 17, 4, 21, 11)]
    key = depth_key(groups)
    assert [ink for ink, _, _ in key] == list(DEPTHS)
    assert [(first, last) for _, first, last in key] == [(2, 2), (2, 4), (9, 9), (11, 17), (21, 30)]
    assert depth_key(groups[:1]) == [(DEPTHS[0], 30, 30)]
    assert [ink for ink, _, _ in depth_key(groups[:2])] == [DEPTHS[0], DEPTHS[-1]]


def test_words_that_look_like_style_are_left_alone(full: Report, tmp_path: Path) -> None:
    """What stands for the page's colours in a figure may also be in a name."""
    name = "#010101 font-family: x; font: 3px y"
    read = Reader(page_of(replace(full, groups=(replace(full.groups[0], name=name),)), tmp_path))
    labels = [str(given.get("aria-label")) for tag, given in read.tags if tag == "g"]
    assert sum(label.startswith(name) for label in labels) == 6
    styles = " ".join(str(given.get("style")) for _, given in read.tags)
    assert "#010101" not in styles
    assert "var(--after)" in styles


def test_the_same_account_gives_the_same_bytes(full: Report, tmp_path: Path) -> None:
    assert page_of(full, tmp_path) == page_of(full, tmp_path)


def test_what_is_not_known_is_not_shown(account: Report, tmp_path: Path) -> None:
    bare = replace(
        account, latency=None, fidelity=None, accuracy_before=None, accuracy_after=None, groups=(), pinned=()
    )
    read = Reader(page_of(bare, tmp_path))
    assert not {"times", "fidelity", "confusion", "groups", "pins"} & read.cells.keys()
    assert "svg" not in [tag for tag, _ in read.tags]


@pytest.mark.parametrize("kept", [0, 64])
def test_groups_that_vanish_or_stay_can_be_drawn(full: Report, tmp_path: Path, kept: int) -> None:
    harm = 3.0 if kept == 0 else 0.0
    curve = ((0, 3.0), *full.groups[0].curve)
    edge = replace(full, groups=(replace(full.groups[0], kept=kept, harm=harm, curve=curve),))
    assert Reader(page_of(edge, tmp_path)).column("groups", 2) == [str(kept)]


def test_a_refusal_stands_on_top(full: Report, tmp_path: Path) -> None:
    read = Reader(page_of(replace(full, target=None, refused="accuracy fell by 7 points"), tmp_path))
    text = "".join(read.text)
    assert "Rejected by a gate" in text
    assert "accuracy fell by 7 points" in text
    assert "rejected: out.onnx" in text
    assert "role" in next(given for tag, given in read.tags if given.get("class") == "refused")


def test_many_classes_are_listed_not_tabled(full: Report, tmp_path: Path) -> None:
    moves = tuple((old, 999 - old, 1 + old % 3) for old in range(40))
    confusion = Confusion("logits", 1000, moves)
    read = Reader(page_of(replace(full, differences=Differences(confusion, ())), tmp_path))
    assert len(read.cells["confusion"]) == 26
    assert read.column("confusion", 2)[0] == "3"
    assert "and 15 more pairs" in "".join(read.text)


def test_pictures_are_those_of_the_samples(full: Report, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra `images` is not installed")
    (address,) = [given["src"] for tag, given in Reader(page_of(full, tmp_path)).tags if tag == "img"]
    shown = image.open(io.BytesIO(base64.b64decode(str(address).partition(",")[2])))
    assert (shown.size, shown.tobytes()) == ((2, 1), bytes([255, 0, 0, 0, 0, 255]))


def test_without_pillow_a_sentence_says_what_to_install(
    full: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    read = Reader(page_of(full, tmp_path))
    assert "img" not in [tag for tag, _ in read.tags]
    assert "onnxmerge[images]" in "".join(read.text)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RuntimeMissingError, match=r"--report.*onnxmerge\[report\]"):
        check_page(tmp_path / "report.html", "--report")


def test_names_that_are_no_page(tmp_path: Path) -> None:
    for target in (tmp_path / "report.txt", tmp_path / "report", tmp_path / "missing" / "report.html"):
        with pytest.raises(UsageError):
            check_page(target)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="folder"):
        check_page(tmp_path / "folder.html")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The user's own settings of matplotlib are not touched by a picture."""
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
