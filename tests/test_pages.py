"""Reports and drawn networks end to end: from the command line and from Python, also where a gate refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmerge
from onnxmerge import cli
from onnxmerge.errors import GateError, NothingToCutError, UsageError
from onnxmerge.pipeline.request import CALIB_SIZE
from onnxmerge.report.results import Report
from tests.pages import Reader

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

MODELS = Path(__file__).resolve().parents[1] / "sample_models"
MODEL, DATA = MODELS / "lenet_300_100.onnx", MODELS / "fashion_mnist_test.npz"
CALIBRATION = MODELS / "fashion_mnist_calibration.npz"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_report_of_a_file_that_was_written(tmp_path: Path) -> None:
    source, target, page, data = (tmp_path / name for name in ("in.onnx", "out.onnx", "out.html", "out.json"))
    shutil.copy(MODEL, source)
    before = digest(source)
    words = [str(source), str(target), "--calib", str(CALIBRATION), "--data", str(DATA), "--provider", "cpu", "-q"]
    assert cli.main([*words, "--report", str(page), "--json", str(data)]) == 0
    account = json.loads(data.read_text(encoding="utf-8"))
    read = Reader(page.read_text(encoding="utf-8"))
    text = " ".join("".join(read.text).split())
    assert read.column("groups", 2) == [str(group["kept"]) for group in account["groups"]]
    assert read.column("groups", 0) == [str(group["place"]) for group in account["groups"]]
    assert all(group["harm"] is not None and "curve" not in group for group in account["groups"])
    assert (account["hashes_before"], account["hashes_after"]) == ({"in.onnx": before}, {"out.onnx": digest(target)})
    assert before in text
    assert digest(target) in text
    # The command line as it was given.
    assert f"onnxmerge {source} {target} --calib" in text
    assert "--report" in text
    # 10 classes: what changed is what the agreement says.
    confusion = account["differences"]["confusion"]
    changed = sum(count for old, new, count in confusion["moves"] if old != new)
    agreement = account["fidelity"]["outputs"][0]["top1_agreement"]
    assert changed == round((1 - agreement) * account["fidelity"]["outputs"][0]["samples"])
    kept, lost, gained, never = confusion["right"]
    total = kept + lost + gained + never
    assert 100 * (kept + lost) / total == pytest.approx(account["accuracy_before"])
    assert 100 * (kept + gained) / total == pytest.approx(account["accuracy_after"])
    assert f"changed for {changed} of {total} samples" in text
    assert account["environment"]["provider"] == "CPUExecutionProvider"
    assert {"harm", "depth", "latency"} <= set(read.ids)
    assert sum(tag == "img" for tag, _ in read.tags) == len(account["differences"]["worst"])


def test_a_dry_run_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "dry.html"
    assert cli.main([str(MODEL), "--dry-run", "--method", "prune", "--report", str(page), "-q"]) == 0
    text = "".join(Reader(page.read_text(encoding="utf-8")).text)
    assert "nothing was written" in text
    assert "not verified" in text


def test_what_a_gate_refuses_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, target = tmp_path / "refused.html", tmp_path / "out.onnx"
    words = [str(MODEL), str(target), "--ratio", "0.9", "--method", "prune", "--data", str(DATA), "--max-drop", "1"]
    assert cli.main([*words, "--provider", "cpu", "--report", str(page), "-q"]) == GateError.exit_status
    assert not target.exists()
    error = capsys.readouterr().err
    assert f"{page} shows the rejected result" in error
    read = Reader(page.read_text(encoding="utf-8"))
    assert "Rejected by a gate" in "".join(read.text)
    assert "groups" in read.cells


def test_in_python(tmp_path: Path) -> None:
    with pytest.raises(NothingToCutError, match=r"at most 10\.\d % can be removed: skipped by --skip"):
        onnxmerge.compress(MODEL, 0.5, method="prune", data=DATA, provider="cpu", skip=("/fc1/*",))
    options: dict[str, Any] = {"method": "prune", "skip": ("/fc1/*",), "round_to": 1, "best_effort": True}
    with pytest.warns(onnxmerge.OnnxMergeWarning, match=r"asked for 50\.0 % of the MACs, reached 11\.5 %"):
        result = onnxmerge.compress(MODEL, 0.5, data=DATA, provider="cpu", **options)
    assert result.report.call == (
        f"onnxmerge.compress({str(MODEL)!r}, data={str(DATA)!r}, ratio=0.5, method='prune', "
        "skip=('/fc1/*',), round_to=1, best_effort=True, provider='cpu')"
    )
    page = result.report.html(tmp_path / "report.html")
    assert Reader(page.read_text(encoding="utf-8")).column("groups", 3) == ["300", "100"]
    with pytest.raises(GateError) as refused:
        onnxmerge.compress(MODEL, 0.9, method="prune", data=DATA, provider="cpu", max_drop=1.0)
    account = refused.value.account
    assert isinstance(account, Report)
    assert account.refused == str(refused.value)
    assert account.target is None


def test_the_call_names_every_option_of_samples(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra `images` is not installed")
    pictures, file = tmp_path / "pictures", tmp_path / "p.json"
    file.write_text('{"do_normalize": true, "image_mean": [0.25], "image_std": [2.0]}')
    pictures.mkdir()
    for number in range(12):
        image.new("L", (32, 32), 20 * number).save(pictures / f"{number}.png")
    images = onnxmerge.ImageOptions(mean=(0.5,), resize=(28, 28), preprocessor=file)
    made = onnxmerge.compress(
        MODEL, 0.5, method="prune", calibration=pictures, calib_size=7, images=images, verify=False
    ).report
    assert made.call == (
        f"onnxmerge.compress({str(MODEL)!r}, calibration={str(pictures)!r}, calib_size=7, "
        f"images=onnxmerge.ImageOptions(mean=(0.5,), resize=(28, 28), preprocessor={str(file)!r}), "
        "ratio=0.5, method='prune', verify=False)"
    )
    again = eval(made.call, {"onnxmerge": onnxmerge}).report
    assert (again.call, again.settings, again.groups) == (made.call, made.settings, made.groups)
    assert (made.settings["calib_size"], made.settings["images"]) == (7, dataclasses.asdict(images))


def test_two_models_are_compared_on_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra `images` is not installed")
    file = tmp_path / "p.json"
    file.write_text('{"do_normalize": true, "image_mean": [0.25], "image_std": [2.0]}')
    for number in range(4):
        image.new("L", (28, 28), 60 * number).save(tmp_path / f"{number}.png")
    smaller = onnxmerge.compress(MODEL, 0.5, method="prune", verify=False).model
    pixels = np.stack([np.full((1, 28, 28), 60 * number / 255) for number in range(4)])
    by_hand = {"images": ((pixels - 0.25) / 2.0).astype(np.float32)}
    images = onnxmerge.ImageOptions(preprocessor=str(file))  # type: ignore[arg-type]
    seen, plain, expected = (
        onnxmerge.compare(MODEL, smaller, data=data, images=options, provider="cpu").fidelity
        for data, options in ((tmp_path, images), (tmp_path, None), (by_hand, None))
    )
    assert seen is not None
    assert plain is not None
    assert expected is not None
    assert seen.cosine == pytest.approx(expected.cosine, rel=1e-6)
    assert seen.cosine != pytest.approx(plain.cosine, rel=1e-3)


def test_a_size_of_samples_is_looked_at() -> None:
    few = onnxmerge.compress(MODEL, 0.5, method="prune", calibration=CALIBRATION, calib_size=3, provider="cpu")
    assert "3 of " in few.report.samples
    usual = inspect.signature(onnxmerge.compress).parameters["calib_size"].default
    assert usual == CALIB_SIZE


def test_json_and_page_name_the_command(tmp_path: Path) -> None:
    words = [str(MODEL), "--dry-run", "--method", "prune", "--calib", str(CALIBRATION), "--calib-size", "9", "-q"]
    words += ["--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "a.html")]
    assert cli.main(words) == 0
    account = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert account["call"] == f"onnxmerge {shlex.join(words)}"
    assert account["call"] in "".join(Reader((tmp_path / "a.html").read_text(encoding="utf-8")).text)


def test_what_a_gate_refuses_is_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale, page, target = (tmp_path / name for name in ("a.json", "a.html", "out.onnx"))
    stale.write_text('{"refused": ""}')
    words = [str(MODEL), str(target), "--ratio", "0.9", "--method", "prune", "--data", str(DATA), "--max-drop", "1"]
    words += ["--provider", "cpu"]
    assert cli.main([*words, "--json", str(stale), "--report", str(page)]) == GateError.exit_status
    account = json.loads(stale.read_text(encoding="utf-8"))
    out, err = capsys.readouterr()
    assert account["refused"] in err
    assert len(account["refused"]) > len("--max-drop")
    assert (account["target"], out) == (None, "")
    assert f"{stale} and {page} show the rejected result" in err
    assert cli.main([*words, "--json", "-", "-q"]) == GateError.exit_status
    assert json.loads(capsys.readouterr().out)["refused"] == account["refused"]


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up between the check of a page and its writing."""

    def refuse(_: Report, target: Path) -> Path:
        raise UsageError(f"{target} cannot be written: No space left on device")

    monkeypatch.setattr(Report, "html", refuse)


