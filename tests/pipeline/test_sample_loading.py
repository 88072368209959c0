"""What is said of samples that serve two purposes: those of the fit, and those held out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import Net
from tests.calls import compress, compress_file

RATIO = Options(ratio=0.3)


def classifier(pixels: int = 36) -> onnx.ModelProto:
    net = Net(opset=17)
    h = net.add("Relu", net.gemm(net.input("N", pixels), pixels, 32, name="hidden"))
    net.output(net.gemm(h, 32, 3, name="classes"), 2)
    return net.model()


def rows(count: int) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(0).standard_normal((count, 36)).astype(np.float32)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model, samples = tmp_path / "in.onnx", tmp_path / "samples.npz"
    onnx.save(classifier(), model)
    np.savez(samples, x=rows(60)["x"])
    return model, samples


def test_the_file_and_the_number_measured_on_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = files
    report = compress_file(model, tmp_path / "out.onnx", RATIO, calibration=samples, calib_size=50)
    assert report.samples == f"10 of the 50 samples taken from {samples}, held out of the fit"
    assert report.fidelity is not None
    assert report.fidelity.outputs[0].samples == 10


def test_a_search_names_the_samples_that_it_measured_on(files: tuple[Path, Path]) -> None:
    model, samples = files
    report = compress(model, Options(), calibration=samples, verification=Verification(min_cosine=0.5)).report
    assert any(f"the gate on 12 of the 60 samples taken from {samples}, held" in note for note in report.notes)


@pytest.mark.parametrize("count", [4, 60])
@pytest.mark.parametrize("dry_run", [False, True])
def test_no_measurement_is_claimed_where_there_is_none(
    files: tuple[Path, Path], tmp_path: Path, count: int, dry_run: bool
) -> None:
    report = compress_file(
        files[0], tmp_path / "out.onnx", RATIO, calibration=rows(count), dry_run=dry_run,
        verification=Verification(enabled=False),
    )  # fmt: skip
    assert any("held out of the fit" in note or "hold some out of the fit" in note for note in report.notes)
    assert not any("measured" in note for note in report.notes)


def test_a_label_that_is_no_class_is_told_with_its_file(files: tuple[Path, Path]) -> None:
    held = files[1].with_name("held.npz")
    np.savez(held, x=rows(20)["x"], labels=np.arange(20) % 4)
    for second in (None, files[1]):
        with pytest.raises(UsageError, match=rf"^{held}: expected labels in 0\.\.2, the classes of the output, got 3"):
            compress(files[0], RATIO, calibration=second, data=held)


def test_arrays_that_do_not_fit_are_not_told_with_a_temporary_file() -> None:
    with pytest.raises(UsageError, match=r"^arrays\[x\]: expected"):
        compress(classifier(), RATIO, calibration={"x": np.zeros((3, 5), np.float32)})


def test_synthetic_samples_are_counted_without_those_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_MOST_SYNTHETIC", 64), ("_CHEAP_SYNTHETIC", 64)):
        monkeypatch.setattr(f"onnxmerge.pipeline.synthetic_fit.{name}", value)
    notes = compress(classifier(), RATIO, verification=Verification(enabled=False)).report.notes
    (said,) = [note for note in notes if note.startswith("no samples were given")]
    assert "fitted on the 64 with the most confident predictions, evenly from all classes, of 512 synthetic" in said
