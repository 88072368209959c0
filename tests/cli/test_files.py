"""No file of a run is written over another one of it: what is there is the same afterwards, and the error says why."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxmerge.cli import main

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8] x) => (float[N,4] y)
<float[300,8] w1, float[4,300] w2>
{
    h = Gemm<transB = 1>(x, w1)
    a = Relu(h)
    y = Gemm<transB = 1>(a, w2)
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, the same with its weights beside it, samples of three forms and a preprocessor's file."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    proto = parser.parse_model(TEXT)
    for name, shape in (("w1", (300, 8)), ("w2", (4, 300))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.save(proto, "m.onnx")
    onnx.save(proto, "ext.onnx", save_as_external_data=True, location="ext.onnx.data")
    samples = rng.standard_normal((20, 8)).astype(np.float32)
    np.savez("c.npz", x=samples)
    Path("parts").mkdir()
    np.savez("parts/a.npz", x=samples)
    Path("p.json").write_text("{}")
    Path("preprocessor_config.json").write_text("{}")
    os.link("c.npz", "hard.json")
    Path("soft.json").symlink_to("c.npz")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CUT = ("m.onnx", "o.onnx", "-q", "--method", "prune", "--no-verify")
CASES: tuple[tuple[Sequence[str], str], ...] = (
    ((*CUT, "--json", "m.onnx"), "--json m.onnx is one of the models"),
    ((*CUT, "--json", "o.onnx"), "--json o.onnx is one of the models"),
    ((*CUT, "--calib", "c.npz", "--json", "c.npz"), "--json c.npz is the file of --calib"),
    ((*CUT, "--calib", "c.npz", "--json", "hard.json"), "--json hard.json is the file of --calib"),
    ((*CUT, "--calib", "c.npz", "--json", "soft.json"), "--json soft.json is the file of --calib"),
    ((*CUT, "--data", "c.npz", "--json", "./c.npz"), "--json c.npz is the file of --data"),
    ((*CUT, "--preprocessor", "p.json", "--json", "p.json"), "--json p.json is the file of --preprocessor"),
    ((*CUT, "--json", "preprocessor_config.json"), "defines the preprocessing of samples"),
    ((*CUT, "--calib", "parts", "--json", "parts/a.npz"), "would become one of the samples in --calib"),
    ((*CUT, "--external-data", "--json", "o.onnx.data"), "may be used for weights of o.onnx"),
    ((*CUT, "--json", "o.onnx.1.data"), "may be used for weights of o.onnx"),
    (("m.onnx", "c.npz", "--calib", "c.npz", "-q"), "OUT c.npz is the file of --calib"),
    (("m.onnx", "ext.onnx", "-q", "--json", "ext.onnx.data"), "--json ext.onnx.data contains weights of ext.onnx"),
    (("inspect", "ext.onnx", "--json", "ext.onnx.data"), "--json ext.onnx.data contains weights of ext.onnx"),
    (("compare", "m.onnx", "ext.onnx", "--json", "ext.onnx.data"), "--json ext.onnx.data contains weights of ext.onnx"),
    (("compare", "m.onnx", "m.onnx", "--data", "c.npz", "--json", "c.npz"), "--json c.npz is the file of --data"),
    (("tradeoff", "m.onnx", "--plot", "p.svg", "--json", "p.svg"), "--plot p.svg is the file of --json"),
    (("tradeoff", "m.onnx", "--calib", "parts", "--plot", "parts/p.png"), "would become one of the samples in --calib"),
    (("inspect", "m.onnx", "--html", "n.html", "--json", "n.html"), "--html n.html is the file of --json"),
    ((*CUT, "--report", "r.html", "--json", "r.html"), "--report r.html is the file of --json"),
)


@pytest.mark.parametrize(("words", "part"), CASES)
def test_what_a_run_reads_or_writes_is_not_written_over(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], part: str
) -> None:
    before = contents(folder)
    assert main(list(words)) == 2
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ((*CUT, "--calib", "c.npz", "--json", "a.json"), {"o.onnx", "a.json"}),
        ((*CUT, "--calib", "parts", "--json", "parts/a.json"), {"o.onnx", "parts/a.json"}),
        ((*CUT, "--external-data", "--json", "data.json"), {"o.onnx", "o.onnx.data", "data.json"}),
        (("inspect", "ext.onnx", "-q", "--json", "o.onnx.data"), {"o.onnx.data"}),
    ],
)
def test_other_names_are_free(folder: Path, words: Sequence[str], made: set[str]) -> None:
    before = contents(folder)
    assert main(list(words)) == 0
    after = contents(folder)
    assert after.keys() - before.keys() == made
    assert {name: after[name] for name in before} == before


def test_a_file_that_is_written_again_and_again(folder: Path) -> None:
    run: Callable[[], int] = lambda: main([*CUT, "--external-data", "--json", "a.json"])  # noqa: E731
    assert [run(), run()] == [0, 0]
    assert (folder / "a.json").read_text(encoding="utf-8").startswith("{")
