from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxmerge.errors import ModelError, UsageError
from onnxmerge.runtime import FidelityMeter, OutputFidelity, accuracy, compare_outputs

RNG = np.random.default_rng(0)
A = RNG.standard_normal((10, 5))
NAN, INF = np.nan, np.inf


def one(a: Any, b: Any) -> OutputFidelity:
    (output,) = compare_outputs([{"y": np.asarray(a)}], [{"y": np.asarray(b)}]).outputs
    return output


def test_equal_outputs_are_perfect() -> None:
    got = one(A, A)
    assert got.cosine == pytest.approx(1, abs=1e-15)
    assert (got.relative_l2, got.max_abs, got.top1_agreement, got.equal_fraction) == (0, 0, 1, None)
    assert got.samples == 10


def test_a_factor_of_1_01_is_seen_by_the_error_and_not_by_the_cosine() -> None:
    got = one(A, 1.01 * A)
    assert got.relative_l2 == pytest.approx(0.01, rel=1e-12)
    assert got.max_abs == pytest.approx(0.01 * np.abs(A).max(), rel=1e-12)
    assert got.cosine == pytest.approx(1, abs=1e-15)
    assert got.top1_agreement == 1


def test_cosine_is_the_mean_over_samples_weighted_by_their_norm() -> None:
    a, b = [[1.0, 0.0], [100.0, 0.0]], [[0.0, 1.0], [100.0, 0.0]]
    got = one(a, b)
    assert got.cosine == pytest.approx(100 / 101, rel=1e-15)
    assert got.relative_l2 == pytest.approx(math.sqrt(2 / 10001))
    assert got.top1_agreement == 0.5
    assert one([[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]).cosine == 0.5


def test_a_weight_is_the_larger_of_both_norms() -> None:
    """So outputs where the dense model has none count as much as the lack of outputs."""
    full, empty = [[3.0, 4.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]
    assert one(full, empty).cosine == pytest.approx(1 / 6)
    assert one(empty, full).cosine == pytest.approx(1 / 6)


def test_noise_on_empty_samples_does_not_decide_the_cosine() -> None:
    """Probabilities of a detector: two samples with an object, found again, and thirty without."""
    a, b = 1e-6 * RNG.random((32, 100)), 1e-6 * RNG.random((32, 100))
    a[:2, :10], b[:2, :10] = 0.9, 0.8
    got = one(a, b).cosine
    assert got is not None
    assert got > 0.999
    a[5], b[5, :10] = 0.0, 0.9  # an object that is not there
    wrong = one(a, b).cosine
    assert wrong == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 1, 1)])
def test_one_value_per_sample_is_compared_over_samples(shape: tuple[int, ...]) -> None:
    """Sample by sample, any two probabilities have a cosine of 1."""
    a, b = np.arange(1.0, 9.0), np.arange(8.0, 0.0, -1.0)
    expected = a @ b / (a @ a)
    assert one(a.reshape(shape), b.reshape(shape)).cosine == pytest.approx(expected, rel=1e-12)
    halves = compare_outputs(*([{"y": x[:3].reshape(-1, 1)}, {"y": x[3:].reshape(-1, 1)}] for x in (a, b)))
    assert halves.cosine == pytest.approx(expected, rel=1e-12)
    assert one(a.reshape(shape), 0 * a.reshape(shape)).cosine == 0


@pytest.mark.parametrize(("size", "cosine"), [(1e200, 0.0), (1.6e308, 0.0)])
def test_values_whose_squares_overflow_are_compared_without_a_warning(size: float, cosine: float) -> None:
    assert one(np.array([size, size]), np.array([size, -size])).cosine == pytest.approx(cosine)


