"""Activations of a network on all samples, computed node by node from the last frontier.

A frontier is a position between two nodes of a schedule. It holds, for every batch of samples, the tensors that cross
it: produced before, read later. Advancing it runs only the nodes in between, so a pass over the whole network costs one
forward pass, however often it stops. Tensors that do not fit into memory are kept in temporary files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.graph import STATES, Node, Part, extract, states_model
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.signals.ahead import ahead
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.tensor_store import LEAST_HELD, Store

__all__ = ["Frontier", "Rest"]


class Frontier:
    """The state of a network that is being run on its samples.

    Attributes:
        context: The model.
        position: Number of nodes of the order that have run.
        weights: Values that replace initializers in all nodes that run from now on.
        shifts: Vectors added after nodes, with the number of axes that follow the channel axis.
    """

    def __init__(
        self,
        context: Context,
        order: Sequence[int],
        batches: Batches,
        provider: Provider = "auto",
        counter: PassCounter | None = None,
        held: int = LEAST_HELD,
    ) -> None:
        """Start before the first node.

        Args:
            context: The model.
            order: The order in which its nodes run.
            batches: The samples.
            provider: The execution provider.
            counter: Counts every node that runs.
            held: Bytes of activations that it keeps in memory.
        """
        self.context = context
        self._counter = counter
        self._batches = batches
        self._order = tuple(order)
        self._provider = provider
        self._place = {index: place for place, index in enumerate(self._order)}
        self._last: dict[str, int] = {}
        for place, index in enumerate(self._order):
            node = context.model.nodes[index]
            for name in (*node.inputs, *node.captures):
                if name and name not in context.model.weights:
                    self._last[name] = place
        for spec in context.model.outputs:
            self._last[spec.name] = len(self._order)
        self._live = Store(batches.feeds, held)
        self.position = 0
        self.weights: dict[str, NDArray[Any]] = {}
        self.shifts: dict[int, tuple[int, NDArray[Any]]] = {}

    def place(self, node: int) -> int:
        """Position of a node in the order."""
        return self._place[node]

    def advance(self, position: int, keep: Collection[str] = ()) -> None:
        """Run up to (not including) a position in the order.

        Args:
            position: The position; nothing happens if the frontier has reached it.
            keep: Tensors to keep although no later node reads them; those named in earlier calls are kept too.
        """
        if position <= self.position:
            return
        nodes = self._order[self.position : position]
        made = [name for index in nodes for name in self.context.model.nodes[index].outputs if name]
        wanted = [name for name in made if self._last.get(name, -1) >= position or name in keep]
        if wanted:
            part = extract(
                self.context.model, self.context.shapes.first.kinds, nodes, wanted,
                weights=self.weights, shifts=self.shifts,
            )  # fmt: skip
            with self._open(part) as session:
                feeds = (self._live.batch(place, part.entering) for place in range(len(self._live)))
                for place, feed in enumerate(ahead(feeds)):
                    self._live.put(place, session.run(feed))
            if self._counter is not None:
                self._counter.add(nodes, self._batches.count)
        self._live.drop({n for n in self._live.names() if self._last.get(n, -1) < position and n not in keep})
        self.position = position

    def get(self, tensor: str) -> Iterator[NDArray[Any]]:
        """A tensor that crosses the frontier, batch by batch."""
        return self._live.each(tensor)

    def shapes(self, tensor: str) -> Iterator[tuple[int, ...]]:
        """Shapes of a tensor that crosses the frontier, batch by batch."""
        return self._live.shapes(tensor)

    def at(self, batch: int, tensor: str) -> NDArray[Any]:
        """A tensor that crosses the frontier, of one batch."""
        return self._live.batch(batch, (tensor,))[tensor]

    def has(self, tensor: str) -> bool:
        """Whether a tensor crosses the frontier."""
        return tensor in self._live

    def states(self, node: Node) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[Any]]]:
        """Inputs of a recurrent node that cross the frontier, and its states at every step, batch by batch.

        Constant inputs are included. The node runs with the current weights.
        """
        data, entering = states_model(self.context.model, self.context.shapes.first.kinds, node, self.weights)
        held = {name: self.context.model.weights[name] for name in node.inputs if name in self.context.model.weights}
        with Session.open(data, self._provider, spin=False) as session:
            for place in range(len(self._live)):
                fed = self._live.batch(place, entering)
                yield {**held, **fed}, session.run(fed)[STATES]
        if self._counter is not None:
            self._counter.add((node.index,), self._batches.count)

    def snapshot(self, batches: Sequence[int]) -> dict[int, dict[str, NDArray[Any]]]:
        """The tensors that cross the frontier, for some batches."""
        names = self._live.names()
        return {batch: self._live.batch(batch, names) for batch in batches}

    def rest(self, position: int, free: Sequence[str], free_shifts: Sequence[int]) -> Rest:
        """Create a session from a position to the graph outputs, with some weights and shifts as inputs."""
        nodes = self._order[position:]
        outputs = [spec.name for spec in self.context.model.outputs if spec.name in self.context.model.writer]
        made = {name for index in nodes for name in self.context.model.nodes[index].outputs}
        part = extract(
            self.context.model, self.context.shapes.first.kinds, nodes, [n for n in outputs if n in made],
            weights=self.weights, shifts=self.shifts, free=free, free_shifts=free_shifts,
        )  # fmt: skip
        return Rest(self._open(part), part.entering, nodes, self._counter)

    def _open(self, part: Part) -> Session:
        return Session.open(part.model, self._provider, spin=False, weights=part.weights)

    def outputs(self, chosen: Sequence[int]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Graph outputs of the network with the current weights and shifts, for some batches."""
        with self.rest(0, (), ()) as rest:
            for batch in chosen:
                yield batch, rest.run(self._batches.feeds[batch], {}, self._batches.sizes[batch])


class Rest:
    """The last part of a network as a session; close it, or use it as a context manager."""

    def __init__(
        self, session: Session, entering: Sequence[str], nodes: Sequence[int], counter: PassCounter | None
    ) -> None:
        self._session, self._entering, self._nodes, self._counter = session, entering, nodes, counter

    def run(
        self, entering: Mapping[str, NDArray[Any]], free: Mapping[str, NDArray[Any]], samples: int
    ) -> dict[str, NDArray[Any]]:
        """Graph outputs for the given tensors and values of the free weights and shifts.

        Args:
            entering: The tensors that cross the frontier; others are ignored.
            free: Values of the free weights and shifts.
            samples: Number of samples.
        """
        got = self._session.run({**{name: entering[name] for name in self._entering}, **free})
        if self._counter is not None:
            self._counter.add(self._nodes, samples)
        return got

    def close(self) -> None:
        """Release the memory; a second call does nothing."""
        self._session.close()

    def __enter__(self) -> Rest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
