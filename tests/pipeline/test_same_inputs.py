"""Which models can be compared on the same samples."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxmerge.cli import main
from onnxmerge.errors import UsageError
from onnxmerge.graph import load
from onnxmerge.pipeline.same_inputs import check_same_inputs
from tests.builders import Net
from tests.calls import compare


def model(*dims: int | str, name: str = "x") -> onnx.ModelProto:
    net = Net(opset=17)
    net.output(net.add("Relu", net.input(*dims, name=name)), len(dims))
    return net.model()


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (("N", 1, 28, 28), ("N", 3, 32, 32), "'x' is (N, 1, 28, 28) in <ModelProto> and (N, 3, 32, 32) in"),
        ((1, 3, 8, 8), (4, 3, 8, 8), "'x' is (1, 3, 8, 8) in <ModelProto> and (4, 3, 8, 8) in <ModelProto>"),
        (("N", 3, 8), ("N", 3, 8, 8), "(N, 3, 8) in"),
    ],
)
def test_unequal_fixed_lengths_and_ranks_are_refused(
    one: tuple[int | str, ...], two: tuple[int | str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        check_same_inputs(load(model(*one)), load(model(*two)))


def test_free_lengths_fit_any() -> None:
    for one in (("N", 3, "H", "W"), (1, 3, "H", 8), (1, 3, 8, 8)):
        for two in (("M", 3, 8, 8), (1, 3, "h", "w")):
            check_same_inputs(load(model(*one)), load(model(*two)))


def test_names_have_to_be_the_same() -> None:
    with pytest.raises(UsageError, match="different inputs: x and y"):
        check_same_inputs(load(model("N", 3)), load(model("N", 3, name="y")))


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_free_in_one_is_measured_at_the_lengths_of_the_other(swapped: bool) -> None:
    models = []
    for sides in (("H", "W"), (8, 8)):
        net = Net(opset=17)
        net.output(net.conv(net.input("N", 3, *sides), 3, 4))
        models.append(net.model())
    one, two = reversed(models) if swapped else models
    report = compare(one, two)
    assert report.before.macs == report.after.macs
    assert report.fidelity is not None
    assert report.fidelity.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((4, 8, 8), ("N", 8, 8)),
        ((4, 8, 8), ("N", "H", "W")),
        (("N", "H", "W"), ("N", 8, "w")),
        ((1, 8, 8), ("N", "H", 8)),
    ],
)
def test_lengths_of_both_are_put_together(
    first: tuple[int | str, ...], second: tuple[int | str, ...], swapped: bool
) -> None:
    models = []
    for batch, *sides in (first, second):
        net = Net(opset=17)
        net.output(net.conv(net.input(batch, 3, *sides), 3, 4))
        models.append(net.model())
    report = compare(*(reversed(models) if swapped else models))
    assert report.before.macs == report.after.macs
    assert report.fidelity is not None
    assert report.fidelity.cosine == pytest.approx(1.0)


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model("N", 1, 28, 28), tmp_path / "a.onnx")
    onnx.save(model("N", 3, 32, 32), tmp_path / "b.onnx")
    assert main(["compare", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]) == 2
    error = capsys.readouterr().err
    assert "input 'x' is (N, 1, 28, 28) in" in error
    assert "--shape" not in error
    assert len(error.strip().splitlines()) == 1
