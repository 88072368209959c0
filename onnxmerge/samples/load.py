"""Detect the form of samples, limit their number, and build feeds from them.

The forms, tried in this order:
1. a ``.npz`` or ``.npy`` file: see ``arrays``; a ``.txt`` file: see ``texts``;
2. a folder with ``input_0.pb`` or with ``test_data_set_*``: see ``test_data``;
3. a folder of ``.npz`` and ``.npy`` files: all of them, one after another in natural order;
4. a folder of images, or of subfolders of images: see ``images`` and ``classes``;
5. a folder of ``.wav`` files: see ``audio``.

If there are more samples than the limit, evenly spaced ones are taken, not the first: files are often sorted by class,
and the first few hundred would all be of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.arrays import open_array_file
from onnxmerge.samples.audio import AudioFolder, open_audio
from onnxmerge.samples.feeds import Samples, batch_axis_is_free, fixed_batch
from onnxmerge.samples.images import ImageFolder, ImageOptions, open_images
from onnxmerge.samples.source import FeedSource, Joined, natural_order
from onnxmerge.samples.test_data import open_data_sets
from onnxmerge.samples.texts import SUFFIXES, TextFile, TextOptions, open_texts

__all__ = ["load_samples"]

FORMS = ".npz, .npy, .txt with a tokenizer, or a folder of arrays, of test_data_set_*, of images or of .wav files"
NO_TENSORS = MappingProxyType(
    {"sequence_type": "a sequence", "map_type": "a map", "optional_type": "an optional", "sparse_tensor_type": "sparse"}
)


def load_samples(
    path: Path,
    inputs: Sequence[TensorSpec],
    limit: int | None = None,
    *,
    images: ImageOptions | None = None,
    text: TextOptions | None = None,
    beside: Path | None = None,
    numbers: Mapping[str, int] | None = None,
    labelled: bool = True,
) -> Samples:
    """Loads samples for a model.

    Args:
        path: File or folder; the module's docstring lists the forms.
        inputs: The model's inputs, without those that initializers give a default.
        limit: At most so many samples, at least 1; None for all. A feed of a fixed batch is never cut, so one feed is
            taken even where it holds more than the limit.
        images: How to convert pixels to values, for folders of images; None for the defaults. Its `preprocessor` also
            applies to folders of sounds.
        text: How texts become inputs, for a file of texts.
        beside: The model's folder, where a file may say how; None where the model did not come from a file.
        numbers: Class number by class name, as the model says, for folders of images.
        labelled: Whether folders of images whose subfolders leave their labels open are refused; else such images come
            without, with a note.

    Returns:
        Samples in the order of the files. What does not fill a fixed batch is left out, with a note.

    Raises:
        UsageError: The samples do not fit the inputs; the message says why.
    """
    _check(path, inputs, limit)
    options = images or ImageOptions()
    as_images = partial(open_images, options=options, beside=beside, numbers=numbers, labelled=labelled)
    as_audio = partial(open_audio, options=options, beside=beside)
    source = _open(path, inputs, (as_images, as_audio), text or TextOptions())
    batch = 1 if source.whole else fixed_batch(inputs)
    usable = source.count // batch * batch
    if not usable:
        raise UsageError(f"{path}: the model's batch axis is fixed to {batch}, got only {source.count} samples")
    taken = usable if limit is None else min(usable, max(batch, limit // batch * batch))
    chosen = np.arange(taken, dtype=np.intp) * usable // taken
    feeds, notes = source.read(chosen)
    if usable < source.count and taken == usable:
        notes = (*notes, f"the last {source.count - usable} samples do not fill a batch of {batch} and were omitted")
    labels = None if source.labels is None else source.labels[chosen]
    what = ("feeds" if source.whole else "samples") + (", evenly spaced" if taken < usable else "")
    return Samples(
        feeds=_grouped(feeds, batch, path),
        labels=None if labels is None else labels.reshape(-1),
        source=f"{path}: {taken} of {source.count} {what}",
        synthetic=False,
        rows=batch * (1 if labels is None else labels.shape[1]),
        batchable=batch_axis_is_free(inputs),
        preprocessed=isinstance(source, (ImageFolder, AudioFolder)),
        notes=notes,
        padding=source.padding if isinstance(source, TextFile) else {},
        place=str(path),
    )


def _check(path: Path, inputs: Sequence[TensorSpec], limit: int | None) -> None:
    """Refuse samples for a model that takes none, or a limit that leaves none.

    Raises:
        UsageError: See above.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"expected a number of samples of at least 1, got {limit}")
    if not inputs:
        raise UsageError(f"{path}: the model has no inputs, so it takes no samples; omit the option")
    for spec in inputs:
        if spec.dtype in NO_TENSORS:
            raise UsageError(f"{path}: input '{spec.name}' is {NO_TENSORS[spec.dtype]}; samples can only be tensors")


def _open(
    path: Path, inputs: Sequence[TensorSpec], raw: Sequence[Callable[..., FeedSource | None]], text: TextOptions
) -> FeedSource:
    if path.is_file():
        if path.suffix.lower() in SUFFIXES:
            return open_texts(path, inputs, text.tokenizer)
        if path.suffix.lower() in {".npz", ".npy"}:
            return open_array_file(path, inputs)
        raise UsageError(f"{path}: expected {FORMS}; got a {path.suffix or 'nameless'} file")
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder; expected {FORMS}")
    data_sets = open_data_sets(path, inputs)
    if data_sets is not None:
        return data_sets
    visible = (each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    files = sorted((each for each in visible if each.suffix.lower() in {".npz", ".npy"}), key=natural_order)
    if files:
        parts: list[FeedSource] = [open_array_file(each, inputs, in_folder=True) for each in files]
        return Joined(tuple(parts))
    found = next((source for form in raw if (source := form(path, inputs)) is not None), None)
    if found is None:
        raise UsageError(f"{path}: this folder contains nothing that can be read as samples; expected {FORMS}")
    return found


def _grouped(
    feeds: Sequence[Mapping[str, NDArray[Any]]], batch: int, path: Path
) -> tuple[Mapping[str, NDArray[Any]], ...]:
    if batch == 1:
        return tuple(feeds)
    grouped: list[Mapping[str, NDArray[Any]]] = []
    for start in range(0, len(feeds), batch):
        group = feeds[start : start + batch]
        for name in group[0]:
            if len({feed[name].shape for feed in group}) > 1:
                shapes = " and ".join(sorted({str(feed[name].shape[1:]) for feed in group}))
                raise UsageError(f"{path}: a batch of {batch} for input '{name}' needs equal shapes, got {shapes}")
        grouped.append({name: np.concatenate([feed[name] for feed in group], axis=0) for name in group[0]})
    return tuple(grouped)
