"""Log-mel spectrograms as Whisper takes them, described by its ``preprocessor_config.json``.

A waveform x of ``sampling_rate * chunk_length`` values becomes ``feature_size`` bands by one frame per ``hop_length``:
1. frames of ``n_fft`` values around every ``hop_length``-th one, x being mirrored at both ends; the last is dropped;
2. a periodic Hann window, and the squared magnitudes of the discrete Fourier transform;
3. triangular filters, equally spaced from 0 to 8000 Hz on Slaney's mel scale, each of unit area;
4. ``L = log10`` of these, at least 1e-10; then ``(max(L, max L - 8) + 4) / 4``.

References:
    Radford et al., Robust speech recognition via large-scale weak supervision, 2022, section 2.2.
    Slaney, Auditory Toolbox, version 2, 1998: the mel scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.samples.preprocessor import read_keys

__all__ = ["LIMITS", "LogMel", "read_log_mel"]

TYPE = "WhisperFeatureExtractor"
LIMITS: Mapping[str, int] = MappingProxyType(
    {"feature_size": 1024, "sampling_rate": 384_000, "n_fft": 65_536, "hop_length": 65_536, "chunk_length": 3600}
)
_MOST = 1 << 27
"""Required keys, and a guess of the most that any model has; and the most values of a waveform and of its frames, which
overlap, at most 1 GB. A damaged file could ask for more than the memory. Whisper has 1.2 million.
"""
KNOWN = frozenset(
    {*LIMITS, "feature_extractor_type", "padding_side", "padding_value", "processor_class", "auto_map",
     "return_attention_mask", "return_tensors", "n_samples", "nb_max_frames", "mel_filters"}
)  # fmt: skip
"""Keys that are read, or change nothing: the last three follow from the others."""
_HIGHEST = 8000.0


@dataclass(frozen=True)
class LogMel:
    """How a waveform becomes a spectrogram; named after the keys.

    Attributes:
        feature_size: Bands.
        sampling_rate: Values per second.
        n_fft: Values per frame.
        hop_length: Values from one frame to the next.
        chunk_length: Seconds.
        padding_value: What fills shorter waveforms up at their end.
    """

    feature_size: int
    sampling_rate: int
    n_fft: int
    hop_length: int
    chunk_length: int
    padding_value: float = 0.0

    @property
    def frames(self) -> int:
        """Frames of a spectrogram."""
        return self.sampling_rate * self.chunk_length // self.hop_length

    def __call__(self, wave: NDArray[np.float64]) -> NDArray[np.float32]:
        """The spectrogram, shape (feature_size, frames), of a waveform of any length; see the module's docstring."""
        length = self.sampling_rate * self.chunk_length
        wave = np.pad(wave[:length], (0, max(0, length - len(wave))), constant_values=self.padding_value)
        mirrored = np.pad(wave, self.n_fft // 2, mode="reflect")
        framed = sliding_window_view(mirrored, self.n_fft)[:: self.hop_length][: self.frames]
        power = np.abs(np.fft.rfft(framed * np.hanning(self.n_fft + 1)[:-1])) ** 2
        logs = np.log10(np.maximum(self.filters() @ power.T, 1e-10))
        return np.asarray((np.maximum(logs, logs.max() - 8) + 4) / 4, np.float32)

    def filters(self) -> NDArray[np.float64]:
        """Weights of the frequencies in each band, shape (feature_size, n_fft // 2 + 1)."""
        corners = _hertz(np.linspace(0.0, _mel(_HIGHEST), self.feature_size + 2))
        frequencies = np.linspace(0.0, self.sampling_rate / 2, self.n_fft // 2 + 1)
        low, centre, high = (corners[start : start + self.feature_size, None] for start in range(3))
        rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
        return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low))


def _mel(hertz: float) -> float:
    """Slaney's scale: linear up to 1000 Hz, 15 mel; then 27 mel for each factor of 6.4."""
    return 0.015 * hertz if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel / 0.015, 1000 * 6.4 ** ((mel - 15) / 27))


def read_log_mel(path: Path) -> LogMel:
    """Reads a file.

    Args:
        path: A ``preprocessor_config.json``.

    Raises:
        UsageError: The file cannot be read, or requires something unsupported; the message names the key.
    """
    given = read_keys(path)
    if given.get("feature_extractor_type") != TYPE:
        named = json.dumps(given.get("feature_extractor_type", given.get("image_processor_type")))
        raise UsageError(f"{path}: sounds are prepared as {TYPE} does, got {named}; {_INSTEAD}")
    unknown = sorted(key for key, value in given.items() if key not in KNOWN and value not in (None, False))
    if given.get("padding_side", "right") != "right":
        unknown.append("padding_side")
    if unknown:
        raise UsageError(f"{path}: {', '.join(unknown)} may change sounds in a way that is not known here; {_INSTEAD}")
    padding = given.get("padding_value", 0.0)
    if isinstance(padding, bool) or not isinstance(padding, (int, float)) or not abs(padding) <= 1:
        raise UsageError(f"{path}: padding_value is {json.dumps(padding)}; expected a number between -1 and 1")
    for key, most in LIMITS.items():
        value = given.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise UsageError(f"{path}: {key} is {json.dumps(value)}; expected a positive integer of at most {most}")
    made = LogMel(**{key: given[key] for key in LIMITS}, padding_value=float(padding))
    if made.n_fft // 2 >= made.sampling_rate * made.chunk_length or not made.frames:
        raise UsageError(f"{path}: n_fft and hop_length are longer than chunk_length, {made.chunk_length} s")
    values = max(made.sampling_rate * made.chunk_length, made.frames * made.n_fft)
    if values > _MOST:
        raise UsageError(f"{path}: asks for {values} values of a sound at once; expected at most {_MOST}")
    return made


_INSTEAD = "prepare arrays yourself (--calib samples.npz)"