def test_batching_changes_nothing() -> None:
    b = A + 0.1 * RNG.standard_normal(A.shape)
    parts = compare_outputs([{"y": A[:3]}, {"y": A[3:]}], [{"y": b[:3]}, {"y": b[3:]}]).outputs[0]
    whole = one(A, b)
    assert parts.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert parts.relative_l2 == pytest.approx(whole.relative_l2, rel=1e-12)
    assert (parts.max_abs, parts.top1_agreement) == (whole.max_abs, whole.top1_agreement)


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(-1e150, 1e150)),
    st.sampled_from([-2.0, 1e-3, 3.0]),
)
def test_bounds_hold_for_any_matrix(a: NDArray[np.float64], factor: float) -> None:
    got = one(a, factor * a)
    assert got.cosine is not None
    if (np.abs(a[a != 0]) > 1e-290).all():
        assert got.cosine == pytest.approx(math.copysign(1, factor) if a.any() else 1.0, abs=1e-9)
    assert -1 <= got.cosine <= 1


@pytest.mark.parametrize(
    ("a", "b", "cosine", "relative", "max_abs"),
    [
        ([[0.0, 0.0]], [[0.0, 0.0]], 1, 0, 0),
        ([[0.0, 0.0]], [[1.0, 0.0]], 0, INF, 1),
        ([[1.0, 0.0]], [[0.0, 0.0]], 0, 1, 1),
        ([[NAN, 2.0]], [[NAN, 2.0]], 1, 0, 0),
        ([[-INF, 2.0]], [[-INF, 2.0]], 1, 0, 0),
        ([[1.0, 2.0]], [[NAN, 2.0]], 0, INF, INF),
        ([[NAN, 2.0]], [[1.0, 2.0]], 0, INF, INF),
        ([[INF, 2.0]], [[-INF, 2.0]], 0, INF, INF),
        ([[1.0], [1.0]], [[1.0], [NAN]], 0.5, INF, INF),
        ([[1e200, 0.0]], [[1e200, 0.0]], 1, 0, 0),
        ([[1e200, 0.0]], [[2e200, 0.0]], 1, INF, 1e200),
        (np.zeros((0, 3)), np.zeros((0, 3)), 1, 0, 0),
        (np.zeros((2, 0)), np.zeros((2, 0)), 1, 0, 0),
        (3.0, 3.0, 1, 0, 0),
    ],
)
def test_zeros_and_what_is_not_finite(a: Any, b: Any, cosine: float, relative: float, max_abs: float) -> None:
    got = one(a, b)
    assert got.cosine == pytest.approx(cosine, abs=1e-15)
    assert (got.relative_l2, got.max_abs) == (relative, max_abs)


def test_ties_of_the_largest_score_go_to_the_lowest_class() -> None:
    assert one([[1.0, 1.0]], [[2.0, 1.0]]).top1_agreement == 1
    assert one([[1.0, 1.0]], [[1.0, 2.0]]).top1_agreement == 0


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 2), ()])
def test_only_scores_have_a_top1(shape: tuple[int, ...]) -> None:
    assert one(np.ones(shape), np.ones(shape)).top1_agreement is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]])),
        (np.array([True, True, True, True]), np.array([True, True, True, False])),
        (np.array(["a", "b", "c", "d"], object), np.array(["a", "b", "c", "x"], object)),
    ],
)
def test_other_types_count_equal_entries(a: NDArray[Any], b: NDArray[Any]) -> None:
    got = one(a, b)
    assert (got.equal_fraction, got.cosine, got.relative_l2, got.max_abs) == (0.75, None, None, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_low_precision_is_summed_in_float64(dtype: Any) -> None:
    a = np.full((1, 100_000), 1.0, dtype)
    b = np.full((1, 100_000), 0.5, dtype)
    got = one(a, b)
    assert got.relative_l2 == 0.5
    assert got.cosine == pytest.approx(1, abs=1e-12)


def test_the_model_is_as_good_as_its_worst_output() -> None:
    a = {"p": A, "q": A, "ids": np.arange(3)}
    got = compare_outputs([a], [{"p": A, "q": -A, "ids": np.arange(3)}])
    assert got.cosine == pytest.approx(-1)
    assert got.relative_l2 == pytest.approx(2)
    assert [output.name for output in got.outputs] == ["p", "q", "ids"]
    assert compare_outputs([{"ids": np.arange(3)}], [{"ids": np.arange(3)}]).cosine is None


@pytest.mark.parametrize(
    ("dense", "compressed", "message"),
    [
        ([{"y": A}], [{"y": A[:5]}], r"output 'y': expected shape \(10, 5\) .* got \(5, 5\)"),
        ([{"y": A}], [{"z": A}], "expected y, got z"),
        ([{"y": A}], [{"y": A.astype(np.float32)}], "expected float64 .* got float32"),
        ([{"y": A}, {"y": A}], [{"y": A}], "fewer batches"),
        ([{"y": A}], [{"y": A}, {"y": A}], "more batches"),
    ],
)
def test_outputs_that_cannot_be_compared(
    dense: list[dict[str, Any]], compressed: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        compare_outputs(dense, compressed)


def test_fidelity_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="got none"):
        compare_outputs([], [])


# --- accuracy

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.0, NAN]])


