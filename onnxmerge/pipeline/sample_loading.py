"""Load samples for calibration and verification, and refuse gates that do not apply to them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import ArrayLike

from onnxmerge.errors import UsageError
from onnxmerge.graph import Model, class_numbers
from onnxmerge.pipeline.request import SampleSource
from onnxmerge.pipeline.run import Run
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.images import ImageOptions
from onnxmerge.samples.load import load_samples
from onnxmerge.samples.mask import find_mask
from onnxmerge.samples.texts import TextOptions
from onnxmerge.samples.token_mask import TokenMask
from onnxmerge.verify import Verification

__all__ = ["check_answerable", "check_images", "load", "load_both", "masked"]

_HELD_OUT = 128
_LOGGER = logging.getLogger(__name__)


def load(
    samples: SampleSource,
    run: Run,
    limit: int | None,
    images: ImageOptions | None,
    text: TextOptions | None = None,
    *,
    labelled: bool = True,
) -> Samples:
    """Load samples from a path or arrays and adapt them to the model; `labelled` is as for `load_samples`."""
    if isinstance(samples, Samples):
        return samples
    if not isinstance(samples, (str, Path)):
        # Go through a file, so that arrays get the same checks.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arrays.npz"
            _write_arrays(path, samples if isinstance(samples, Mapping) else _of_the_only_input(samples, run.model))
            try:
                loaded = load_samples(path, run.model.inputs, limit, images=images)
            except UsageError as error:
                raise UsageError(str(error).replace(str(path), "arrays")) from error
        return replace(loaded, source=loaded.source.replace(str(path), "arrays"), place="arrays")
    beside = Path(run.source).resolve().parent if isinstance(run.source, (str, Path)) else None
    numbers = class_numbers(run.model)
    return load_samples(
        Path(samples), run.model.inputs, limit, images=images, text=text, beside=beside, numbers=numbers,
        labelled=labelled,
    )  # fmt: skip


def _of_the_only_input(array: ArrayLike, model: Model) -> dict[str, ArrayLike]:
    """A single array as arrays by input name.

    Raises:
        UsageError: The model has no input, or several, so that the array's is unknown.
    """
    names = [spec.name for spec in model.inputs]
    if len(names) != 1:
        example = f"{{{names[0]!r}: array, ...}}" if names else "no samples"
        listed = ", ".join(map(repr, names)) or "none"
        raise UsageError(
            f"samples are a single {type(array).__name__}, but {model.source} has {len(names)} inputs ({listed}); "
            f"give {example}"
        )
    return {names[0]: array}


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an .npz file. `np.savez` takes arrays as keywords and reserves some of them."""
    with ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            try:
                array = np.asarray(values)
            except ValueError as error:  # rows of different lengths
                raise UsageError(f"samples for {name!r} are no array of numbers: {error}") from error
            if array.dtype.hasobject:
                raise UsageError(f"samples for {name!r} are no array of numbers")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def load_both(run: Run) -> tuple[Samples | None, Samples | None]:
    """Samples for calibration and for verification; if only the former are given, part of them is held out."""
    sampling = run.request.samples
    with run.stage("loading samples"):
        fitting, held = None, None
        if sampling.calibration is not None:
            fitting = load(
                sampling.calibration, run, sampling.calib_size, sampling.images, sampling.text, labelled=False
            )
            _LOGGER.debug("calibration samples from %s", fitting.source)
        if sampling.data is not None:
            held = load(sampling.data, run, None, sampling.images, sampling.text)
            _LOGGER.debug("held-out samples from %s", held.source)
        check_images(sampling.images, fitting, held)
        run.mask = masked(run, sampling.text)
        fitting, held = (None if each is None else replace(each, mask=run.mask) for each in (fitting, held))
    fitted = run.request.recover or run.options.resolved(measurable=True).measured
    if fitting is not None and held is None and not fitted:
        return None, fitting  # no weights are fitted to them
    if fitting is not None and held is None:
        aside = min(_HELD_OUT, len(fitting.feeds) // 5)
        if aside:
            # Whether anything is measured on them is not known yet: a dry run, for one, measures nothing.
            given = fitting.count
            fitting, held = fitting.hold_out(aside)
            run.notes.append(f"{held.count} of the {given} calibration samples, evenly spaced, are held out of the fit")
        else:
            held = fitting
            run.caution(
                "there are too few calibration samples to hold some out of the fit: outputs are nearer to those of the "
                "original on them than on others"
            )
    return fitting, held


def masked(run: Run, text: TextOptions | None) -> TokenMask | None:
    """The input that marks padding, which the report mentions.

    Raises:
        UsageError: The input that the options name does not exist, or is no mask.
    """
    found = find_mask(run.model, None if text is None else text.mask)
    if found is not None:
        run.notes.append(f"tokens that {found.name} marks as padding count in no statistic and no comparison")
    return found


def check_images(images: ImageOptions | None, *loaded: Samples | None) -> None:
    """Refuse image options that have no effect, since the user expects them to be applied.

    Raises:
        UsageError: An image option is given, but no samples were read from images.
    """
    said = [each.name for each in fields(ImageOptions) if images is not None and getattr(images, each.name) is not None]
    if said and not any(samples is not None and samples.preprocessed for samples in loaded):
        raise UsageError(
            f"{', '.join(f'--{name}' for name in said)}: only folders of images or sounds are prepared so, and the "
            "samples are neither; leave out, or give such a folder"
        )


def check_answerable(model: Model, verification: Verification) -> None:
    """Refuse, before any work is done, gates that `check_gates` would refuse, as far as declared outputs show.

    Raises:
        UsageError: A gate applies to no output.
    """
    floats = [spec for spec in model.outputs if spec.dtype in ("unknown", "bfloat16") or "float" in spec.dtype]
    if verification.min_cosine is not None and not floats:
        raise UsageError("--min-cosine: no output of this model is a number that has a cosine")
    scores = [spec for spec in floats if spec.dims is None or (len(spec.dims) == 2 and spec.dims[1] != 1)]
    if verification.max_drop is not None and not scores:
        raise UsageError("--max-drop needs an output of class scores (samples by classes); use --min-cosine")
