"""Correct scores so that their softmax or sigmoid gives wanted probabilities on rows of inputs.

Least squares matches scores, whatever they are worth: a class at a probability of 1e-9 counts as much as the two
between which a row decides. From its solution, this minimises the cross entropy with the wanted probabilities, which is
convex:

    min over D, c:  mean over rows of −Σ q log softmax(z + x D + c)  +  λ/2 ‖D‖²

with z the scores so far, q the wanted probabilities and x whitened inputs. λ is the strength that serves rows best to
which D was not fitted; if none does better than no correction, there is none. For a sigmoid, every score competes with
a score of zero alone, and the cross entropies of all scores are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

__all__ = ["ClassRows", "probability_correction"]

Values = NDArray[np.float32]
Floats = NDArray[np.float64]

_STRENGTHS = (1.0, 0.1, 0.01)
_WEAKEST = (1e-3, 1e-4)
"""Further strengths for a sigmoid: where few rows have a probability that is not almost zero, the loss is small."""
_ITERATIONS = 40
_FLOOR = 1e-3
"""Added to the variances of the inputs in every direction, relative to their mean."""


@dataclass(frozen=True)
class ClassRows:
    """Rows to fit to.

    Attributes:
        inputs: (m, d).
        scores: (m, c) scores so far of the classes that are corrected.
        rest: (m,) logarithm of the summed exponentials of all other scores; None if each score has a sigmoid of its
            own.
        wanted: (m, c) wanted probabilities; behind a softmax, what they lack to 1 belongs to the other classes.
    """

    inputs: Values
    scores: Values
    rest: Values | None
    wanted: Values

    def among(self, chosen: NDArray[np.bool_]) -> ClassRows:
        """Some of the rows."""
        rest = None if self.rest is None else self.rest[chosen]
        return ClassRows(self.inputs[chosen], self.scores[chosen], rest, self.wanted[chosen])


def probability_correction(rows: ClassRows, half: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(d, c) weights and (c,) shift to add to the scores.

    Args:
        rows: The rows.
        half: (m,) which rows belong to the first of two halves, of different samples.
    """
    mean, whitening = _whitening(rows.inputs)
    white = ClassRows(
        np.asarray((rows.inputs - mean) @ whitening, dtype=np.float32), rows.scores, rows.rest, rows.wanted
    )
    d, c = white.inputs.shape[1], white.scores.shape[1]
    strength = _best_strength(white, half)
    if strength is None:
        return np.zeros((d, c)), np.zeros(c)
    found = _fitted(white, strength)
    weights = whitening.astype(np.float64) @ found[:-1]
    return weights, found[-1] - mean.astype(np.float64) @ weights


def _best_strength(rows: ClassRows, half: NDArray[np.bool_]) -> float | None:
    """The strength that best serves the half that was not fitted to; None if no correction is better."""
    none = np.zeros((rows.inputs.shape[1] + 1, rows.scores.shape[1]))
    lowest, best = sum(_loss(none, rows.among(side))[0] for side in (half, ~half)), None
    for strength in _STRENGTHS if rows.rest is not None else (*_STRENGTHS, *_WEAKEST):
        error = sum(_loss(_fitted(rows.among(side), strength), rows.among(~side))[0] for side in (half, ~half))
        if not error < lowest:  # or it is not a number
            break
        lowest, best = error, strength
    return best


def _whitening(inputs: Values) -> tuple[Values, Values]:
    """(d,) means, and the (d, d) matrix that gives inputs, less their means, unit covariance."""
    mean = inputs.mean(axis=0, dtype=np.float64)
    centred = inputs - mean.astype(np.float32)
    values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / max(len(inputs), 1))
    floor = max(_FLOOR * float(values.mean()), 1e-30)
    return mean.astype(np.float32), (vectors / np.sqrt(np.maximum(values, 0.0) + floor)).astype(np.float32)


def _fitted(rows: ClassRows, strength: float) -> Floats:
    """(d + 1, c) correction for whitened rows, the shift last."""
    shape = (rows.inputs.shape[1] + 1, rows.scores.shape[1])

    def objective(flat: Any) -> tuple[float, Any]:  # noqa: ANN401 - stubs of SciPy want one dimension
        found = flat.reshape(shape)
        loss, gradient = _loss(found, rows)
        gradient[:-1] += strength * found[:-1]
        return loss + strength / 2 * float(np.square(found[:-1]).sum()), gradient.ravel()

    options = {"maxiter": _ITERATIONS}
    start = np.zeros(shape).ravel()
    got = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
    return np.asarray(got.x, dtype=np.float64).reshape(shape)


def _loss(found: Floats, rows: ClassRows) -> tuple[float, Floats]:
    """Mean cross entropy of rows with a correction, and its gradient."""
    moved = found.astype(np.float32)
    scores = rows.scores + rows.inputs @ moved[:-1] + moved[-1]
    if rows.rest is None:
        loss = (np.logaddexp(scores, 0) - rows.wanted * scores).sum(axis=1)
        powers = special.expit(scores) - rows.wanted
        gradient = np.concatenate([rows.inputs.T @ powers, powers.sum(axis=0)[None]]).astype(np.float64)
        return float(loss.mean(dtype=np.float64)), gradient / len(scores)
    top = np.maximum(scores.max(axis=1), rows.rest)
    powers = np.exp(scores - top[:, None])
    total = powers.sum(axis=1) + np.exp(rows.rest - top)
    others = 1.0 - rows.wanted.sum(axis=1)
    loss = top + np.log(total) - (rows.wanted * scores).sum(axis=1) - others * rows.rest
    powers /= total[:, None]
    powers -= rows.wanted
    gradient = np.concatenate([rows.inputs.T @ powers, powers.sum(axis=0)[None]]).astype(np.float64)
    return float(loss.mean(dtype=np.float64)), gradient / len(scores)