def test_accuracy_on_the_first_output_that_looks_like_scores() -> None:
    outputs = [
        {"features": np.zeros((2, 3, 3)), "scores": SCORES[:2], "other": -SCORES[:2]},
        {"features": np.zeros((2, 3, 3)), "scores": SCORES[2:], "other": -SCORES[2:]},
    ]
    assert accuracy(outputs, np.array([1, 0, 0, 1])) == 0.75
    assert accuracy(outputs, np.array([0, 1, 1, 0])) == 0


def test_no_scores_no_accuracy() -> None:
    assert accuracy([{"y": np.zeros((2, 3, 3))}], np.array([0, 1])) is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0], "expected a label for every sample"),
        ([0, 1, 0, 1, 0], "expected a sample for every label, got 4 samples, 5 labels"),
        ([0, 1, 2, 1], r"^labels: expected labels in 0\.\.1, .* got 2"),
        ([0, 1, -1, 1], r"expected labels in 0\.\.1, .* got -1"),
    ],
)
def test_labels_that_do_not_fit(labels: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        accuracy([{"y": SCORES}], np.array(labels))


# --- lengths that depend on values


def test_an_output_whose_length_depends_on_values_is_left_out_by_name() -> None:
    meter = FidelityMeter({"found": (None, 3), "y": (None, 5)})
    meter.add({"found": np.zeros((4, 3)), "y": A[:5]}, {"found": np.zeros((4, 3)), "y": A[:5]})
    meter.add({"found": np.zeros((4, 3)), "y": A[5:]}, {"found": np.zeros((2, 3)), "y": 2 * A[5:]})
    meter.add({"found": np.zeros((4, 3)), "y": A[:5]}, {"found": np.ones((4, 3)), "y": A[:5]})
    got = meter.result()
    assert [(output.name, output.samples) for output in got.outputs] == [("y", 15)]
    assert got.relative_l2 is not None
    assert got.relative_l2 > 0.1
    (sentence,) = got.left_out
    assert "'found' was not compared" in sentence
    assert "(4, 3) in the dense model and (2, 3) in the compressed one" in sentence


@pytest.mark.parametrize("declared", [{}, {"y": (4, None)}, {"y": (None, 3), "z": (None,)}])
def test_a_length_that_is_declared_may_not_differ(declared: dict[str, tuple[int | None, ...]]) -> None:
    a, b = (np.zeros((4, 3)), np.zeros((2, 3))) if "z" not in declared else (np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ModelError, match=r"expected shape \(4, 3\)"):
        FidelityMeter(declared).add({"y": a}, {"y": b})


def test_an_output_of_unknown_rank_may_have_any_length_but_not_another_rank() -> None:
    meter = FidelityMeter({"y": ()})
    meter.add({"y": np.zeros((4, 3))}, {"y": np.zeros((2, 3))})
    assert meter.result().outputs == ()
    with pytest.raises(ModelError, match="expected shape"):
        meter.add({"y": np.zeros((4, 3))}, {"y": np.zeros(4)})
