from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples import dead_leaves, synthetic_samples
from onnxmerge.samples.synthetic import most_confident


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (64, 20, 1), (1, 1, 2), (224, 224, 3)])
def test_dead_leaves_are_standardised(height: int, width: int, channels: int) -> None:
    images = dead_leaves(6, height, width, channels, np.random.default_rng(0))
    assert images.shape == (6, channels, height, width)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(0, 2, 3), dtype=np.float64), 1, rtol=1e-4)


def test_one_pixel_images_stay_finite() -> None:
    assert np.isfinite(dead_leaves(1, 1, 1, 3, np.random.default_rng(0))).all()


def test_dead_leaves_look_like_images_and_white_noise_does_not() -> None:
    """Neighbouring pixels of images are alike; those of noise are not, so the check can fail."""

    def neighbours(images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        return float(np.corrcoef(images[..., :-1].ravel(), images[..., 1:].ravel())[0, 1])

    rng = np.random.default_rng(0)
    images = dead_leaves(64, 32, 32, 3, rng)
    assert neighbours(images) > 0.7
    assert neighbours(rng.standard_normal(images.shape, np.float32)) < 0.1
    assert len(np.unique(images[0, 0])) > 20


def test_what_each_input_gets() -> None:
    inputs = [
        TensorSpec("nchw", "float32", ("N", 3, 16, 16)),
        TensorSpec("nhwc", "float16", ("N", 16, 16, 1)),
        TensorSpec("raw", "uint8", ("N", 16, 16, 3)),
        TensorSpec("vector", "bfloat16", ("N", 7)),
        TensorSpec("ids", "int64", ("N", 9)),
        TensorSpec("mask", "bool", ("N", 9)),
        TensorSpec("features", "float64", ("N", 64, 16, 16)),
    ]
    dims = {spec.name: (1, *(d for d in (spec.dims or ())[1:] if isinstance(d, int))) for spec in inputs}
    samples = synthetic_samples(inputs, dims, 5, seed=3)
    assert (samples.count, samples.synthetic, samples.labels, samples.batchable) == (5, True, None, True)
    for spec in inputs:
        assert samples.feeds[0][spec.name].shape == dims[spec.name]
        assert samples.feeds[0][spec.name].dtype.name == spec.dtype
    ids = np.concatenate([feed["ids"] for feed in samples.feeds])
    assert set(np.unique(ids).tolist()) == {0, 1}
    assert samples.feeds[0]["raw"].max() > 100
    assert "dead-leaves images (discs and rectangles at random) for 'nchw'" in samples.source
    assert "standard normal for 'features'" in samples.source


def test_fixed_batches_are_rounded_up() -> None:
    spec = TensorSpec("x", "float32", (4, 3, 8, 8))
    samples = synthetic_samples([spec], {"x": (4, 3, 8, 8)}, 10, seed=0)
    assert (len(samples.feeds), samples.rows, samples.count, samples.batchable) == (3, 4, 12, False)


def test_scalars_and_mixed_first_axes() -> None:
    inputs = [TensorSpec("state", "float32", (2, 1, 4)), TensorSpec("rate", "int64", ())]
    samples = synthetic_samples(inputs, {"state": (2, 1, 4), "rate": ()}, 3, seed=0)
    assert (samples.count, samples.feeds[0]["rate"].shape) == (3, ())


def test_the_seed_decides() -> None:
    spec = TensorSpec("x", "float32", (None, 3, 8, 8))
    first, same, other = (synthetic_samples([spec], {"x": (1, 3, 8, 8)}, 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.feeds[1]["x"], same.feeds[1]["x"])
    assert not np.array_equal(first.feeds[1]["x"], other.feeds[1]["x"])


@pytest.mark.parametrize("spec", [TensorSpec("x", "string", (None, 2)), TensorSpec("x", "float32", None)])
def test_what_cannot_be_made_up(spec: TensorSpec) -> None:
    with pytest.raises(UsageError, match="cannot be generated; pass real samples"):
        synthetic_samples([spec], {"x": (1, 2)}, 1, seed=0)


def test_the_clearest_samples_of_every_class_are_chosen() -> None:
    rng = np.random.default_rng(0)
    winner = rng.choice(4, size=1000, p=[0.7, 0.2, 0.09, 0.01])
    scores = np.zeros((1000, 5))
    margin = rng.random(1000) + 0.1
    scores[np.arange(1000), winner] = margin
    chosen = most_confident(scores, 200)
    assert len(set(chosen.tolist())) == 200
    assert (np.diff(chosen) > 0).all()
    sizes = np.bincount(winner[chosen], minlength=5)
    rare = int((winner == 3).sum())
    assert sizes.tolist()[3:] == [rare, 0]
    # What the rare classes cannot fill the others share.
    assert max(sizes[:3]) - min(sizes[:3]) <= 1
    for number in range(3):
        inside = np.flatnonzero(winner == number)
        left = np.setdiff1d(inside, chosen)
        assert margin[left].max() < margin[np.intersect1d(inside, chosen)].min()
