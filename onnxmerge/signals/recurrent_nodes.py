"""A recurrent node whose W, R and B can be solved again, as the products of each step.

Every gate is an activation of `x·Wᵀ + h·Rᵀ + b`, with h the states of the previous step. So one step of the node is a
matrix product with rows (x, h), and its targets are the sums of the dense node. One problem for each direction, or for
each direction and gate of a GRU:

1. LSTM, RNN: (x, h) to all gates.
2. GRU: (x, h) to z; (x, h) to r; and for the candidate, which reads r ⊙ h, (x, r ⊙ h). With `linear_before_reset`,
   r scales `h·Rᵀ + b` instead, so x and h have targets of their own, two problems (x, 0) and (0, h).

The states are those of the cut node itself: its states depend on its weights, so they are computed again from the last
solution (`SWEEPS`). They come from a session with just the node, because a model may not read them at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.channels.rules.recurrent import gates_of
from onnxmerge.graph import Node
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.patches import Patches
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["RecurrentNode", "recurrent_node"]

Floats = NDArray[np.float64]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class _Problem:
    """One product of a step.

    Attributes:
        direction: 0 forward or the only one, 1 backward.
        rows: Rows of W and R.
        reads_input: Whether it reads x.
        reads_state: Whether it reads h.
        reset: Whether it reads r ⊙ h in the place of h.
    """

    direction: int
    rows: slice
    reads_input: bool = True
    reads_state: bool = True
    reset: bool = False


@dataclass(frozen=True)
class RecurrentNode(WeightedNode):
    """An LSTM, GRU or RNN with weights of its own; its inputs are (x, h) once for each problem.

    Attributes:
        recurrent: (D, G·H, H) values of R.
        biases: (D, 2·G·H) values of B.
        problems: The products of a step.
    """

    recurrent: NDArray[np.generic]
    biases: NDArray[np.generic]
    problems: tuple[_Problem, ...]

    @property
    def trials(self) -> tuple[str, ...]:
        """See `WeightedNode`."""
        return self.node.inputs[1:4]

    @property
    def sweeps(self) -> int:
        """See `WeightedNode`."""
        return 2

    @property
    def shifted(self) -> bool:
        """See `WeightedNode`."""
        return False

    @property
    def reads(self) -> tuple[str, ...]:
        """See `WeightedNode`."""
        held = self.node.inputs[1:4]
        return tuple(dict.fromkeys(name for name in self.node.inputs if name and name not in held))

    def labels(self, group: ChannelGroup) -> Indices:
        """See `WeightedNode`."""
        inputs, units = self.array.shape[2], self.recurrent.shape[2]
        none = np.full(inputs + units, -1, dtype=np.int64)
        own = np.concatenate(
            [
                group.members.get(Axis(self.node.inputs[0], 2), none[:inputs]),
                group.members.get(Axis(self.node.inputs[2], 2), none[:units]),
            ]
        )
        return np.tile(own, len(self.problems))

    def inputs(self, frontier: Frontier) -> Iterator[NDArray[Any]]:
        """See `WeightedNode`: (rows, problems · (inputs + units)) of the steps inside each sequence."""
        names = self.node.inputs
        weights = [np.asarray(frontier.weights.get(n, v)) for n, v in zip(names[1:4], self._values(), strict=True)]
        for fed, states in frontier.states(self.node):
            x = np.asarray(fed[names[0]], dtype=np.float32)
            steps, _, batch, _ = states.shape
            lengths = fed.get(self.node.input(4), np.full(batch, steps))
            start = fed.get(self.node.input(5), np.zeros((1, 1, 1), np.float32))
            inside = np.arange(steps)[:, None] < lengths
            before = self._before(np.asarray(states, np.float32), np.asarray(start, np.float32), lengths)
            yield self._rows(x[inside], [each[inside] for each in before], weights)

    def fed_shapes(self, frontier: Frontier) -> Iterator[tuple[int, Node, tuple[int, ...]]]:
        """See `WeightedNode`."""
        return ((batch, node, rows.shape) for batch, node, rows in self.fed(frontier))

    def _before(self, states: Values, start: Values, lengths: NDArray[Any]) -> list[Values]:
        """(steps, batch, units) states that each step reads, by direction."""
        found = []
        for direction in range(states.shape[1]):
            own = states[:, direction]
            first = np.broadcast_to(start[min(direction, len(start) - 1)], own.shape[1:])
            if direction == 1 or self.node.attributes.get("direction") == "reverse":
                before = np.concatenate([own[1:], first[None]])
                before[lengths - 1, np.arange(len(lengths))] = first
            else:
                before = np.concatenate([first[None], own[:-1]])
            found.append(before)
        return found

    def _rows(self, x: Values, before: list[Values], weights: list[NDArray[Any]]) -> Values:
        """The inputs of all problems side by side."""
        w, r, b = weights
        parts = []
        for problem in self.problems:
            h = before[problem.direction]
            if problem.reset:
                h = h * self._reset(x, h, w[problem.direction], r[problem.direction], b[problem.direction])
            parts.append(x if problem.reads_input else np.zeros_like(x))
            parts.append(h if problem.reads_state else np.zeros_like(h))
        return np.concatenate(parts, axis=1)

    def _reset(self, x: Values, h: Values, w: NDArray[Any], r: NDArray[Any], b: NDArray[Any]) -> Values:
        """The reset gate of a GRU."""
        units = self.recurrent.shape[2]
        own, both = slice(units, 2 * units), b[units : 2 * units] + b[4 * units : 5 * units]
        sums = x @ w[own].astype(np.float32).T + h @ r[own].astype(np.float32).T + both.astype(np.float32)
        return np.asarray(1.0 / (1.0 + np.exp(-sums)), dtype=np.float32)

    def matrices(self) -> Floats:
        """See `WeightedNode`."""
        w, r, _ = (np.asarray(each, dtype=np.float64) for each in self._values())
        blocks = []
        for problem in self.problems:
            one, two = w[problem.direction, problem.rows].T, r[problem.direction, problem.rows].T
            blocks.append(np.concatenate([one * problem.reads_input, two * problem.reads_state]))
        return np.stack(blocks)

    def weight_rows(self) -> NDArray[np.generic]:
        """See `WeightedNode`."""
        return np.asarray(self.matrices()[0])

    def values(self, matrices: NDArray[np.floating], shift: Floats) -> dict[str, NDArray[Any]]:
        """See `WeightedNode`."""
        w, r, b = (np.array(each, dtype=np.float64) for each in self._values())
        inputs, half = w.shape[2], w.shape[1]
        for problem, matrix, added in zip(self.problems, matrices, shift.reshape(len(matrices), -1), strict=True):
            if problem.reads_input:
                w[problem.direction, problem.rows] = matrix[:inputs].T
            if problem.reads_state:
                r[problem.direction, problem.rows] = matrix[inputs:].T
            # Both halves of B are added together, except where the reset gate scales the second.
            at = problem.rows if problem.reads_input else slice(half + problem.rows.start, half + problem.rows.stop)
            b[problem.direction, at] += added
        named = zip(self.node.inputs[1:4], (w, r, b), self._values(), strict=True)
        return {name: new.astype(old.dtype) for name, new, old in named}

    def _values(self) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
        return self.array, self.recurrent, self.biases

    def _inputs(self) -> int:
        return len(self.problems) * int(self.array.shape[2] + self.recurrent.shape[2])

    def _outputs(self) -> int:
        return sum(problem.rows.stop - problem.rows.start for problem in self.problems)


def recurrent_node(context: Context, index: int) -> RecurrentNode | None:
    """A recurrent node whose weights can be solved again; None if it is not one.

    Its weights and biases have to be initializers that nothing else reads. The reset gate of a GRU has to be a sigmoid.
    """
    node = context.model.nodes[index]
    if node.domain or node.op not in ("LSTM", "GRU", "RNN") or node.attributes.get("layout") or not context.known(node):
        return None
    held = node.inputs[1:4]
    readers = context.model.readers
    if len(held) < 3 or not all(context.is_weight(name) and len(readers[name]) == 1 for name in held):
        return None
    if any(name in context.model.captured for name in held) or not all(context.has_kind(n) for n in node.inputs if n):
        return None
    w, r, b = (context.model.weights[name] for name in held)
    if w.dtype.kind != "f" or (w.shape[0], w.shape[1]) != (r.shape[0], gates_of(node) * r.shape[2]):
        return None
    problems = _problems(node, w.shape[0], r.shape[2])
    if any(problem.reset for problem in problems) and not _plain_reset(node):
        return None
    output = next(name for name in node.outputs if name)
    return RecurrentNode(
        node=node,
        patches=Patches(node, (), len(problems), transposed=False),
        input=Axis(node.inputs[0], 2),
        output=Axis(output, context.rank(output) - 1),
        trailing=0,
        weight=held[0],
        array=w,
        bias=_biases(np.asarray(b, dtype=np.float64), problems, w.shape[1]),
        recurrent=r,
        biases=b,
        problems=problems,
    )


def _problems(node: Node, directions: int, units: int) -> tuple[_Problem, ...]:
    found: list[_Problem] = []
    for direction in range(directions):
        if node.op != "GRU":
            found.append(_Problem(direction, slice(0, gates_of(node) * units)))
            continue
        z, r, candidate = (slice(gate * units, (gate + 1) * units) for gate in range(3))
        found += [_Problem(direction, z), _Problem(direction, r)]
        if node.attributes.get("linear_before_reset"):
            found.append(_Problem(direction, candidate, reads_state=False))
            found.append(_Problem(direction, candidate, reads_input=False))
        else:
            found.append(_Problem(direction, candidate, reset=True))
    return tuple(found)


def _plain_reset(node: Node) -> bool:
    """Whether the gates of a GRU are sigmoids of sums that are not clipped."""
    names: list[Any] = list(node.attributes.get("activations", ()))
    gates = {name.decode() if isinstance(name, bytes) else name for name in names[::2]}
    return gates <= {"Sigmoid"} and "clip" not in node.attributes


def _biases(b: Floats, problems: tuple[_Problem, ...], half: int) -> Floats:
    """(problems · outputs,) constants of the sums."""
    parts = []
    for problem in problems:
        own = b[problem.direction]
        first, second = own[:half][problem.rows], own[half:][problem.rows]
        parts.append(first * problem.reads_input + second * problem.reads_state)
    return np.concatenate(parts)
