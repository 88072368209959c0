"""Read the preprocessing of images from the ``preprocessor_config.json`` of Hugging Face models.

The keys and their effects:
1. ``do_rescale``, ``rescale_factor``: the scale, 1/255 where no factor is given; off, pixels stay 0..255.
2. ``do_normalize``, ``image_mean``, ``image_std``: mean and standard deviation, a number a channel.
3. ``do_resize``, ``size``, ``resample``: ``{"height", "width"}`` is stretched to; ``{"shortest_edge"}`` is brought to
   the short side. A plain number is both sides, or the short side, as the kind of processor has it (``KINDS``).
   ``resample`` is a number of Pillow's.
4. ``do_center_crop``, ``crop_size``: the size of the centre crop after that.

   A missing key has the default of the kind of processor, if transformers 4.49.0 and 5.23.0 agree on it; else it is
   required (``KINDS``).
5. ``crop_pct`` (ConvNeXt): below 384 the short side becomes size / crop_pct and the centre is cut to size; from 384 on
   the picture is stretched to size.
6. ``do_flip_channel_order`` (MobileViT): the model takes BGR.
7. ``KEPT`` change no pixel that we make. Any other key that is not null and not false is refused by its name, as is a
   kind of processor that is not in ``KINDS``: incomplete preprocessing is worse than none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from onnxmerge.errors import UsageError
from onnxmerge.samples.image_options import LONGEST_SIDE, ImageOptions, Resample

__all__ = ["FILE_NAME", "find_preprocessor", "read_keys", "read_preprocessor"]

FILE_NAME = "preprocessor_config.json"

RESAMPLES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""In the order of Pillow's numbers."""

READ = frozenset(
    {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_resize", "size", "resample",
     "do_center_crop", "crop_size", "crop_pct", "do_flip_channel_order", "default_to_square",
     "image_processor_type", "feature_extractor_type"}
)  # fmt: skip
KEPT = frozenset(
    {"processor_class", "_processor_class", "auto_map", "_valid_processor_keys", "return_tensors", "data_format",
     "input_data_format", "do_convert_rgb", "do_reduce_labels", "reduce_labels", "disable_grouping", "device"}
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """The defaults of a kind of image processor.

    Attributes:
        square: A plain number as ``size`` is both sides; else it is the short side.
        resizes: It resizes where ``do_resize`` is not there; else only where there is a ``size``.
        resample: Its filter where ``resample`` is not there; None where that has to be said.
        crops: It cuts the centre where ``do_center_crop`` is not there; None where that has to be said.
        centre: Both sides of what it cuts where ``crop_size`` is not there; None where that has to be said.
        normalises: It normalises where ``do_normalize`` is not there.
        flips: It flips channels where ``do_flip_channel_order`` is not there.
        percent: Size and cut go by ``crop_pct``; a share where the file has none.
    """

    square: bool = True
    resizes: bool = True
    resample: Resample | None = "bilinear"
    crops: bool | None = False
    centre: int | None = None
    normalises: bool = True
    flips: bool = False
    percent: float | None = None


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "": Kind(resizes=False),
        "Beit": Kind(resample="bicubic", crops=None, centre=224),
        "Bit": Kind(square=False, resample="bicubic", crops=True, centre=224),
        "CLIP": Kind(square=False, resample="bicubic", crops=True, centre=224),
        "ConvNext": Kind(square=False, resample=None, percent=224 / 256),
        "DeiT": Kind(resample="bicubic", crops=True, centre=224),
        "MobileNetV1": Kind(square=False, crops=True, centre=224),
        "MobileNetV2": Kind(square=False, crops=True, centre=224),
        "MobileViT": Kind(square=False, resample=None, crops=True, centre=256, normalises=False, flips=True),
        "Pvt": Kind(resample=None),
        "Segformer": Kind(),
        "Siglip": Kind(square=False, resample="bicubic"),
        "ViT": Kind(),
    }
)
"""By the name without ``ImageProcessor``, ``ImageProcessorFast``, ``ImageProcessorPil`` or ``FeatureExtractor``."""


def find_preprocessor(samples: Path, beside: Path | None) -> Path | None:
    """The file in the folder of samples, else in the model's folder, else in its parent if it is named ``onnx``.

    Args:
        samples: The folder of images or sounds.
        beside: The model's folder; None if the model did not come from a file.
    """
    above = [beside.parent] if beside is not None and beside.name == "onnx" else []
    places = [samples, *([beside] if beside is not None else []), *above]
    return next((folder / FILE_NAME for folder in places if (folder / FILE_NAME).is_file()), None)


def read_preprocessor(path: Path) -> ImageOptions:
    """Reads a file.

    Args:
        path: A ``preprocessor_config.json``.

    Raises:
        UsageError: The file cannot be read, or requires something unsupported; the message names the key.
    """
    given = read_keys(path)
    kind = _kind(path, given)
    unknown = sorted(key for key, value in given.items() if key not in READ | KEPT and value not in (None, False))
    if unknown:
        raise UsageError(
            f"{path}: {', '.join(unknown)} may change pixels in a way that is not known here; prepare arrays yourself "
            "(--calib samples.npz), or leave the file out with --preprocessor none and give --mean --std --resize"
        )
    scale = 1.0
    if _flag(path, given, "do_rescale", True):
        scale = _factor(path, given, "rescale_factor", 1 / 255)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if _flag(path, given, "do_normalize", kind.normalises):
        mean, std = _numbers(path, given, "image_mean"), _numbers(path, given, "image_std")
    if not all(each > 0 for each in std):
        raise UsageError(f"{path}: image_std is {list(std)}; expected positive numbers")
    resize, crop = _sizes(path, given, kind)
    return ImageOptions(
        mean=mean,
        std=std,
        scale=scale,
        resize=resize,
        crop=crop,
        resample=_resample(path, given, kind, resized=resize is not None),
        order="BGR" if _flag(path, given, "do_flip_channel_order", kind.flips) else "RGB",
        preprocessor=path,
    )


