"""Read an image file as an array of pixels of a given size.

1. The image is rotated according to its EXIF data and converted to grey or RGB; palettes are resolved, transparency is
   dropped.
2. Size: a pair is stretched to; one number is what the short side is brought to, the long side rounded down, as
   torchvision and Hugging Face do; nothing is the input's own height x width where these are fixed, else the picture's.
3. The centre is cut to the size that is asked for, or, behind a short side, to the input's.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.samples.image_options import LONGEST_SIDE, ImageOptions
from onnxmerge.suggestions import installing

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "read_picture"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})

Dims = tuple[int | str | None, int | str | None]


def read_picture(path: Path, size: Dims, options: ImageOptions, *, grey: bool) -> NDArray[np.uint8]:
    """Reads a picture.

    Args:
        path: The file.
        size: Height and width of the input, free ones as a name or None.
        options: Its resize, crop and resample.
        grey: One channel instead of three.

    Returns:
        Shape (height, width) where it is grey, else (height, width, 3) in RGB order.

    Raises:
        UsageError: The file is no picture, is damaged, has more than 8 bits a channel, would become larger than a
            picture may be, or is smaller than the cut.
    """
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - an extra; the package runs without
    except ImportError as error:
        raise UsageError(f"{path}: reading images needs pillow; try: {installing('images')}") from error
    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("ignore")  # of damaged metadata, and of pictures beyond 89 megapixels
            if opened.mode[0] in "IF":
                raise UsageError(f"{path}: expected 8 bits per channel, got mode {opened.mode}; use a .npz instead")
            image = ImageOps.exif_transpose(opened).convert("L" if grey else "RGB")
    except UsageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files, and the user needs to know which
        words = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path}: cannot be read as an image: {words}") from error
    return np.asarray(_cut(_sized(image, path, size, options), path, size, options), dtype=np.uint8)


def _sized(image: Image.Image, path: Path, size: Dims, options: ImageOptions) -> Image.Image:
    from PIL import Image as Pillow  # noqa: PLC0415 - an extra

    if options.resize is None and options.crop is not None:
        return image
    if options.resize is None:
        height, width = (
            side if isinstance(side, int) else own for side, own in zip(size, image.size[::-1], strict=True)
        )
        target = (width, height)
    elif isinstance(options.resize, tuple):
        target = (options.resize[1], options.resize[0])
    else:
        short = min(image.size)
        target = (options.resize * image.width // short, options.resize * image.height // short)
    if target == image.size:
        return image
    if max(target) > LONGEST_SIDE:
        raise UsageError(
            f"{path}: is {image.height} x {image.width} and would be resized to {target[1]} x {target[0]}; expected "
            f"sides of at most {LONGEST_SIDE}"
        )
    return image.resize(target, Pillow.Resampling[(options.resample or "bilinear").upper()])


def _cut(image: Image.Image, path: Path, size: Dims, options: ImageOptions) -> Image.Image:
    if options.crop is None and not isinstance(options.resize, int):
        return image
    wanted = size if options.crop is None else options.crop
    high, wide = (side if isinstance(side, int) else own for side, own in zip(wanted, image.size[::-1], strict=True))
    if high > image.height or wide > image.width:
        if options.crop is None:
            raise UsageError(
                f"{path}: --resize {options.resize} is smaller than the input's {high} x {wide}; pass at least that"
            )
        raise UsageError(
            f"{path}: is {image.height} x {image.width}, smaller than the centre of {high} x {wide} to cut"
        )
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))
