"""Labels from folders: numbered as training code does, and not invented where folders are no classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples import Samples, load_samples
from onnxmerge.samples.classes import find_images

SPEC = TensorSpec("x", "float32", ("N", 3, 4, 4))


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return folder


def labels(folder: Path, *, labelled: bool = True, **numbers: int) -> list[int] | None:
    found = find_images(folder, numbers, labelled=labelled)
    assert found is not None
    return None if found.labels is None else found.labels[:, 0].tolist()


def test_names_are_sorted_as_torchvision_sorts_them(tmp_path: Path) -> None:
    fill(tmp_path, "n10/a.png", "n2/a.png", "n2/b.jpg", "Z/a.png", "a/deep/er/a.png")
    assert sorted(["n10", "n2", "Z", "a"]) == ["Z", "a", "n10", "n2"]
    assert labels(tmp_path) == [0, 1, 2, 3, 3]


def test_a_class_without_images_keeps_its_number(tmp_path: Path) -> None:
    (fill(tmp_path, "a/1.png", "c/1.png") / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert labels(tmp_path) == [0, 2]


def test_numbers_and_the_model_s_own_names(tmp_path: Path) -> None:
    assert labels(fill(tmp_path / "one", "10/a.png", "2/a.png")) == [2, 10]
    folder = fill(tmp_path / "two", "cat/a.png", "dog/a.png")
    assert labels(folder) == [0, 1]
    assert labels(folder, dog=3, cat=7, bee=0) == [7, 3]
    assert labels(folder, bee=0) == [0, 1]
    with pytest.raises(UsageError, match="subfolder 'dog' is none of the 2 classes"):
        labels(folder, cat=7, bee=0)
    assert labels(fill(tmp_path / "three", "cat/a.png"), cat=7) == [7]


@pytest.mark.parametrize(
    ("files", "numbers", "why"),
    [
        (
            ("train/a.png", "train/deep/b.png", "val/a.png"),
            {},
            "contains train, val, the parts of a data set; give one of them",
        ),
        (("a/1.png", "a/2.png", "b/1.png"), {"a": 0, "c": 1}, "subfolder 'b' is none of the 2 classes"),
    ],
)
def test_labels_that_are_open_are_left_out_where_none_are_needed(
    tmp_path: Path, files: tuple[str, ...], numbers: dict[str, int], why: str
) -> None:
    fill(tmp_path, *files)
    with pytest.raises(UsageError, match=why):
        load_samples(tmp_path, [SPEC], numbers=numbers)
    samples = load_samples(tmp_path, [SPEC], numbers=numbers, labelled=False)
    assert (samples.count, samples.labels) == (3, None)
    assert len(samples.notes) == 1
    assert samples.notes[0].startswith(f"images have no labels; {tmp_path}: {why}")


def test_labels_that_are_sure_stay_where_none_are_needed(tmp_path: Path) -> None:
    fill(tmp_path, "b/1.png", "a/1.png")
    assert labels(tmp_path, labelled=False) == [0, 1]
    assert labels(tmp_path, labelled=False, b=3, a=5) == [5, 3]
    assert labels(tmp_path, labelled=False, c=3) == [0, 1]


def test_what_is_no_class(tmp_path: Path) -> None:
    coco = fill(tmp_path / "coco", "train2017/a.png", "val2017/a.png")
    (coco / "annotations").mkdir()
    with pytest.raises(UsageError, match=r"contains train2017, val2017, the parts of a data set; give one of them"):
        labels(coco)
    (coco / "annotations" / "instances.json").write_text("{}")
    assert labels(coco) is None
    yolo = fill(tmp_path / "yolo", "images/a.png", "images/b.png")
    (yolo / "labels").mkdir()
    assert labels(yolo) is None
    found = find_images(yolo, {})
    assert found is not None
    assert "all images are in images" in found.note
    assert find_images(tmp_path / "yolo" / "labels", {}) is None


def test_corrupt_pictures_are_named(tmp_path: Path) -> None:
    """Every suffix, cut short and with a byte changed: a picture, or one line with the file's name."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    refused = 0
    for suffix in ("png", "jpg", "bmp", "gif", "ppm", "tiff", "webp"):
        path = tmp_path / f"a.{suffix}"
        pixels.save(path)
        whole = path.read_bytes()
        for trial in range(30):
            damaged = bytearray(whole[: int(rng.integers(0, len(whole)))] if trial % 2 else whole)
            for _ in range(3):
                if damaged:
                    damaged[int(rng.integers(0, len(damaged)))] = int(rng.integers(0, 256))
            path.write_bytes(damaged)
            try:
                load_samples(tmp_path, [SPEC])
            except UsageError as error:
                refused += 1
                assert str(path) in str(error)
                assert "\n" not in str(error)
        path.unlink()
    assert refused > 60


def one(folder: Path, image: Image.Image, channels: int = 3, **saving: Any) -> Samples:
    folder.mkdir()
    image.save(folder / "a.png", **saving)
    return load_samples(folder, [TensorSpec("x", "uint8", ("N", channels, None, None))])


def test_modes_of_pictures(tmp_path: Path) -> None:
    red = Image.new("RGB", (3, 2), (200, 10, 20))
    for mode in ("RGB", "RGBA", "P"):
        got = one(tmp_path / mode, red.convert(mode) if mode != "P" else red.quantize(4)).feeds[0]["x"]
        assert got[0, :, 0, 0].tolist() == [200, 10, 20], mode
    for mode, value in (("L", 77), ("LA", (77, 9)), ("1", 255)):
        got = one(tmp_path / f"grey{mode}", Image.new(mode, (3, 2), value)).feeds[0]["x"]
        assert got[0, :, 1, 2].tolist() == [77 if mode != "1" else 255] * 3
    assert one(tmp_path / "to_grey", Image.new("RGBA", (3, 2), (50, 50, 50, 0)), 1).feeds[0]["x"].max() == 50
    with pytest.raises(UsageError, match=r"a\.png: expected 8 bits per channel, got mode I;16"):
        one(tmp_path / "deep", Image.new("I;16", (3, 2)))


def test_exif_turns_a_picture(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    got = one(tmp_path / "turned", image, exif=exif).feeds[0]["x"]
    assert got.shape == (1, 3, 3, 2)
    assert got[0, 0].tolist() == [[0, 255], [0, 0], [0, 0]]
