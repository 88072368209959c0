"""Folders of sound: read, mixed to one channel, resampled, and refused in one line where they do not fit."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples import ImageOptions, load_samples
from onnxmerge.samples.image_options import NO_FILE
from onnxmerge.samples.log_mel import read_log_mel
from onnxmerge.samples.preprocessor import FILE_NAME

KEYS = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "sampling_rate": 8000, "n_fft": 100,
        "hop_length": 80, "chunk_length": 1}  # fmt: skip
INPUT = TensorSpec("x", "float32", ("N", 8, 100))


def tone(rate: int, seconds: float = 0.8, pitch: float = 600.0) -> Any:
    """A tone that swells and fades, so that its ends are silent whatever the rate."""
    time = np.arange(int(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * pitch * time) * np.sin(np.pi * time / seconds) ** 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without sounds, beside a description."""
    (tmp_path / FILE_NAME).write_text(json.dumps(KEYS))
    (tmp_path / "sounds").mkdir()
    return tmp_path / "sounds"


def loaded(folder: Path, spec: TensorSpec = INPUT, images: ImageOptions | None = None) -> Any:
    return load_samples(folder, [spec], beside=folder.parent, images=images)


def test_sounds_in_the_order_of_their_names(folder: Path) -> None:
    (folder / "more").mkdir()
    for name, pitch in (("a10", 2000.0), ("a2", 1000.0), ("more/a1", 500.0)):
        wavfile.write(folder / f"{name}.WAV", 8000, tone(8000, pitch=pitch).astype(np.float32))
    wavfile.write(folder / ".hidden.wav", 8000, np.ones(9, np.int16))
    samples = loaded(folder)
    mel = read_log_mel(folder.parent / FILE_NAME)
    assert samples.count == 3
    assert samples.preprocessed
    assert samples.labels is None
    for feed, pitch in zip(samples.feeds, (1000.0, 2000.0, 500.0), strict=True):
        expected = mel(tone(8000, pitch=pitch).astype(np.float32).astype(np.float64))
        assert feed["x"].shape == (1, 8, 100)
        assert np.array_equal(feed["x"][0], expected)
    assert any(FILE_NAME in note for note in samples.notes)


@pytest.mark.parametrize(
    ("dtype", "one"), [(np.uint8, 127.0), (np.int16, 32767.0), (np.int32, 2147483000.0), (np.float64, 1.0)]
)
def test_every_type_of_values_and_both_channels(dtype: type[Any], one: float, folder: Path) -> None:
    """The mean of a louder and a softer channel; the values of a type's own range all mean -1..1."""
    channels = np.stack([1.5 * tone(8000), 0.5 * tone(8000)], axis=1)
    wavfile.write(folder / "a.wav", 8000, (channels * one + (128 if dtype is np.uint8 else 0)).astype(dtype))
    made = loaded(folder).feeds[0]["x"][0]
    loud = made > made.max() - 0.5  # the rest is the noise of rounding to 8 bits
    expected = read_log_mel(folder.parent / FILE_NAME)(tone(8000))
    assert np.abs(made - expected)[loud].max() < (0.02 if dtype is np.uint8 else 1e-3)


def test_24_bits(folder: Path) -> None:
    values = (tone(8000) * 2**23).astype("<i4")
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setparams((1, 3, 8000, 0, "NONE", ""))
        file.writeframes(values[:, None].view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    expected = read_log_mel(folder.parent / FILE_NAME)(tone(8000))
    assert np.abs(loaded(folder).feeds[0]["x"][0] - expected).max() < 1e-3


@pytest.mark.parametrize("rate", [44100, 11025, 4000])
def test_other_sampling_rates_are_resampled(rate: int, folder: Path) -> None:
    """A tone below half of either rate is the same tone; played at the wrong rate, it is another."""
    wavfile.write(folder / "a.wav", rate, tone(rate).astype(np.float32))
    samples = loaded(folder)
    expected = read_log_mel(folder.parent / FILE_NAME)(tone(8000))
    loud = expected > expected.max() - 1.0
    assert np.abs(samples.feeds[0]["x"][0] - expected)[loud].max() < 0.02
    assert f"sounds of {rate} Hz were resampled to 8000 Hz" in samples.notes
    wavfile.write(folder / "a.wav", 8000, tone(rate).astype(np.float32))
    assert np.abs(loaded(folder).feeds[0]["x"][0] - expected)[loud].max() > 0.2


def test_long_sounds_are_cut_where_the_description_says(folder: Path) -> None:
    long = np.random.default_rng(0).normal(size=44100 * 5).astype(np.float32) / 8
    wavfile.write(folder / "a.wav", 44100, long)
    wavfile.write(folder / "b.wav", 44100, long[: 44100 * 2])
    first, second = (feed["x"] for feed in loaded(folder).feeds)
    assert np.abs(first - second).max() < 1e-6


def test_a_narrower_input_gets_its_own_type(folder: Path) -> None:
    wavfile.write(folder / "a.wav", 8000, tone(8000))
    samples = loaded(folder, TensorSpec("x", "float16", ("N", 8, None)))
    assert samples.feeds[0]["x"].dtype == np.float16
    assert "input 'x': float32 samples cast to float16" in samples.notes


def refusal(folder: Path, spec: TensorSpec = INPUT, images: ImageOptions | None = None) -> str:
    with pytest.raises(UsageError) as raised:
        loaded(folder, spec, images)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    assert "contains nothing that can be read as samples" in refusal(folder)
    path = folder / "a.wav"
    for damaged in (b"", b"RIFF", b"no sound at all", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00"):
        path.write_bytes(damaged)
        assert f"{path}: cannot be read as a .wav file: " in refusal(folder), damaged
    wavfile.write(path, 8000, np.zeros(0, np.int16))
    assert f"{path}: " in refusal(folder)
    wavfile.write(path, 8000, np.full(9, np.nan, np.float32))
    assert "NaN" in refusal(folder)
    wavfile.write(path, 99_999_989, np.ones(9, np.int16))
    assert "expected sound, got 9 values at 99999989 Hz" in refusal(folder)


def test_what_does_not_fit_is_said(folder: Path) -> None:
    wavfile.write(folder / "a.wav", 8000, tone(8000))
    assert "makes 8 bands by 100 frames, the model takes 'x' (N, 80, 3000)" in refusal(
        folder, TensorSpec("x", "float32", ("N", 80, 3000))
    )
    assert "one input of (batch, bands, frames), this one has 'x' (N, 3, 8, 100)" in refusal(
        folder, TensorSpec("x", "float32", ("N", 3, 8, 100))
    )
    assert "--mean: only for images" in refusal(folder, images=ImageOptions(mean=(0.0,)))
    assert f"sounds need the model's {FILE_NAME}" in refusal(folder, images=ImageOptions(preprocessor=NO_FILE))
    assert "cannot be read" in refusal(folder, images=ImageOptions(preprocessor=folder / "absent.json"))
    (folder.parent / FILE_NAME).unlink()
    assert f"sounds need the model's {FILE_NAME}: --preprocessor" in refusal(folder)
