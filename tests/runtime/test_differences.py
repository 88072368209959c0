"""Where two models differ: counted and ranked batch by batch, with the worst samples as pictures."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.runtime.differences import WORST, Confusion, DifferenceMeter, Differences


def scores(*classes: int, width: int = 4) -> np.ndarray:
    """One-hot rows."""
    return np.eye(width, dtype=np.float32)[list(classes)]


def test_moves_and_labels_are_counted_over_batches() -> None:
    meter = DifferenceMeter(np.array([0, 1, 2, 2, 3]))
    x = np.zeros((3, 1, 2, 2), dtype=np.float32)
    meter.add({"x": x}, {"y": scores(0, 1, 3)}, {"y": scores(0, 2, 2)})
    meter.add({"x": x[:2]}, {"y": scores(2, 0)}, {"y": scores(2, 1)})
    # right in both: samples 0 and 3; in the first alone: 1; in the second alone: 2; in none: 4.
    assert meter.result().confusion == Confusion(
        "y", 4, ((0, 0, 1), (0, 1, 1), (1, 2, 1), (2, 2, 1), (3, 2, 1)), (2, 1, 1, 1)
    )
    worst = meter.result().worst
    assert [(entry.sample, entry.before, entry.after, entry.label) for entry in worst] == [
        (1, 1, 2, 1), (2, 3, 2, 2), (4, 0, 1, 3),
    ]  # fmt: skip
    assert all(entry.distance == pytest.approx(np.sqrt(2)) for entry in worst)


def test_a_moved_decision_comes_before_a_larger_distance() -> None:
    one = np.array([[1.0, 0.9], [5.0, 1.0]])
    two = np.array([[0.9, 1.0], [9.0, 1.0]])
    meter = DifferenceMeter()
    meter.add({"x": np.zeros((2, 3))}, {"y": one}, {"y": two})
    worst = meter.result().worst
    assert [entry.sample for entry in worst] == [0, 1]
    assert worst[0].distance < worst[1].distance == pytest.approx(4 / np.sqrt(82))


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_the_worst_are_the_same_however_batches_are_cut(batch: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3, 4, 5)).astype(np.float32)
    a = rng.standard_normal((40, 2, 6))
    b = a + rng.standard_normal((40, 1, 1)) * 0.1
    meter = DifferenceMeter()
    for at in range(0, 40, batch):
        meter.add({"x": x[at : at + batch]}, {"y": a[at : at + batch]}, {"y": b[at : at + batch]})
    flat = [np.linalg.norm(v.reshape(40, -1), axis=1) for v in (a - b, a, b)]
    distances = flat[0] / np.maximum(flat[1], flat[2])
    worst = meter.result().worst
    assert [entry.sample for entry in worst] == np.argsort(-distances)[:WORST].tolist()
    assert [entry.distance for entry in worst] == pytest.approx(np.sort(distances)[::-1][:WORST].tolist())
    assert all((p.width, p.height, p.channels) == (5, 4, 3) for entry in worst for p in entry.pictures)
    assert meter.result().confusion is None


def test_equal_models_have_no_disagreements() -> None:
    y = scores(1, 2)
    meter = DifferenceMeter()
    meter.add({"x": np.zeros((2, 3))}, {"y": y}, {"y": y})
    assert meter.result() == Differences(Confusion("y", 4, ((1, 1, 1), (2, 2, 1))), ())


def test_where_axis_0_counts_other_things_a_feed_is_a_sample() -> None:
    meter = DifferenceMeter()
    feed = {"image": np.ones((1, 3, 8, 8), dtype=np.float32)}
    meter.add(feed, {"boxes": np.ones((5, 4))}, {"boxes": np.ones((5, 4))})
    meter.add(feed, {"boxes": np.ones((5, 4))}, {"boxes": np.zeros((5, 4))})
    # Another number of boxes: nothing to compare.
    meter.add(feed, {"boxes": np.ones((5, 4))}, {"boxes": np.ones((6, 4))})
    found = meter.result()
    assert found.whole_feeds
    assert [(entry.sample, entry.distance, len(entry.pictures)) for entry in found.worst] == [(1, 1.0, 1)]


def test_labels_of_samples_are_not_those_of_whole_feeds() -> None:
    """Two feeds of four samples each, whose outputs have a row for all of them together."""
    meter = DifferenceMeter(np.arange(8) % 4)
    for moved in (3, 2):
        meter.add({"x": np.zeros((4, 3))}, {"y": scores(1)}, {"y": scores(moved)})
    found = meter.result()
    assert [(entry.sample, entry.before, entry.after, entry.label) for entry in found.worst] == [
        (0, 1, 3, None), (1, 1, 2, None),
    ]  # fmt: skip
    assert found.confusion == Confusion("y", 4, ((1, 2, 1), (1, 3, 1)))


def test_labels_of_feeds_of_one_sample_are_kept() -> None:
    meter = DifferenceMeter(np.array([2, 3]))
    for _ in range(2):
        meter.add({"x": np.zeros((1, 3))}, {"boxes": np.ones((5, 4))}, {"boxes": np.zeros((5, 4))})
    found = meter.result()
    assert found.whole_feeds
    assert [entry.label for entry in found.worst] == [2, 3]


def test_rows_that_are_more_than_the_samples_have_no_labels() -> None:
    """Time first: axis 0 of everything counts steps of one sample."""
    meter = DifferenceMeter(np.array([1, 2]))
    for _ in range(2):
        meter.add({"x": np.zeros((3, 5))}, {"y": scores(1, 1, 1)}, {"y": scores(1, 2, 1)})
    found = meter.result()
    assert [entry.label for entry in found.worst] == [None, None]
    assert found.confusion is not None
    assert found.confusion.right is None


def test_values_that_are_not_finite_are_as_far_as_can_be() -> None:
    one, two = np.ones((3, 1, 2)), np.ones((3, 1, 2))
    one[0, 0, 0] = two[0, 0, 0] = np.nan
    two[1, 0, 0] = np.inf
    meter = DifferenceMeter()
    meter.add({"x": np.zeros((3, 1))}, {"y": one}, {"y": two})
    assert [(entry.sample, entry.distance) for entry in meter.result().worst] == [(1, 2.0)]


def test_whole_numbers_count_by_entries_that_differ() -> None:
    meter = DifferenceMeter()
    meter.add({"x": np.zeros((2, 1))}, {"y": np.zeros((2, 4), int)}, {"y": np.array([[0, 0, 0, 0], [0, 1, 0, 0]])})
    assert [(entry.sample, entry.distance) for entry in meter.result().worst] == [(1, 0.25)]