def read_keys(path: Path) -> Mapping[str, Any]:
    """The keys of a file that are not null.

    Raises:
        UsageError: It cannot be read, or is no JSON object.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected a {FILE_NAME}, but it is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise UsageError(f"{path}: expected a {FILE_NAME}, an object with keys, got {type(given).__name__}")
    return {key: value for key, value in given.items() if value is not None}


def _kind(path: Path, given: Mapping[str, Any]) -> Kind:
    named = str(given.get("image_processor_type", given.get("feature_extractor_type", "")))
    stem = named
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        stem = stem.removesuffix(ending)
    if stem not in KINDS:
        raise UsageError(
            f"{path}: pictures are prepared by {named}, which is not known here; prepare arrays yourself "
            "(--calib samples.npz), or leave the file out with --preprocessor none and give --mean --std --resize"
        )
    square = given.get("default_to_square")
    return KINDS[stem] if not isinstance(square, bool) else Kind(**{**vars(KINDS[stem]), "square": square})


def _sizes(
    path: Path, given: Mapping[str, Any], kind: Kind
) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """The sizes for resizing and cropping."""
    resize: int | tuple[int, int] | None = None
    if _flag(path, given, "do_resize", kind.resizes or "size" in given):
        resize = _size(path, given, "size", square=kind.square)
    if kind.percent is not None:
        if not isinstance(resize, int):
            return resize, None
        share = _factor(path, given, "crop_pct", kind.percent)
        if not resize / LONGEST_SIDE <= share <= 1:
            raise UsageError(
                f"{path}: crop_pct is {share:g}; expected the share of a side that is kept, at most 1, and at most "
                f"{LONGEST_SIDE} pixels before the cut"
            )
        return ((resize, resize), None) if resize >= 384 else (int(resize / share), (resize, resize))
    if "crop_pct" in given:
        raise UsageError(f"{path}: crop_pct is supported for ConvNext processors only; use --preprocessor none")
    return resize, _crop(path, given, kind)


def _crop(path: Path, given: Mapping[str, Any], kind: Kind) -> tuple[int, int] | None:
    if "do_center_crop" not in given and (kind.crops is None or ("crop_size" in given and not kind.crops)):
        raise UsageError(f"{path}: do_center_crop is missing and its default is ambiguous; set it to true or false")
    if not _flag(path, given, "do_center_crop", bool(kind.crops)):
        return None
    if "crop_size" not in given and kind.centre is not None:
        return kind.centre, kind.centre
    crop = _size(path, given, "crop_size", square=True)
    if isinstance(crop, int):
        raise UsageError(f"{path}: crop_size is {given['crop_size']}; expected a number, or height and width")
    return crop


def _size(path: Path, given: Mapping[str, Any], key: str, *, square: bool) -> int | tuple[int, int]:
    size = given.get(key)
    if _is_length(size):
        return (size, size) if square else size
    if isinstance(size, dict):
        sides = {name: side for name, side in size.items() if _is_length(side)}
        if len(sides) == sum(side is not None for side in size.values()):
            if sides.keys() == {"height", "width"}:
                return sides["height"], sides["width"]
            if sides.keys() == {"shortest_edge"}:
                return sides["shortest_edge"]
    if isinstance(size, list) and len(size) == 2 and all(_is_length(side) for side in size):
        return size[0], size[1]
    raise UsageError(
        f"{path}: {key} is {json.dumps(size)}; expected a number, height and width, or shortest_edge, of at most "
        f"{LONGEST_SIDE} pixels"
    )


def _is_length(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LONGEST_SIDE


def _flag(path: Path, given: Mapping[str, Any], key: str, default: bool) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise UsageError(f"{path}: {key} is {json.dumps(value)}; expected true or false")
    return value


def _numbers(path: Path, given: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = given.get(key)
    several = value if isinstance(value, list) else [value]
    numbers = tuple(float(each) for each in several if _is_number(each))
    if not several or len(numbers) < len(several):
        raise UsageError(f"{path}: {key} is {json.dumps(value)}; expected numbers, one per channel")
    return numbers


def _factor(path: Path, given: Mapping[str, Any], key: str, default: float) -> float:
    value = given.get(key, default)
    if not _is_number(value) or value <= 0:
        raise UsageError(f"{path}: {key} is {json.dumps(value)}; expected one positive number")
    return float(value)


def _is_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def _resample(path: Path, given: Mapping[str, Any], kind: Kind, *, resized: bool) -> Resample:
    if "resample" not in given and (kind.resample is not None or not resized):
        return kind.resample or "bilinear"
    value = given.get("resample")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(RESAMPLES):
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(RESAMPLES))
        raise UsageError(f"{path}: resample is {json.dumps(value)}; expected one of {numbered}")
    return RESAMPLES[value]
