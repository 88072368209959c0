"""The vocabulary of channel analysis: relations between the axes of one operator.

A *channel axis* is a (tensor, axis) pair; initializers are tensors like any other, so "row i of the weight is
channel i of the output" and "channel i of both summands is channel i of the sum" are the same kind of statement: a
link.

* `Link`: element `at_one[k]` of one axis and `at_two[k]` of another belong together, for every k.
* `Tie`: elements of one axis in the same class belong together.
* `Fork`: exactly one of several ways holds, depending on how the channels are cut. An axis of H·D elements that
  is reshaped into (H, D) can lose blocks (whole heads) or strides (a width inside every head), never single elements.
* `Pin`: elements that must be kept, with the reason.

`CommutesWith` states the scaling matrices Z that an operator commutes with: f(Z a) = Z f(a). Here a is every signal
that carries the channels, while constants and signals without a channel axis keep their values. A `Limit` restricts
this for channels on one axis.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.reasons import Reason

__all__ = [
    "Axis",
    "CommutesWith",
    "Consumer",
    "Edit",
    "Fork",
    "Indices",
    "Kept",
    "Limit",
    "Link",
    "Pin",
    "Producer",
    "Relation",
    "SetAttribute",
    "SetInput",
    "SetLengths",
    "Tie",
    "Way",
    "link",
]

Indices = NDArray[np.int64]


class Axis(NamedTuple):
    """One axis of one tensor, counted from 0."""

    tensor: str
    axis: int


class CommutesWith(IntEnum):
    """Scaling matrices that an operator commutes with, from none to any; a path has the minimum over its operators."""

    NOTHING = 0
    SELECTION = 1
    """Rows that copy one channel: any function that treats all channels alike."""
    POSITIVE = 2
    """Rows with one non-negative entry: Relu, LeakyRelu, MaxPool."""
    LINEAR = 3
    """Any matrix: Identity, AveragePool, a sum of two signals."""


@dataclass(frozen=True)
class Link:
    """Pairs of elements of two axes that are one channel; `None` for both index arrays means the identity.

    Attributes:
        one: An axis.
        two: Another one.
        at_one: Elements of the first.
        at_two: The elements of the second that they belong to.
        repeats: Whether the pairs repeat along an axis of free length with a fixed period, so that they hold for every
            length; the arrays are those of the first pass.
    """

    one: Axis
    two: Axis
    at_one: Indices | None = None
    at_two: Indices | None = None
    repeats: bool = False


def link(
    one_tensor: str, one_axis: int, two_tensor: str, two_axis: int, pairs: tuple[Indices, Indices] | None = None
) -> Link:
    """Shorthand for a Link between two named axes."""
    at_one, at_two = pairs if pairs is not None else (None, None)
    return Link(Axis(one_tensor, one_axis), Axis(two_tensor, two_axis), at_one, at_two)


@dataclass(frozen=True)
class Tie:
    """Elements of one axis in the same class (equal integers) belong together."""

    axis: Axis
    classes: Indices


@dataclass(frozen=True)
class Pin:
    """Elements of an axis that must be kept; all of them if `at` is None."""

    axis: Axis
    reason: Reason
    at: Indices | None = None


@dataclass(frozen=True)
class Way:
    """One way of cutting at a fork."""

    links: tuple[Link, ...] = ()
    ties: tuple[Tie, ...] = ()


@dataclass(frozen=True)
class Fork:
    """Mutually exclusive ways; `reason` applies if none of them can be taken."""

    ways: tuple[Way, ...]
    reason: Reason


@dataclass(frozen=True)
class Producer:
    """A weight whose slices along an axis produce the channels of an output axis.

    Attributes:
        node: Index of the node.
        output: The output axis.
        weight: The weight and the axis along which its slices are channels.
        bias: Name of the bias vector, "" if there is none.
        passes: The scaling matrices that pass from rows of the weight to the channels.
    """

    node: int
    output: Axis
    weight: Axis
    bias: str = ""
    passes: CommutesWith = CommutesWith.LINEAR


@dataclass(frozen=True)
class Consumer:
    """A contraction over an axis, where removed channels are absorbed.

    Attributes:
        node: Index of the node.
        position: Which input of the node carries the channels.
        input: The axis contracted over.
        weight: The weight and its contracted axis; None if both factors are signals.
        outputs: The weight's axis of output channels, or None.
        bias: Name of the bias vector, "" if there is none.
        sums: For an axis that holds several contractions side by side (the heads of packed queries), the number of the
            one that each element belongs to, -1 for none; None if there is only one. A group reads the axis if it has
            several channels in one of them; whole heads are removed without changing any contraction.
    """

    node: int
    position: int
    input: Axis
    weight: Axis | None
    outputs: int | None = None
    bias: str = ""
    sums: Indices | None = field(default=None, compare=False)

    def reads(self, labels: Indices) -> bool:
        """Whether channels with these labels on the axis are contracted over."""
        if self.sums is None:
            return True
        inside = (self.sums >= 0) & (labels >= 0)
        pairs = np.unique(np.stack([self.sums[inside], labels[inside]]), axis=1)
        return bool(pairs.shape[1] > len(np.unique(pairs[0])))


@dataclass(frozen=True)
class Limit:
    """An upper bound on the scaling matrices for channels on one axis, whatever applies to the rest of the node."""

    axis: Axis
    passes: CommutesWith


@dataclass(frozen=True)
class Relation:
    """All relations of one node."""

    links: tuple[Link, ...] = ()
    ties: tuple[Tie, ...] = ()
    forks: tuple[Fork, ...] = ()
    pins: tuple[Pin, ...] = ()
    producers: tuple[Producer, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    passes: CommutesWith = CommutesWith.NOTHING
    limits: tuple[Limit, ...] = ()

    def passes_along(self, axes: Container[Axis]) -> CommutesWith:
        """The scaling matrices that the node commutes with for channels on the given axes."""
        return min((self.passes, *(limit.passes for limit in self.limits if limit.axis in axes)))


@dataclass(frozen=True)
class SetAttribute:
    """Give an attribute of the node a new value."""

    name: str
    value: int | float | tuple[int, ...]


@dataclass(frozen=True)
class SetInput:
    """Give an input of the node a new constant."""

    position: int
    value: NDArray[np.int64]


@dataclass(frozen=True)
class SetLengths:
    """Replace some entries of an input that holds lengths and is computed at run time.

    Attributes:
        position: Number of the input.
        at: The entries.
        lengths: For each entry its new value, or the fraction that remains of a length that is free.
    """

    position: int
    at: tuple[int, ...]
    lengths: tuple[int | Fraction, ...]


Edit = SetAttribute | SetInput | SetLengths

Kept = Callable[[Axis], Indices | None]
"""Indices of an axis to keep, ascending; None if the axis is not cut."""
