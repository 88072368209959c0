"""Selection and compensation on plain matrices: formulas, ties, edges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.decompose import (
    SELECTIONS,
    Expression,
    GroupWeights,
    ProducerRows,
    fold,
    least_first,
    merge,
    no_terms,
    select,
)

Floats = NDArray[np.float64]

LEAST = np.array([], dtype=np.int64)


def plain(weights: Floats, bias: Floats | None = None) -> GroupWeights:
    """Rows without BatchNormalization."""
    n = len(weights)
    column = np.zeros((n, 1)) if bias is None else bias.reshape(n, 1)
    ones = np.ones((n, 1))
    return GroupWeights((ProducerRows(weights, column, ones, np.zeros((n, 1)), False, bias is not None),))


def normalised(
    weights: Floats, gamma: Floats, beta: Floats, mean: Floats, var: Floats, eps: float = 1e-5
) -> GroupWeights:
    """Rows with a BatchNormalization behind them."""
    n = len(weights)
    scale = gamma / np.sqrt(var + eps)
    offset = beta - scale * mean
    parts = ProducerRows(weights, np.zeros((n, 1)), scale.reshape(n, 1), offset.reshape(n, 1), True, True)
    return GroupWeights((parts,), np.abs(gamma))


def test_published_formula() -> None:
    """`S = s·(γ_i/γ_j)·(σ_j/σ_i)` and `B = (γ_i/σ_i)(s(μ_j − σ_jβ_j/γ_j) − μ_i) + β_i` make BN_i = S·BN_j + B."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        s = rng.random() + 0.1
        w = rng.standard_normal((1, 5))
        gamma, var = rng.random(2) + 0.2, rng.random(2) + 0.2
        beta, mean = rng.standard_normal(2), rng.standard_normal(2)
        sigma = np.sqrt(var + 1e-5)
        x = rng.standard_normal((50, 5))
        (j, i) = (0, 1)
        big_s = s * (gamma[i] / gamma[j]) * (sigma[j] / sigma[i])
        big_b = (gamma[i] / sigma[i]) * (s * (mean[j] - sigma[j] * beta[j] / gamma[j]) - mean[i]) + beta[i]
        rows = np.concatenate([w, s * w])
        outputs = gamma * ((x @ rows.T) - mean) / sigma + beta
        np.testing.assert_allclose(outputs[:, i], big_s * outputs[:, j] + big_b, rtol=1e-9, atol=1e-9)
        expression = merge(normalised(rows, gamma, beta, mean, var), np.array([j]))
        np.testing.assert_allclose(expression.factor, [big_s], rtol=1e-9)
        # The published code has the variance in place of σ, and i and j swapped: neither is this.
        assert not np.isclose(big_s, s * (gamma[i] / gamma[j]) * (var[j] / var[i]), rtol=1e-3)
        assert not np.isclose(big_s, s * (gamma[j] / gamma[i]) * (sigma[i] / sigma[j]), rtol=1e-3)


def test_merge_appends_the_bias() -> None:
    """Without BatchNormalization cosine and norm are those of [w, b]."""
    rows = plain(np.array([[1.0, 0], [2.0, 0], [0, 1.0]]), np.array([1.0, 2.0, 1.0]))
    expression = merge(rows, np.array([0, 2]), threshold=0.9)
    assert expression.target.tolist() == [0]
    np.testing.assert_allclose(expression.factor, [2.0])
    # With the bias of the other sign the direction is another one.
    rows = plain(np.array([[1.0, 0], [2.0, 0], [0, 1.0]]), np.array([1.0, -2.0, 1.0]))
    assert merge(rows, np.array([0, 2]), threshold=0.1).removed.size == 0


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.71, 0.99])
def test_merge_accepts_from_the_threshold_on(threshold: float) -> None:
    rows = plain(np.array([[1.0, 0], [1.0, 1.0]]))
    assert merge(rows, np.array([0]), threshold).removed.size == int(np.sqrt(0.5) >= threshold)


def test_merge_balances_direction_and_offset() -> None:
    """λ = 1 looks at the direction alone; a small λ takes the slightly worse direction with the smaller offset."""
    weights = np.array([[1.0, 0.05, 0], [1.0, 0, 0.1], [1.0, 0, 0]])
    ones = np.ones(3)
    rows = normalised(weights, ones, np.array([5.0, 0.0, 0.0]), np.zeros(3), ones)
    assert merge(rows, np.array([0, 1]), balance=1.0).target.tolist() == [0]
    assert merge(rows, np.array([0, 1]), balance=0.1).target.tolist() == [1]


