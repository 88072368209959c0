"""A preprocessor_config.json: read into options, found where people keep it, and refused where it says more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples import ImageOptions, load_samples
from onnxmerge.samples.image_options import NO_FILE
from onnxmerge.samples.preprocessor import FILE_NAME, KINDS, read_preprocessor

FREE = TensorSpec("x", "float32", ("N", 3, None, None))
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "size": 224, "resample": 3}
DEFAULTS: list[tuple[str, dict[str, object], object, object, str]] = [
    ("Beit", {"do_center_crop": True}, (300, 300), (224, 224), "bicubic"),
    ("Bit", {}, 300, (224, 224), "bicubic"),
    ("CLIP", {}, 300, (224, 224), "bicubic"),
    ("ConvNext", {"resample": 2}, 342, (300, 300), "bilinear"),
    ("DeiT", {}, (300, 300), (224, 224), "bicubic"),
    ("MobileNetV1", {}, 300, (224, 224), "bilinear"),
    ("MobileNetV2", {}, 300, (224, 224), "bilinear"),
    ("MobileViT", {"resample": 3}, 300, (256, 256), "bicubic"),
    ("Pvt", {"resample": 3}, (300, 300), None, "bicubic"),
    ("Segformer", {}, (300, 300), None, "bilinear"),
    ("Siglip", {}, 300, None, "bicubic"),
    ("ViT", {}, (300, 300), None, "bilinear"),
    ("CLIP", {"crop_size": 200}, 300, (200, 200), "bicubic"),
    ("CLIP", {"do_center_crop": False, "crop_size": 200}, 300, None, "bicubic"),
    ("CLIP", {"resample": 0}, 300, (224, 224), "nearest"),
    ("ConvNext", {"do_resize": False}, None, None, "bilinear"),
]
"""Kind and keys of a file with a size of 300, and what becomes of it: as transformers have it in 4.49.0 and 5.23.0."""
NUMBERS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}


def write(folder: Path, **keys: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.write_text(json.dumps(keys))
    return path


def picture(folder: Path, width: int = 40, height: int = 30) -> Image.Image:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(folder / "a.png")
    return image


def loaded(folder: Path, images: ImageOptions | None = None, spec: TensorSpec = FREE, **kwargs: Any) -> Any:
    return load_samples(folder, [spec], images=images, **kwargs).feeds[0]["x"][0]


def test_a_whole_file_does_what_it_says(tmp_path: Path) -> None:
    """The chain written out with Pillow and NumPy: resize, cut, rescale, normalise, channels first."""
    image = picture(tmp_path)
    write(
        tmp_path, image_processor_type="CLIPImageProcessorFast", do_resize=True, size={"shortest_edge": 21}, resample=3,
        do_center_crop=True, crop_size={"height": 16, "width": 20}, do_rescale=True, rescale_factor=1 / 255,
        do_normalize=True, do_convert_rgb=True, size_divisor=None, do_pad=False, **NUMBERS,
    )  # fmt: skip
    resized = np.asarray(image.resize((28, 21), Image.Resampling.BICUBIC))
    cut = resized[2:18, 4:24].astype(np.float64) / 255
    expected = ((cut - NUMBERS["image_mean"]) / np.array(NUMBERS["image_std"])).transpose(2, 0, 1)
    got = loaded(tmp_path)
    assert got.shape == (3, 16, 20)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    wrong = ((cut - np.array(NUMBERS["image_mean"]) * 1.01) / np.array(NUMBERS["image_std"])).transpose(2, 0, 1)
    assert np.abs(got - wrong).max() > 1e-3


@pytest.mark.parametrize(
    ("keys", "resize", "crop"),
    [
        ({"size": 8}, (8, 8), None),
        ({"size": [8, 9]}, (8, 9), None),
        ({"size": {"height": 8, "width": 9}}, (8, 9), None),
        ({"size": {"shortest_edge": 8}}, 8, None),
        ({"size": 8, "image_processor_type": "ViTImageProcessor"}, (8, 8), None),
        ({"size": 8, "feature_extractor_type": "CLIPFeatureExtractor", "do_center_crop": False}, 8, None),
        ({"size": 8, "default_to_square": False}, 8, None),
        ({"size": 8, "do_resize": False}, None, None),
        ({}, None, None),
        ({"size": 8, "crop_size": 6, "do_center_crop": True}, (8, 8), (6, 6)),
        ({"size": 8, "crop_size": 6, "do_center_crop": False}, (8, 8), None),
        ({"crop_size": {"height": 5, "width": 6}, "do_center_crop": True}, None, (5, 6)),
        ({**CONVNEXT, "size": {"shortest_edge": 224}}, 256, (224, 224)),
        ({**CONVNEXT, "crop_pct": 0.5}, 448, (224, 224)),
        ({**CONVNEXT, "size": 384, "crop_pct": 0.5}, (384, 384), None),
    ],
)
def test_forms_of_size(tmp_path: Path, keys: dict[str, object], resize: object, crop: object) -> None:
    options = read_preprocessor(write(tmp_path, **NUMBERS, **keys))
    assert (options.resize, options.crop) == (resize, crop)


def test_switches(tmp_path: Path) -> None:
    plain = read_preprocessor(write(tmp_path, **NUMBERS))
    assert (plain.scale, plain.mean, plain.std) == (1 / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    assert (plain.resample, plain.order) == ("bilinear", "RGB")
    raw = read_preprocessor(write(tmp_path, do_rescale=False, do_normalize=False, **NUMBERS))
    assert (raw.scale, raw.mean, raw.std) == (1.0, (0.0,), (1.0,))
    mobile = read_preprocessor(write(tmp_path, feature_extractor_type="MobileViTFeatureExtractor", size=8, resample=2))
    assert (mobile.order, mobile.mean, mobile.resize) == ("BGR", (0.0,), 8)
    assert read_preprocessor(write(tmp_path, resample=0, **NUMBERS)).resample == "nearest"


@pytest.mark.parametrize(("kind", "keys", "resize", "crop", "resample"), DEFAULTS)
def test_what_a_kind_has_for_keys_that_are_not_there(
    tmp_path: Path, kind: str, keys: dict[str, object], resize: object, crop: object, resample: str
) -> None:
    path = write(tmp_path, image_processor_type=f"{kind}ImageProcessor", size=300, **NUMBERS, **keys)
    options = read_preprocessor(path)
    assert (options.resize, options.crop, options.resample) == (resize, crop, resample)


def test_every_kind_has_a_row() -> None:
    assert {row[0] for row in DEFAULTS} | {""} == set(KINDS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_processor_type": "BeitImageProcessor", "size": 8}, "do_center_crop is missing"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 8}, "resample is null; expected one of 0 nearest"),
        ({"image_processor_type": "MobileViTImageProcessor", "size": 8}, "resample is null"),
        ({"image_processor_type": "PvtImageProcessor", "size": 8}, "resample is null"),
        ({"image_processor_type": "ViTImageProcessor"}, "size is null"),
        ({"do_center_crop": True}, "crop_size is null"),
        ({"do_pad": True}, "do_pad may change pixels"),
        ({"size_divisor": 32, "include_top": True}, "include_top, size_divisor may change pixels"),
        ({"image_processor_type": "LevitImageProcessor"}, "prepared by LevitImageProcessor, which is not known"),
        ({"size": {"longest_edge": 8}}, "expected a number, height and width, or shortest_edge"),
        ({"size": {"shortest_edge": 8, "longest_edge": 9}}, 'size is {"shortest_edge": 8, "longest_edge": 9}'),
        ({"size": -1}, "size is -1"),
        ({"size": True}, "size is true"),
        ({"do_resize": True}, "size is null"),
        ({"do_resize": "yes"}, 'do_resize is "yes"; expected true or false'),
        ({"crop_size": 6}, "do_center_crop is missing"),
        ({"crop_size": {"shortest_edge": 6}, "do_center_crop": True}, "expected a number, or height and width"),
        ({"crop_pct": 0.9}, "supported for ConvNext"),
        ({"resample": 9}, "expected one of 0 nearest, 1 lanczos"),
        ({"image_mean": None}, "image_mean is null; expected numbers"),
        ({"image_std": [0.2, 0, 1]}, "expected positive numbers"),
        ({"image_std": [0.2, "a", 1]}, "image_std is"),
        ({"rescale_factor": float("nan")}, "rescale_factor is NaN; expected one positive number"),
        ({"rescale_factor": 10**400}, "; expected one positive number"),
        ({"rescale_factor": [0.1, 0.2, 0.3]}, "rescale_factor is [0.1, 0.2, 0.3]; expected one positive number"),
        ({"rescale_factor": 0}, "rescale_factor is 0; expected one positive number"),
        ({"image_mean": 10**400}, "; expected numbers, one per channel"),
        ({"size": {"shortest_edge": 10**9}}, "of at most 16384 pixels"),
        ({"size": 16385}, "of at most 16384 pixels"),
        ({"crop_size": 16385, "do_center_crop": True}, "of at most 16384 pixels"),
        ({**CONVNEXT, "crop_pct": 0}, "crop_pct is 0; expected one positive number"),
        ({**CONVNEXT, "crop_pct": 1e-300}, "crop_pct is 1e-300; expected the share of a side"),
        ({**CONVNEXT, "crop_pct": 1.5}, "crop_pct is 1.5; expected the share of a side"),
        ({**CONVNEXT, "crop_pct": [0.9, 0.8]}, "crop_pct is [0.9, 0.8]; expected one positive number"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **{**NUMBERS, **keys})
    with pytest.raises(UsageError) as caught:
        read_preprocessor(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(UsageError, match=f"expected a {FILE_NAME}"):
        read_preprocessor(tmp_path / FILE_NAME)
    with pytest.raises(UsageError, match="cannot be read"):
        read_preprocessor(tmp_path / "none.json")


def test_where_it_is_found_and_who_wins(tmp_path: Path) -> None:
    images, model = tmp_path / "images", tmp_path / "model" / "onnx"
    picture(images)
    model.mkdir(parents=True)
    assert loaded(images, beside=model).shape == (3, 30, 40)
    for side, folder in ((12, model.parent), (11, model), (10, images)):
        file = write(folder, size=side, **NUMBERS)
        samples = load_samples(images, [FREE], beside=model)
        assert samples.feeds[0]["x"].shape == (1, 3, side, side)
        assert samples.notes[0].startswith(
            f"images are preprocessed according to {file}: {side}x{side}, bilinear, scale"
        )
    assert loaded(images, ImageOptions(preprocessor=model / FILE_NAME), beside=model).shape == (3, 11, 11)
    assert loaded(images, ImageOptions(preprocessor=NO_FILE), beside=model).shape == (3, 30, 40)
    explicit = loaded(images, ImageOptions(mean=(0.0,), std=(1.0,)), beside=model)
    assert explicit.shape == (3, 10, 10)
    assert explicit.min() >= 0
    assert loaded(images, ImageOptions(resize=(7, 8)), beside=model).shape == (3, 7, 8)
    file = write(images, do_pad=True, **NUMBERS)
    with pytest.raises(UsageError, match="do_pad may change pixels"):
        loaded(images)


def test_a_file_that_does_not_fit_the_model_is_named(tmp_path: Path) -> None:
    picture(tmp_path)
    file = write(tmp_path, size=10, **NUMBERS)
    for spec, message in (
        (TensorSpec("x", "float32", ("N", 3, 12, 12)), "expected height 12 .* got 10"),
        (TensorSpec("x", "float32", ("N", 1, None, None)), "--mean: expected 1 or 1 numbers"),
        (TensorSpec("x", "uint8", ("N", 3, None, None)), "pass --preprocessor none"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            loaded(tmp_path, spec=spec)
        assert str(file) in str(caught.value)
    with pytest.raises(UsageError, match="beyond the pixels"):
        loaded(tmp_path, ImageOptions(mean=(123.0,)))
    write(tmp_path, size=10, crop_size=11, do_center_crop=True, **NUMBERS)
    with pytest.raises(UsageError, match=r"a\.png: is 10 x 10, smaller than the centre of 11 x 11"):
        loaded(tmp_path)
