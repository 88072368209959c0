"""Log-mel spectrograms against their definition, term by term, and files that say something else."""

from __future__ import annotations

import cmath
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.samples.log_mel import LogMel, read_log_mel

SMALL = LogMel(feature_size=6, sampling_rate=16000, n_fft=64, hop_length=4000, chunk_length=1, padding_value=0.01)
WHISPER: dict[str, Any] = {
    "chunk_length": 30,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    "mel_filters": [[0.0]],
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


def chirp(length: int, rate: int = 16000) -> np.ndarray[Any, np.dtype[np.float64]]:
    time = np.arange(length) / rate
    return np.asarray(0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time) + 0.02 * np.cos(2 * np.pi * 5000 * time))


def by_definition(x: list[float], mel: LogMel) -> list[list[float]]:
    """The four steps as sums over single values."""
    length = mel.sampling_rate * mel.chunk_length
    x = (x + [mel.padding_value] * length)[:length]
    points = [to_hertz(to_mel(8000) * number / (mel.feature_size + 1)) for number in range(mel.feature_size + 2)]
    logs = []
    for band in range(mel.feature_size):
        low, centre, high = points[band : band + 3]
        row = []
        for frame in range(mel.frames):
            energy = 0.0
            for k in range(mel.n_fft // 2 + 1):
                f = k * mel.sampling_rate / mel.n_fft
                up, down = (f - low) / (centre - low), (high - f) / (high - centre)
                weight = max(0.0, up if f < centre else down) / ((high - low) / 2)
                if weight:
                    energy += weight * abs(fourier(x, frame * mel.hop_length, k, mel.n_fft)) ** 2
            row.append(math.log10(max(energy, 1e-10)))
        logs.append(row)
    top = max(map(max, logs))
    return [[(max(value, top - 8) + 4) / 4 for value in row] for row in logs]


def fourier(x: list[float], centre: int, k: int, n: int) -> complex:
    """One coefficient of a frame under a Hann window; what lies beyond the ends is mirrored at them."""
    total = 0j
    for j in range(n):
        at = abs(centre - n // 2 + j)
        at = at if at < len(x) else 2 * (len(x) - 1) - at
        total += x[at] * math.sin(math.pi * j / n) ** 2 * cmath.exp(-2j * math.pi * k * j / n)
    return total


def to_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) / (math.log(6.4) / 27)


def to_hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


@pytest.mark.parametrize("length", [9000, 16000, 20000], ids=["padded", "exact", "cut"])
def test_each_value_is_the_definition_s(length: int) -> None:
    expected = by_definition(chirp(length).tolist(), SMALL)
    assert np.abs(SMALL(chirp(length)) - expected).max() < 1e-6
    for wrong in ({"hop_length": 3999}, {"padding_value": 0.0}, {"sampling_rate": 16100}):
        if length > 9000 and "padding_value" in wrong:
            continue
        made = replace(SMALL, **wrong)(chirp(length))[:, :4]
        assert np.abs(made - np.array(expected)[:, : made.shape[1]]).max() > 1e-3, wrong


def test_values_of_the_extractor_of_transformers() -> None:
    """The loudest value of every eighth band, by `WhisperFeatureExtractor` of transformers 5.24.0 in NumPy."""
    mel = LogMel(feature_size=80, sampling_rate=16000, n_fft=400, hop_length=160, chunk_length=30)
    made = mel(chirp(64000))
    assert made.shape == (80, 3000)
    assert made.dtype == np.float32
    expected = [
        1.0570903,
        1.3057779,
        1.3224866,
        1.314379,
        1.2986962,
        1.2963477,
        1.2635865,
        1.2392255,
        1.2144568,
        1.1855843,
    ]
    assert np.abs(made.max(axis=1)[::8] - expected).max() < 2e-7


def test_a_file_of_whisper(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(WHISPER))
    made = read_log_mel(path)
    assert made == LogMel(80, 16000, 400, 160, 30, 0.0)
    assert made.frames == 3000
    path.write_text(json.dumps({key: value for key, value in WHISPER.items() if key != "padding_value"}))
    assert read_log_mel(path) == made


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"feature_extractor_type": None}, "sounds are prepared as WhisperFeatureExtractor does, got null"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "got \"Wav2Vec2FeatureExtractor\""),
        ({"n_fft": None}, "n_fft is null; expected a positive integer of at most 65536"),
        ({"sampling_rate": 0}, "sampling_rate is 0; expected a positive integer"),
        ({"chunk_length": 1e9}, "chunk_length is 1000000000.0; expected a positive integer"),
        ({"feature_size": True}, "feature_size is true; expected a positive integer"),
        ({"padding_value": "0"}, "padding_value is \"0\"; expected a number"),
        ({"padding_side": "left"}, "padding_side may change sounds"),
        ({"do_normalize": True, "dither": 1e-4}, "dither, do_normalize may change sounds"),
        ({"sampling_rate": 384_000, "chunk_length": 3600}, "asks for 3456000000 values of a sound at once"),
        ({"hop_length": 1, "n_fft": 65_536}, "asks for 31457280000 values of a sound at once"),
        ({"sampling_rate": 20, "chunk_length": 1}, "n_fft and hop_length are longer than chunk_length, 1 s"),
    ],
)  # fmt: skip
def test_a_file_that_says_something_else(changed: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**WHISPER, **changed}))
    with pytest.raises(UsageError) as raised:
        read_log_mel(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