def test_a_negative_scale_is_not_merged() -> None:
    weights = np.array([[1.0, 2.0], [0.5, 1.0]])
    ones = np.ones(2)
    rows = normalised(weights, np.array([1.0, -1.0]), np.zeros(2), np.zeros(2), ones)
    assert merge(rows, np.array([0])).removed.size == 0
    both = normalised(weights, np.array([-1.0, -1.0]), np.zeros(2), np.zeros(2), ones)
    np.testing.assert_allclose(merge(both, np.array([0])).factor, [0.5])


def test_zeros_are_never_divided_by() -> None:
    weights = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    ones = np.ones(3)
    for rows in (plain(weights), normalised(weights, np.array([1.0, 0.0, 1.0]), ones, ones, ones)):
        for kept in ([0], [1], [0, 1], [0, 2]):
            expression = merge(rows, np.array(kept), threshold=-1.0)
            assert np.isfinite(expression.factor).all()
            assert (expression.factor > 0).all()
            assert not {0, 2} & set(expression.target.tolist())


@pytest.mark.parametrize("method", SELECTIONS)
def test_ties_go_to_the_lowest_index(method: str) -> None:
    rows = plain(np.ones((6, 3)))
    assert select(rows, 2, method).tolist() == [0, 1]
    rows = plain(np.array([[1.0, 0], [3.0, 0], [3.0, 0], [1.0, 0]]))
    if method != "gm":
        assert select(rows, 1, method)[0] in (0, 1)


@pytest.mark.parametrize("method", SELECTIONS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_counts_from_one_to_all(method: str, n: int) -> None:
    rows = plain(np.random.default_rng(n).standard_normal((n, 4)))
    for k in range(1, n + 1):
        kept = select(rows, k, method)
        assert len(kept) == k
        assert (np.diff(kept) > 0).all()
    assert select(rows, n, method).tolist() == list(range(n))


@pytest.mark.parametrize("method", SELECTIONS)
def test_selection_follows_a_permutation(method: str) -> None:
    rng = np.random.default_rng(5)
    weights, order = rng.standard_normal((9, 4)), rng.permutation(9)
    one, two = select(plain(weights), 4, method), select(plain(weights[order]), 4, method)
    assert set(one.tolist()) == set(order[two].tolist())


def test_scores_are_what_they_say() -> None:
    weights = np.array([[3.0, 0, 0], [2.0, 2.0, 0], [1.5, 1.5, 1.4]])
    assert select(plain(weights), 1, "l1").tolist() == [2]
    assert select(plain(weights), 1, "l2").tolist() == [0]
    # Two equal rows and one far away: the far one has the largest total distance.
    assert select(plain(np.array([[1.0, 0], [1.0, 0.1], [-1.0, 0]])), 1, "gm").tolist() == [2]
    ones = np.ones(3)
    assert select(normalised(weights, np.array([0.1, -3.0, 1.0]), ones, ones, ones), 1, "bn").tolist() == [1]


def test_clusters_keep_one_of_two_large_twins() -> None:
    weights = np.array([[9.0, 0], [9.0, 0.01], [0, 1.0], [0.01, 1.0]])
    kept = select(plain(weights), 2, "cluster").tolist()
    assert len({0, 1} & set(kept)) == len({2, 3} & set(kept)) == 1
    assert select(plain(weights), 2, "l2").tolist() == [0, 1]


def test_matrix_has_identity_rows_for_what_stays() -> None:
    expression = Expression(4, np.array([1, 3]), np.array([0]), np.array([3]), np.array([0.5]))
    assert expression.matrix().tolist() == [[0, 0.5], [1, 0], [0, 0], [0, 1]]


def test_nothing_removed_nothing_expressed() -> None:
    rows = plain(np.random.default_rng(0).standard_normal((4, 3)))
    every = np.arange(4)
    for expression in (no_terms(4, every), merge(rows, every), fold(rows, every)):
        assert expression.removed.size == 0
        assert not expression.averages
        np.testing.assert_array_equal(expression.matrix(), np.eye(4))


def test_least_first_lets_the_highest_of_equals_go_first() -> None:
    assert least_first(np.array([1.0, 1.0, 0.5, 1.0])).tolist() == [2, 3, 1, 0]
