"""Samples from a folder of images, turned into the one image-like input of a model.

A pixel p becomes ``(p * scale - mean) / std``, channel by channel, after:
1. reading and sizing, see ``pictures``; the channels are reversed for BGR;
2. layout: NCHW where axis 1 is 1 or 3 long, NHWC where axis 3 is; where both or neither is, that is an error.

Unspecified options are taken from a ``preprocessor_config.json``, if one is named or found: see ``preprocessor``.
Labels come from subfolders: see ``classes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.arrays import words
from onnxmerge.samples.casting import as_declared
from onnxmerge.samples.classes import Found, find_images
from onnxmerge.samples.image_options import NO_FILE, ImageOptions
from onnxmerge.samples.pictures import read_picture
from onnxmerge.samples.preprocessor import find_preprocessor, read_preprocessor
from onnxmerge.samples.source import unique

__all__ = ["ImageFolder", "ImageOptions", "open_images"]


@dataclass(frozen=True)
class ImageFolder:
    """Image files that fit one input.

    Attributes:
        found: The files, and their labels.
        spec: The input.
        options: How pixels become values.
        channels_last: Whether the input is NHWC.
        notes: The source of the options, if it is a file.
    """

    found: Found
    spec: TensorSpec
    options: ImageOptions
    channels_last: bool
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.found.files)

    @property
    def whole(self) -> bool:
        """An image is one sample, not a feed."""
        return False

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class numbers, shape ``(count, 1)``, or None."""
        return self.found.labels

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Reads the chosen images, one batch of one each."""
        feeds: list[Mapping[str, NDArray[Any]]] = []
        notes: list[str] = list(self.notes)
        for index in chosen:
            path = self.found.files[index]
            array, note = as_declared(self._values(path), self.spec, str(path))
            feeds.append({self.spec.name: array[None]})
            notes += [note] if note else []
        if self.found.note:
            notes.append(self.found.note)
        return feeds, unique(notes)

    def _values(self, path: Path) -> NDArray[Any]:
        dims = self.spec.dims or ()
        height, width, channels = (dims[1:4]) if self.channels_last else (dims[2], dims[3], dims[1])
        pixels = read_picture(path, (height, width), self.options, grey=channels == 1)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.options.order == "BGR":
            pixels = pixels[:, :, ::-1]
        for length, dim, axis in zip(pixels.shape, (height, width), ("height", "width"), strict=False):
            if isinstance(dim, int) and dim != length:
                raise UsageError(
                    f"{path}: expected {axis} {dim} for input '{self.spec.name}', got {length}{_source(self.options)}"
                )
        values: NDArray[Any] = pixels
        if _is_float(self.spec):
            scale = 1 / 255 if self.options.scale is None else self.options.scale
            exact = (pixels * scale - np.array(self.options.mean or 0.0)) / np.array(self.options.std or 1.0)
            values = exact.astype(np.float32)
        return np.ascontiguousarray(values if self.channels_last else values.transpose(2, 0, 1))


def open_images(
    folder: Path,
    inputs: Sequence[TensorSpec],
    options: ImageOptions,
    *,
    beside: Path | None = None,
    numbers: Mapping[str, int] | None = None,
    labelled: bool = True,
) -> ImageFolder | None:
    """Finds images in a folder, or in its subfolders.

    Args:
        folder: The folder to search.
        inputs: The model's inputs.
        options: The options of the user.
        beside: The model's folder, where a file with the rest of the options may lie.
        numbers: Class number by class name, as the model says.
        labelled: Whether labels are needed; see `find_images`.

    Returns:
        The images, or None where there are none.

    Raises:
        UsageError: The model has no single image-like input, or the options do not fit it.
    """
    found = find_images(folder, numbers or {}, labelled=labelled)
    if found is None:
        return None
    if len(inputs) != 1:
        raise UsageError(
            f"{folder}: images feed a model with one input, this one has {', '.join(repr(i.name) for i in inputs)}; "
            "use a .npz with one array per input"
        )
    spec = inputs[0]
    channels_last = _channels_last(folder, spec)
    dims = spec.dims or ()
    scaled = options.scale is not None
    file = options.preprocessor or find_preprocessor(folder, beside)
    notes: tuple[str, ...] = ()
    if file is not None and file != NO_FILE:
        options = options.over(read_preprocessor(file))
        notes = (f"images are preprocessed according to {file}: {options.described()}",)
    _check_options(options, spec, dims[3] if channels_last else dims[1])
    if not scaled:
        _check_mean(options, spec)
    return ImageFolder(found, spec, options, channels_last, notes)


def _channels_last(folder: Path, spec: TensorSpec) -> bool:
    dims = spec.dims
    if dims is not None and len(dims) == 4 and (dims[1] in {1, 3}) != (dims[3] in {1, 3}):
        return dims[3] in {1, 3}
    shown = "unknown" if dims is None else words(dims)
    raise UsageError(
        f"{folder}: holds images, but input '{spec.name}' has dims {shown}; expected rank 4 with 1 or 3 channels at "
        "axis 1 (NCHW) or axis 3 (NHWC); use a .npz with arrays in the model's layout"
    )


def _check_options(options: ImageOptions, spec: TensorSpec, channels: int | str | None) -> None:
    mean, std, source = options.mean or (0.0,), options.std or (1.0,), _source(options)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in {1, channels}:
            raise UsageError(
                f"--{name}: expected 1 or {channels} numbers for input '{spec.name}', got {len(values)}{source}"
            )
    if any(not value > 0 for value in std):
        raise UsageError(f"--std: expected positive numbers, got {', '.join(map(str, std))}{source}")
    changed = options.scale not in {None, 1.0} or set(mean) != {0.0} or set(std) != {1.0}
    if changed and not _is_float(spec):
        advice = "pass --preprocessor none" if options.preprocessor is not None else "leave out"
        raise UsageError(
            f"--mean, --std, --scale: input '{spec.name}' is {spec.dtype} and takes raw pixels; {advice}{source}"
        )


def _check_mean(options: ImageOptions, spec: TensorSpec) -> None:
    """Refuse a mean on another scale than that of the pixels, unless the user gives the scale."""
    largest = max(options.mean or (0.0,), key=abs)
    brightest = 255 * abs(1 / 255 if options.scale is None else options.scale)
    if _is_float(spec) and abs(largest) > 1.01 * brightest:  # a rounded factor such as 0.0039 is no mistake
        raise UsageError(
            f"--mean: {largest:g} is beyond the pixels, which the scale brings to 0..{brightest:g}; "
            f"for a mean in 0..255 pass --scale 1, else the scale that it belongs to{_source(options)}"
        )


def _source(options: ImageOptions) -> str:
    return "" if options.preprocessor in {None, NO_FILE} else f" (with {options.preprocessor})"


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("float", "bfloat"))
