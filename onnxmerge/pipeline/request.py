"""Everything that the user asked for, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import ArrayLike

from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.images import ImageOptions
from onnxmerge.samples.texts import TextOptions
from onnxmerge.verify import Verification

__all__ = ["CALIB_SIZE", "NO_SHAPES", "PlanSource", "Request", "SampleSource", "Sampling", "Shapes", "Source"]

Source = Any
"""A path, the bytes of a model, or a ModelProto."""

SampleSource = str | Path | Mapping[str, ArrayLike] | ArrayLike | Samples
"""A path in any of the forms of `load_samples`, arrays by input name (samples first), the array of the only input, or
samples.
"""

PlanSource = str | Path | Plan
"""A plan, or the path of a saved one."""

Shapes = Mapping[str, tuple[int, ...]]

NO_SHAPES: Shapes = MappingProxyType({})

CALIB_SIZE = 512
"""Default number of calibration samples."""


@dataclass(frozen=True)
class Sampling:
    """The samples of a request.

    Attributes:
        calibration: Unlabelled samples to fit on.
        calib_size: Maximum number of calibration samples, evenly spaced.
        data: Held-out samples for verification; an array `labels` adds accuracy.
        images: How to convert images to inputs.
        text: How texts become inputs, and which input marks padding.
    """

    calibration: SampleSource | None = None
    calib_size: int = CALIB_SIZE
    data: SampleSource | None = None
    images: ImageOptions | None = None
    text: TextOptions | None = None


@dataclass(frozen=True)
class Request:
    """What the user asked for. Options and verification check their values when they are created.

    Attributes:
        source: The model: a path, its bytes, or a ModelProto.
        options: What to remove and how.
        samples: The samples to fit on and to verify on.
        shapes: Input shapes for measuring, where the model leaves them free.
        verification: What to verify, and the gates.
        plan: A plan to apply instead of making one, or its path.
        fold_batchnorm: Fold BatchNormalization into the weights of the result, where that is exact up to rounding.
        recover: Train the weights of the result towards the outputs of the original, on the calibration samples.
    """

    source: Source
    options: Options = field(default_factory=Options)
    samples: Sampling = field(default_factory=Sampling)
    shapes: Shapes = field(default_factory=dict)
    verification: Verification = field(default_factory=Verification)
    plan: PlanSource | None = None
    fold_batchnorm: bool = False
    recover: bool = False
