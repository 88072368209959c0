"""Samples from a folder of ``.wav`` files, turned into the one input of a model that takes log-mel spectrograms.

Files may lie in subfolders, and have no labels. Channels are averaged, integers brought to -1..1, and other sampling
rates resampled with a polyphase filter. What follows is defined by a ``preprocessor_config.json``, see ``log_mel``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.arrays import words
from onnxmerge.samples.casting import as_declared
from onnxmerge.samples.image_options import NO_FILE, ImageOptions
from onnxmerge.samples.log_mel import LIMITS, LogMel, read_log_mel
from onnxmerge.samples.preprocessor import FILE_NAME, find_preprocessor
from onnxmerge.samples.source import natural_order, unique

__all__ = ["SUFFIXES", "AudioFolder", "open_audio"]

SUFFIXES = frozenset({".wav"})


@dataclass(frozen=True)
class AudioFolder:
    """Files of sound that fit one input.

    Attributes:
        files: The files.
        spec: The input, of shape (batch, bands, frames).
        features: How a waveform becomes values.
        notes: The source of `features`.
    """

    files: tuple[Path, ...]
    spec: TensorSpec
    features: LogMel
    notes: tuple[str, ...]

    whole = False
    labels = None

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self.files)

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Reads the chosen files, one batch of one each."""
        feeds: list[Mapping[str, NDArray[Any]]] = []
        notes = list(self.notes)
        for path in (self.files[index] for index in chosen):
            rate, wave = _read(path, self.features)
            array, note = as_declared(self.features(wave), self.spec, str(path))
            feeds.append({self.spec.name: array[None]})
            notes += [note] if note else []
            if rate != self.features.sampling_rate:
                notes.append(f"sounds of {rate} Hz were resampled to {self.features.sampling_rate} Hz")
        return feeds, unique(notes)


def open_audio(
    folder: Path, inputs: Sequence[TensorSpec], options: ImageOptions, *, beside: Path | None = None
) -> AudioFolder | None:
    """Finds sounds in a folder, or below it.

    Args:
        folder: The folder to search.
        inputs: The model's inputs.
        options: The options of the user, of which `preprocessor` alone applies.
        beside: The model's folder, where that file may be.

    Returns:
        The sounds, or None if there are none.

    Raises:
        UsageError: The model has no single input of spectrograms, there is no description of them, or they do not fit.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    files = sorted((path for path in found if path.is_file()), key=lambda path: (path.parent, natural_order(path)))
    if not files:
        return None
    said = [f"--{each.name}" for each in fields(options) if getattr(options, each.name) is not None]
    if said not in ([], ["--preprocessor"]):
        raise UsageError(f"{', '.join(said)}: only for images, and {folder} holds sounds; leave out")
    shapes = ", ".join(f"'{spec.name}' {'?' if spec.dims is None else words(spec.dims)}" for spec in inputs)
    spec = inputs[0]
    if len(inputs) != 1 or spec.dims is None or len(spec.dims) != 3:
        raise UsageError(
            f"{folder}: sounds feed a model with one input of (batch, bands, frames), this one has {shapes}; "
            "use a .npz with one array per input"
        )
    file = options.preprocessor or find_preprocessor(folder, beside)
    if file is None or file == NO_FILE:
        raise UsageError(f"{folder}: sounds need the model's {FILE_NAME}: --preprocessor {FILE_NAME}")
    features = read_log_mel(file)
    expected = (features.feature_size, features.frames)
    if any(isinstance(dim, int) and dim != length for dim, length in zip(spec.dims[1:], expected, strict=True)):
        raise UsageError(f"{file}: makes {expected[0]} bands by {expected[1]} frames, the model takes {shapes}")
    return AudioFolder(tuple(files), spec, features, (f"sounds are preprocessed according to {file}",))


def _read(path: Path, features: LogMel) -> tuple[int, NDArray[np.float64]]:
    """A file's sampling rate, and at least the part of it that counts: one channel, at the rate of the features."""
    from scipy.io import wavfile  # noqa: PLC0415 - of no use to other samples
    from scipy.signal import resample_poly  # noqa: PLC0415 - takes longer to import than the rest of this room

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks that hold no sound
            rate, values = wavfile.read(path)
    except Exception as error:  # damaged files raise nearly anything, and the user needs to know which
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path}: cannot be read as a .wav file: {reason}") from error
    if not 0 < rate <= LIMITS["sampling_rate"] or not values.size:
        raise UsageError(f"{path}: expected sound, got {values.size} values at {rate} Hz")
    values = values[: (features.chunk_length + 1) * rate]  # a filter needs a little more than it gives
    if values.dtype.kind == "u":  # 8 bits
        values = (values.astype(np.float64) - 128) / 128
    elif values.dtype.kind == "i":
        values = values / -float(np.iinfo(values.dtype).min)
    wave = np.asarray(values, np.float64).reshape(len(values), -1).mean(axis=1)
    shared = math.gcd(rate, features.sampling_rate)
    return rate, np.asarray(resample_poly(wave, features.sampling_rate // shared, rate // shared), np.float64)
