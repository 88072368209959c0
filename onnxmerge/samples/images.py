"""Samples from a folder of images, turned into the one image-like input of a model.

A pixel p becomes ``(p * scale - mean) / std``, channel by channel, after:
1. rotation as the file's EXIF says, and conversion to grey or RGB (flipped for BGR);
2. size: none given, the image is stretched to the input's height x width, where these are fixed, else kept;
   one number, the short side is brought to it and the centre cut to the input's height x width;
   height and width, stretched to them;
3. layout: NCHW where axis 1 is 1 or 3 long, NHWC where axis 3 is; where both or neither is, that is an error.

Images in subfolders are labelled: by the folder's name where all are numbers, else by its position in sorted order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.arrays import words
from onnxmerge.samples.casting import as_declared
from onnxmerge.samples.source import natural_order, unique

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageFolder", "ImageOptions", "open_images"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageOptions:
    """How pixels become input values.

    Attributes:
        mean: Subtracted after scaling; one number, or one a channel.
        std: Divided by after that; positive, one number or one a channel.
        scale: Factor of the raw 0..255 pixel; None is 1/255 for float inputs and 1 for integer ones.
        resize: None, the short side, or (height, width); see the module's docstring.
        order: Channel order that the model expects.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float | None = None
    resize: int | tuple[int, int] | None = None
    order: Literal["RGB", "BGR"] = "RGB"


