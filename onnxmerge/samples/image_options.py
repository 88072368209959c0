"""How to convert pixels to input values: the options of a user, or of a file beside a model.

Unspecified options are None, so that one set of options can override another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["LONGEST_SIDE", "NO_FILE", "ImageOptions", "Resample"]

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

LONGEST_SIDE = 16384
"""Most pixels that a side is resized to, a guess: no model takes as many, and a square of them is 6 GB in float64."""

NO_FILE = Path("none")
"""As `ImageOptions.preprocessor`: use no file, even if one is found."""


@dataclass(frozen=True)
class ImageOptions:
    """How to convert pixels to input values; None if unspecified.

    Attributes:
        mean: Subtracted after scaling; one number, or one a channel. Else 0.
        std: Divided by after that; positive, one number or one a channel. Else 1.
        scale: Factor of the raw 0..255 pixel. Else 1/255 for float inputs and 1 for integer ones.
        resize: The short side, or (height, width). Else the input's height x width.
        crop: (height, width) of the centre that is cut out after that. Else, behind a short side, the input's.
        resample: Filter that changes the size. Else bilinear.
        order: Channel order that the model expects. Else RGB.
        preprocessor: A file with all of this, see `preprocessor`; None for one found beside the model, if any.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: Resample | None = None
    order: Literal["RGB", "BGR"] | None = None
    preprocessor: Path | None = None

    def over(self, other: ImageOptions) -> ImageOptions:
        """These options, with unspecified ones taken from `other`; size options are taken together.

        Example:
            >>> ImageOptions(resize=64).over(ImageOptions(mean=(0.5,), resize=256, crop=(224, 224)))
            ImageOptions(mean=(0.5,), std=None, scale=None, resize=64, crop=None, resample=None, order=None, \
preprocessor=None)
        """
        sized = other if self.resize is None and self.crop is None else self
        return ImageOptions(
            mean=other.mean if self.mean is None else self.mean,
            std=other.std if self.std is None else self.std,
            scale=other.scale if self.scale is None else self.scale,
            resize=sized.resize,
            crop=sized.crop,
            resample=self.resample or other.resample,
            order=self.order or other.order,
            preprocessor=self.preprocessor or other.preprocessor,
        )

    def described(self) -> str:
        """The specified options, as text for the report."""
        size = f"{self.resize[0]}x{self.resize[1]}" if isinstance(self.resize, tuple) else f"short side {self.resize}"
        parts = [
            f"{size}, {self.resample or 'bilinear'}" if self.resize is not None else "",
            f"centre {self.crop[0]}x{self.crop[1]}" if self.crop is not None else "",
            f"scale {self.scale:.6g}" if self.scale is not None else "",
            f"mean {_listed(self.mean)}" if self.mean is not None else "",
            f"std {_listed(self.std)}" if self.std is not None else "",
            self.order if self.order is not None else "",
        ]
        return ", ".join(part for part in parts if part)


def _listed(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