@pytest.mark.usefixtures("no_page")
def test_a_page_that_fails_hides_no_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(MODEL), str(tmp_path / "o.onnx"), "--ratio", "0.9", "--method", "prune", "--data", str(DATA)]
    words += ["--max-drop", "1", "--provider", "cpu", "--report", str(tmp_path / "a.html"), "-q"]
    assert cli.main([*words, "--json", str(tmp_path / "a.json")]) == GateError.exit_status
    err = capsys.readouterr().err
    assert "a.html cannot be written: No space left on device" in err
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["refused"] in err


@pytest.mark.usefixtures("no_page")
def test_a_page_that_fails_hides_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, data = tmp_path / "o.onnx", tmp_path / "a.json"
    words = [str(MODEL), str(target), "--method", "prune", "--no-verify", "--report", str(tmp_path / "a.html")]
    assert cli.main([*words, "--json", str(data)]) == UsageError.exit_status
    out, err = capsys.readouterr()
    assert "of the MACs removed" in out
    assert json.loads(data.read_text(encoding="utf-8"))["target"] == str(target)
    assert target.exists()
    assert f"{target} was written; {tmp_path / 'a.html'} cannot be written: No space left on device" in err


def test_a_network_is_drawn(tmp_path: Path) -> None:
    page = tmp_path / "network.html"
    assert cli.main(["inspect", str(MODEL), "--html", str(page), "-q"]) == 0
    read = Reader(page.read_text(encoding="utf-8"))
    assert len(read.ids) == len(set(read.ids))
    inspection = onnxmerge.inspect(MODEL)
    rows = [given for tag, given in read.tags if given.get("class") == "block"]
    ops = [entry.op for entry in inspection.network]
    assert len(ops) == inspection.nodes + 2
    assert 0 < len(rows) < len(ops)
    text = "".join(read.text)
    assert all(entry.name in text for entry in inspection.network)
    assert read.column("groups", 2) == [str(group.size) for group in inspection.groups]
    touched = {number for row in rows for number in str(row["data-groups"]).split()}
    assert touched == {str(number) for number in range(len(inspection.groups))}
    assert sum(entry.macs for entry in inspection.network) == inspection.sizes.macs


def test_a_page_takes_the_place_of_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "model.html"
    shutil.copy(MODEL, source)
    before = source.read_bytes()
    out = str(tmp_path / "out.html")
    for words in (
        [str(source), out, "--report", str(source)],
        [str(source), out, "--report", out],
        [str(source), out, "--report", str(tmp_path / "same.html"), "--json", str(tmp_path / "same.html")],
        [str(source), out, "--report", str(tmp_path / "report.txt")],
        ["inspect", str(source), "--html", str(source)],
    ):
        assert cli.main([*words, "-q"]) == UsageError.exit_status
        assert "Traceback" not in capsys.readouterr().err
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.html"]