@dataclass(frozen=True)
class ImageFolder:
    """Image files that fit one input.

    Attributes:
        files: In order.
        spec: The input.
        options: How pixels become values.
        channels_last: Whether the input is NHWC.
        labels: Shape ``(count, 1)``, or None.
        classes: Names of the subfolders in label order; empty without labels.
    """

    files: tuple[Path, ...]
    spec: TensorSpec
    options: ImageOptions
    channels_last: bool
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.files)

    @property
    def whole(self) -> bool:
        """An image is one sample, not a feed."""
        return False

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Reads the chosen images, one batch of one each."""
        feeds: list[Mapping[str, NDArray[Any]]] = []
        notes: list[str] = []
        for index in chosen:
            array, note = as_declared(self._values(self.files[index]), self.spec, str(self.files[index]))
            feeds.append({self.spec.name: array[None]})
            notes += [note] if note else []
        if self.classes:
            notes.append(f"labels are subfolders in the order {', '.join(self.classes)}")
        return feeds, unique(notes)

    def _values(self, path: Path) -> NDArray[Any]:
        dims = self.spec.dims or ()
        height, width, channels = (dims[1:4]) if self.channels_last else (dims[2], dims[3], dims[1])
        pixels = _pixels(path, "L" if channels == 1 else "RGB", (height, width), self.options.resize)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.options.order == "BGR":
            pixels = pixels[:, :, ::-1]
        for length, dim, axis in zip(pixels.shape, (height, width), ("height", "width"), strict=False):
            if isinstance(dim, int) and dim != length:
                raise UsageError(f"{path}: expected {axis} {dim} for input '{self.spec.name}', got {length}")
        values: NDArray[Any] = pixels
        if self.spec.dtype.startswith(("float", "bfloat")):
            scale = 1 / 255 if self.options.scale is None else self.options.scale
            exact = (pixels * scale - np.array(self.options.mean)) / np.array(self.options.std)
            values = exact.astype(np.float32)
        return np.ascontiguousarray(values if self.channels_last else values.transpose(2, 0, 1))


def open_images(folder: Path, inputs: Sequence[TensorSpec], options: ImageOptions) -> ImageFolder | None:
    """Finds images in a folder, or in its subfolders.

    Returns:
        The images, or None where there are none.

    Raises:
        UsageError: The model has no single image-like input, or the options do not fit it.
    """
    files, classes = _images_of(folder), []
    labels: NDArray[np.int64] | None = None
    if not files:
        subfolders = [each for each in sorted(folder.iterdir(), key=natural_order) if each.is_dir()]
        groups = [(each, _images_of(each)) for each in subfolders if not each.name.startswith(".")]
        groups = [(each, found) for each, found in groups if found]
        if not groups:
            return None
        files = [file for _, found in groups for file in found]
        numbers = all(each.name.isdecimal() for each, _ in groups)
        classes = [] if numbers else [each.name for each, _ in groups]
        number = [int(each.name) if numbers else i for i, (each, _) in enumerate(groups)]
        counts = [len(found) for _, found in groups]
        labels = np.repeat(np.array(number, np.int64), counts)[:, None]
    if len(inputs) != 1:
        raise UsageError(
            f"{folder}: images feed a model with one input, this one has {', '.join(repr(i.name) for i in inputs)}; "
            "use a .npz with one array an input"
        )
    spec = inputs[0]
    channels_last = _channels_last(folder, spec)
    dims = spec.dims or ()
    _check_options(options, spec, dims[3] if channels_last else dims[1])
    return ImageFolder(tuple(files), spec, options, channels_last, labels, tuple(classes))


def _images_of(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted((path for path in found if path.is_file()), key=natural_order)


def _channels_last(folder: Path, spec: TensorSpec) -> bool:
    dims = spec.dims
    if dims is not None and len(dims) == 4 and (dims[1] in {1, 3}) != (dims[3] in {1, 3}):
        return dims[3] in {1, 3}
    shown = "unknown" if dims is None else words(dims)
    raise UsageError(
        f"{folder}: holds images, but input '{spec.name}' has dims {shown}; expected rank 4 with 1 or 3 channels at "
        "axis 1 (NCHW) or axis 3 (NHWC); use a .npz with arrays as the model takes them"
    )


def _check_options(options: ImageOptions, spec: TensorSpec, channels: int | str | None) -> None:
    for name, values in (("mean", options.mean), ("std", options.std)):
        if len(values) not in {1, channels}:
            raise UsageError(f"--{name}: expected 1 or {channels} numbers for input '{spec.name}', got {len(values)}")
    if any(not value > 0 for value in options.std):
        raise UsageError(f"--std: expected positive numbers, got {', '.join(map(str, options.std))}")
    if spec.dtype.startswith(("float", "bfloat")):
        if options.scale is None and max(map(abs, options.mean)) > 1:
            raise UsageError(
                f"--mean: {max(options.mean)} is beyond the pixels, which --scale 1/255 brings to 0..1; "
                "for a mean in 0..255 pass --scale 1"
            )
    elif options.scale not in {None, 1.0} or set(options.mean) != {0.0} or set(options.std) != {1.0}:
        raise UsageError(f"--mean, --std, --scale: input '{spec.name}' is {spec.dtype} and takes raw pixels; leave out")


def _pixels(
    path: Path, mode: str, size: tuple[int | str | None, int | str | None], resize: int | tuple[int, int] | None
) -> NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - an extra; the package runs without
    except ImportError as error:
        raise UsageError(f"{path}: reading images needs pillow; try: pip install 'onnxmerge[images]'") from error
    try:
        with Image.open(path) as opened:
            if opened.mode[0] in "IF":
                raise UsageError(f"{path}: expected 8 bits a channel, got mode {opened.mode}; use a .npz instead")
            image = ImageOps.exif_transpose(opened).convert(mode)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: cannot be read as an image: {' '.join(str(error).split())}") from error
    return np.asarray(_sized(image, path, size, resize), dtype=np.uint8)


def _sized(
    image: Image.Image,
    path: Path,
    size: tuple[int | str | None, int | str | None],
    resize: int | tuple[int, int] | None,
) -> Image.Image:
    height, width = size
    bilinear = 2  # PIL.Image.Resampling.BILINEAR
    if isinstance(resize, tuple):
        return image.resize((resize[1], resize[0]), bilinear)
    if resize is None:
        target = (width if isinstance(width, int) else image.width, height if isinstance(height, int) else image.height)
        return image if target == image.size else image.resize(target, bilinear)
    factor = resize / min(image.size)
    image = image.resize(
        (max(resize, round(image.width * factor)), max(resize, round(image.height * factor))), bilinear
    )
    high = height if isinstance(height, int) else image.height
    wide = width if isinstance(width, int) else image.width
    if high > image.height or wide > image.width:
        raise UsageError(f"{path}: --resize {resize} is smaller than the input's {high} x {wide}; pass at least that")
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))
