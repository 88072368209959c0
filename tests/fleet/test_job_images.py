"""Image options of a file of jobs: what they mean, what is refused, and that they reach the samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxmerge
from onnxmerge.errors import UsageError
from onnxmerge.fleet.job_images import images_of
from onnxmerge.fleet.jobs import Job, read_jobs
from onnxmerge.fleet.store import MODEL, name_of
from onnxmerge.samples import ImageOptions
from onnxmerge.samples.preprocessor import FILE_NAME
from tests.fleet.networks import small_network, weights


def test_keys_are_those_of_the_command(tmp_path: Path) -> None:
    given = {"mean": [0.5, 0.4, 0.3], "std": 2, "scale": 0.1, "resize": [8, 10], "calib": "photos"}
    assert images_of(given, tmp_path) == ImageOptions(mean=(0.5, 0.4, 0.3), std=(2.0,), scale=0.1, resize=(8, 10))
    assert images_of({"resize": 256}, tmp_path) == ImageOptions(resize=256)
    assert images_of({"preprocessor": "p.json"}, tmp_path) == ImageOptions(preprocessor=(tmp_path / "p.json").resolve())
    assert images_of({"preprocessor": "none"}, tmp_path) == ImageOptions(preprocessor=Path("none"))
    assert images_of({"calib": "photos", "mean": None}, tmp_path) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mean: [a]", "entry 1: mean is .*expected a finite number"),
        ("mean: []", "entry 1: mean is"),
        ("mean: .nan", "entry 1: mean is"),
        ("std: [1, 0]", "entry 1: std must be positive"),
        ("scale: [1, 2]", "entry 1: scale is .*expected one finite number"),
        ("scale: yes", "entry 1: scale is True"),
        ("resize: 224x224", r"entry 1: resize is '224x224'; expected 256 .* or \[224, 224\]"),
        ("resize: [0, 8]", "entry 1: resize is"),
        ("resize: [8, 8, 8]", "entry 1: resize is"),
        ("preprocessor: [a]", "entry 1: preprocessor is"),
        ("images: {mean: 1}", "entry 1 has the key 'images'"),
        ("means: 1", "entry 1 has the key 'means'.*'mean'"),
    ],
)
def test_mistakes_are_one_line_with_their_place(tmp_path: Path, line: str, words: str) -> None:
    pytest.importorskip("yaml", reason="needs onnxmerge[fleet]")
    (tmp_path / "a.onnx").write_bytes(b"")
    file = tmp_path / "jobs.yaml"
    file.write_text(f"models:\n- model: a.onnx\n  {line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=words) as refused:
        read_jobs(file, {})
    assert "\n" not in str(refused.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network and a folder of images."""
    onnx.save(small_network(0), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    for name in ("photos", "held"):
        (tmp_path / name).mkdir()
        for place in range(24):
            pixels = rng.integers(0, 256, (12, 14), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{place:02}.png")
    return tmp_path


@pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")  # few samples
def test_a_job_reads_images_as_compress_does(folder: Path) -> None:
    pytest.importorskip("threadpoolctl", reason="needs onnxmerge[fleet]")
    pytest.importorskip("yaml", reason="needs onnxmerge[fleet]")
    from onnxmerge.fleet.task import run_job

    text = "models:\n- {model: m.onnx, calib: photos, data: held, ratios: [0.4], round_to: 1, mean: 0.45, std: [0.2]}\n"
    (folder / "jobs.yaml").write_text(text, encoding="utf-8")
    (job,) = read_jobs(folder / "jobs.yaml", {})
    (found,) = run_job(job, str(folder / "out"), 1)
    assert found.state == "done"
    ours = weights(onnx.load(folder / "out" / found.name / MODEL))
    same, other = (
        weights(
            onnxmerge.compress(
                folder / "m.onnx", 0.4, calibration=folder / "photos", data=folder / "held", round_to=1, images=images
            ).model
        )
        for images in (ImageOptions(mean=(0.45,), std=(0.2,)), None)
    )
    for one, two in zip(ours, same, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
    # Inputs of 0..1 instead give other weights, or other channels.
    assert any(
        one.shape != two.shape or not np.allclose(one, two, rtol=1e-3, atol=1e-4)
        for one, two in zip(ours, other, strict=True)
    )


def test_a_name_depends_on_the_options_and_on_what_a_preprocessor_says(folder: Path) -> None:
    def job(**options: object) -> Job:
        return Job(str(folder / "m.onnx"), calib=str(folder / "photos"), images=images_of(options, folder))

    def wrote(file: str, mean: float) -> None:
        text = json.dumps({"do_normalize": True, "image_mean": [mean], "image_std": [1.0]})
        (folder / file).write_text(text, encoding="utf-8")

    names = [name_of(job(), 0.3), name_of(job(mean=0.5), 0.3), name_of(job(resize=[8, 8]), 0.3)]
    wrote("one.json", 0.5)
    names.append(name_of(job(preprocessor="one.json"), 0.3))
    wrote("one.json", 0.25)
    names.append(name_of(job(preprocessor="one.json"), 0.3))
    wrote(FILE_NAME, 0.75)  # beside the model, so it applies to the first job
    names.append(name_of(job(), 0.3))
    names.append(name_of(job(preprocessor="none"), 0.3))
    assert len(set(names)) == len(names)
    wrote("two.json", 0.25)  # the same content elsewhere
    assert name_of(job(preprocessor="two.json"), 0.3) == names[4]
