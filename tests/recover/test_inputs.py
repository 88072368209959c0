"""Stacked samples and their variations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

from onnxmerge.errors import UsageError  # noqa: E402
from onnxmerge.recover.inputs import Inputs  # noqa: E402
from onnxmerge.samples.feeds import Samples  # noqa: E402
from onnxmerge.samples.token_mask import TokenMask  # noqa: E402
from tests.recover.networks import images, samples  # noqa: E402


def of(*arrays: NDArray[Any], batchable: bool = True) -> Inputs:
    rows = range(len(arrays[0]))
    feeds = tuple({f"x{place}": each[row : row + 1] for place, each in enumerate(arrays)} for row in rows)
    return Inputs.of(Samples(feeds, None, "made", False, 1, batchable), 64)


def test_images_are_found_with_their_channels() -> None:
    assert of(images(2)).image_axis == 1
    assert of(images(2).transpose(0, 2, 3, 1)).image_axis == 3
    assert of(images(2), images(2)).image_axis is None
    assert of(images(2)[:, 0]).image_axis is None
    assert of(images(2)[:, :2]).image_axis == 1


def test_signals_are_no_images() -> None:
    assert of(images(4).reshape(4, 1, 1, -1)).image_axis is None
    assert of(images(4).reshape(4, -1, 1, 1)).image_axis is None


def test_batches_repeat_for_a_seed_and_cover_all_samples() -> None:
    inputs = Inputs.of(samples(10), 64)
    one, two = (inputs.drawn(5, np.random.default_rng(3)) for _ in range(2))
    drawn = [next(one)["x"].numpy() for _ in range(2)]
    assert all(np.array_equal(each, next(two)["x"].numpy()) for each in drawn)
    assert sorted(np.concatenate(drawn)[:, 0, 0, 0]) == sorted(images(10)[:, 0, 0, 0])


def test_variations_repeat_for_a_seed_and_differ_from_the_samples() -> None:
    for array in (images(8), images(8).transpose(0, 2, 3, 1)):
        inputs = of(array)
        batch = next(inputs.drawn(8, np.random.default_rng(0)))
        one, two = (inputs.varied(batch, np.random.default_rng(5))["x0"] for _ in range(2))
        assert one.shape == batch["x0"].shape
        assert torch.equal(one, two)
        assert not torch.equal(one, batch["x0"])
        assert one.min() >= batch["x0"].min()
        assert one.max() <= batch["x0"].max()


def test_whole_numbers_stay() -> None:
    ids = np.arange(12, dtype=np.int64).reshape(4, 3)
    for array in (ids, ids.astype(np.float32)):
        inputs, generator = of(array), np.random.default_rng(0)
        batch = next(inputs.drawn(4, generator))
        assert all(torch.equal(inputs.varied(batch, generator)["x0"], batch["x0"]) for _ in range(10))


def test_real_numbers_are_mixed_in_all_inputs_alike() -> None:
    array = images(6)[:, 0, 0]
    inputs, generator = of(array, array), np.random.default_rng(0)
    batch = next(inputs.drawn(6, generator))
    varied = [inputs.varied(batch, generator) for _ in range(20)]
    assert all(torch.equal(each["x0"], each["x1"]) for each in varied)
    assert any(not torch.equal(each["x0"], batch["x0"]) for each in varied)


def test_a_fixed_number_of_samples_is_run_at_a_time() -> None:
    fixed = Inputs.of(samples(5, batchable=False), 64)
    assert [len(each["x"]) for each in fixed.chunks()] == [1] * 5
    assert [len(each["x"]) for each in Inputs.of(samples(5), 3).chunks()] == [3, 2]


def test_samples_of_several_shapes_are_refused() -> None:
    feeds = ({"x": images(1)}, {"x": images(1)[:, :, :4]})
    with pytest.raises(UsageError, match="input 'x' differ in shape"):
        Inputs.of(Samples(feeds, None, "made", False, 1, True), 64)


def joined(rows: int, count: int, *, batchable: bool = False, other: int | None = None) -> Samples:
    """Feeds of several rows each, as test data hold them."""
    feeds = tuple(
        {"x": images(rows, seed), **({} if other is None else {"y": images(other, seed)})} for seed in range(count)
    )
    return Samples(feeds, None, "made", False, 1, batchable)


def test_feeds_of_several_rows_stay_together() -> None:
    inputs = Inputs.of(joined(4, 3), 64)
    assert (inputs.rows, inputs.count) == (4, 12)
    assert [len(each["x"]) for each in inputs.chunks()] == [4, 4, 4]
    drawn = next(inputs.drawn(9, np.random.default_rng(0)))["x"].numpy()
    assert len(drawn) == 8
    feeds = [images(4, seed) for seed in range(3)]
    assert all(any(np.array_equal(each, feed) for feed in feeds) for each in (drawn[:4], drawn[4:]))


def test_inputs_that_disagree_in_axis_0_are_refused() -> None:
    with pytest.raises(UsageError, match="got 4 of 'x', 1 of 'y'") as raised:
        Inputs.of(joined(4, 3, other=1), 64)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rows", [1, 16, 32, 64])
def test_some_are_at_least_two_runs(rows: int) -> None:
    runs = list(Inputs.of(joined(rows, 5), 64).some(32))
    assert len(runs) == max(2, min(32 // rows, 5))
    assert all(len(each["x"]) == rows for each in runs)


def test_padded_tokens_are_refused() -> None:
    real, padded = np.array([[1, 1, 1]]), np.array([[1, 1, 0]])
    mask = TokenMask("mask")
    for marks, refused in (([real, real], False), ([real, padded], True)):
        given = Samples(tuple({"mask": each} for each in marks), None, "made", False, 1, True, mask=mask)
        if not refused:
            assert Inputs.of(given, 64).count == 2
            continue
        with pytest.raises(UsageError, match="padded tokens, which input 'mask' marks; omit --recover"):
            Inputs.of(given, 64)
