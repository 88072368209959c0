from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import Dim, TensorSpec
from onnxmerge.samples.feeds import Samples, batch_axis_is_free, fixed_batch


def numbered(count: int, *, rows: int = 1, batchable: bool = True, labels: bool = True) -> Samples:
    values = np.arange(count * rows, dtype=np.float32).reshape(count, rows, 1)
    feeds = tuple({"x": values[i]} for i in range(count))
    return Samples(feeds, np.arange(count * rows) if labels else None, "numbers", False, rows=rows, batchable=batchable)


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_batches_join_feeds_in_order(size: int, expected: list[int]) -> None:
    batches = list(numbered(7).batches(size))
    assert [len(batch["x"]) for batch in batches] == expected
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches])[:, 0], np.arange(7))


def test_a_fixed_batch_axis_is_never_joined() -> None:
    samples = numbered(3, rows=2, batchable=False)
    assert [batch["x"].shape for batch in samples.batches(100)] == [(2, 1)] * 3
    assert samples.count == 6


def test_batch_size_counts_samples_not_feeds() -> None:
    assert [len(batch["x"]) for batch in numbered(4, rows=2).batches(5)] == [4, 4]


def test_neighbours_of_other_shapes_are_not_joined() -> None:
    widths = (4, 4, 5, 5, 5, 4)
    samples = Samples(tuple({"x": np.zeros((1, w))} for w in widths), None, "mixed", False, batchable=True)
    assert [batch["x"].shape for batch in samples.batches(2)] == [(2, 4), (2, 5), (1, 5), (1, 4)]


def test_split_is_disjoint_and_complete() -> None:
    samples = numbered(5)
    first, rest = samples.split(2)
    assert (first.count, rest.count) == (2, 3)
    both = [feed["x"][0, 0] for feed in (*first.feeds, *rest.feeds)]
    assert both == [0, 1, 2, 3, 4]
    assert first.labels is not None
    assert rest.labels is not None
    np.testing.assert_array_equal(np.concatenate([first.labels, rest.labels]), samples.labels)


def test_split_keeps_the_labels_of_fixed_batches() -> None:
    first, rest = numbered(3, rows=4).split(9)
    assert (first.count, rest.count) == (8, 4)
    assert rest.labels is not None
    np.testing.assert_array_equal(rest.labels, [8, 9, 10, 11])


@pytest.mark.parametrize("n", [0, 5, 6, -1])
def test_split_refuses_an_empty_part(n: int) -> None:
    with pytest.raises(UsageError, match="both parts need at least one feed"):
        numbered(5).split(n)


def test_no_feeds_and_wrong_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one sample"):
        Samples((), None, "nothing", False)
    with pytest.raises(UsageError, match="expected 1 labels"):
        Samples(({"x": np.zeros((1, 1))},), np.zeros(2, np.int64), "short", False)


@pytest.mark.parametrize(
    ("dims", "free", "fixed"),
    [
        ([(None, 3)], True, 1),
        ([("N", 3), ("N", 5)], True, 1),
        ([("N", 3), (None,)], True, 1),
        ([("N", 3), ("sequence", 5)], False, 1),
        ([(1, 3)], False, 1),
        ([(8, 3)], False, 8),
        ([(8, 3), (8, 2)], False, 8),
        ([(8, 3), (2, 8)], False, 1),
        ([("N", 3), ()], False, 1),
        ([None], False, 1),
        ([], False, 1),
    ],
)
def test_batch_axis(dims: list[tuple[Dim, ...] | None], free: bool, fixed: int) -> None:
    inputs = [TensorSpec(f"x{i}", "float32", each) for i, each in enumerate(dims)]
    assert batch_axis_is_free(inputs) is free
    assert fixed_batch(inputs) == fixed


def test_what_is_held_out_is_spread_and_keeps_its_labels() -> None:
    feeds = tuple({"x": np.array([2 * i, 2 * i + 1])} for i in range(10))
    samples = Samples(feeds, np.arange(20), "twenty", synthetic=False, rows=2)
    for n in range(1, 10):
        rest, out = samples.hold_out(n)
        for part in (rest, out):
            assert part.labels is not None
            assert part.labels.tolist() == [x for feed in part.feeds for x in feed["x"].tolist()]
        assert len(out.feeds) == n
        assert rest.source == f"{20 - 2 * n} of the 20 samples taken from twenty, without those held out"
        assert out.source == f"{2 * n} of the 20 samples taken from twenty, held out of the fit"
        assert sorted([*rest.labels.tolist(), *out.labels.tolist()]) == list(range(20))  # type: ignore[union-attr]
        starts = np.diff([feed["x"][0] // 2 for feed in out.feeds])
        assert n == 1 or starts.max() - starts.min() <= 1
    for n in (0, 10):
        with pytest.raises(UsageError, match="hold"):
            samples.hold_out(n)


@pytest.mark.parametrize(("side", "rows", "size"), [(8, 1, 64), (256, 1, 2), (128, 2, 10), (1024, 1, 1)])
def test_batches_of_large_inputs_are_small(side: int, rows: int, size: int) -> None:
    feed = {"x": np.zeros((rows, 3, side, side), np.float32)}
    samples = Samples((feed,) * (80 // rows), None, "zeros", synthetic=True, rows=rows, batchable=True)
    first, *_ = samples.in_cache(64)
    assert len(first["x"]) == size


@pytest.mark.parametrize(("count", "firsts"), [(4, [0, 2]), (9, [0, 2, 4, 0, 2])])
def test_samples_are_repeated_in_whole_feeds(count: int, firsts: list[int]) -> None:
    feeds = tuple({"x": np.array([2 * i, 2 * i + 1])} for i in range(3))
    samples = Samples(feeds, np.arange(6), "six", synthetic=True, rows=2).cycled(count)
    assert [int(feed["x"][0]) for feed in samples.feeds] == firsts
    assert samples.labels is None
