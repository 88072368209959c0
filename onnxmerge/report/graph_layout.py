"""The layout of a network drawn as a list from top to bottom, with lanes beside it.

1. *Blocks*: a node joins the block of the previous node if it reads only that node, is its only reader, and neither
   computes products nor produces channels: Conv, BatchNormalization, Relu are one row.
2. *Rows*: blocks in the order of their first nodes, which is topological.
3. *Lanes*: the output of a block reaches the next row on the spine. An output that is read further down occupies a lane
   beside it, from its row to its last reader; the first free lane is used, and a lane is free again after the row in
   which it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmerge.report.model import NodeEntry

__all__ = ["Row", "rows_of"]

_ALONE = ("Input", "Output")


@dataclass(frozen=True)
class Row:
    """One block, and the lines beside it.

    Attributes:
        nodes: Positions of its nodes, in order.
        reads: Rows that it reads, ascending.
        read_by: Rows that read it, ascending.
        above: Whether the row above is read, on the spine.
        below: Whether the row below reads this one.
        entering: Lanes that end or branch off here.
        leaving: The lane that begins here; None if there is none.
        passing: Lanes that pass, including those that branch off and continue.
    """

    nodes: tuple[int, ...]
    reads: tuple[int, ...]
    read_by: tuple[int, ...]
    above: bool
    below: bool
    entering: tuple[int, ...]
    leaving: int | None
    passing: tuple[int, ...]


def rows_of(network: Sequence[NodeEntry]) -> tuple[Row, ...]:
    """The rows of a network whose nodes come in topological order.

    Example:
        >>> chain = [NodeEntry("x", "Input", (), None), NodeEntry("c", "Conv", (0,), None, macs=9, makes=(0,)),
        ...          NodeEntry("r", "Relu", (1,), None), NodeEntry("s", "Add", (0, 2), None)]
        >>> [(row.nodes, row.leaving, row.entering) for row in rows_of(chain)]
        [((0,), 0, ()), ((1, 2), None, ()), ((3,), None, (0,))]
    """
    blocks = _blocks(network)
    row_of = {node: row for row, nodes in enumerate(blocks) for node in nodes}
    reads = [
        sorted({row_of[source] for node in nodes for source in network[node].reads} - {row})
        for row, nodes in enumerate(blocks)
    ]
    read_by: list[list[int]] = [[] for _ in blocks]
    for row, sources in enumerate(reads):
        for source in sources:
            read_by[source].append(row)
    lane_of = _lanes(read_by)
    return tuple(
        Row(
            nodes=tuple(nodes),
            reads=tuple(reads[row]),
            read_by=tuple(read_by[row]),
            above=row - 1 in reads[row],
            below=row + 1 in read_by[row],
            entering=tuple(sorted(lane_of[source] for source in reads[row] if source < row - 1)),
            leaving=lane_of.get(row),
            passing=tuple(sorted(lane for source, lane in lane_of.items() if source < row < read_by[source][-1])),
        )
        for row, nodes in enumerate(blocks)
    )


def _blocks(network: Sequence[NodeEntry]) -> list[list[int]]:
    readers = [0] * len(network)
    for entry in network:
        for source in entry.reads:
            readers[source] += 1
    blocks: list[list[int]] = []
    ending: dict[int, list[int]] = {}
    for position, entry in enumerate(network):
        source = entry.reads[0] if len(entry.reads) == 1 else -1
        joins = (
            source in ending
            and readers[source] == 1
            and entry.op not in _ALONE
            and network[source].op not in _ALONE
            and not entry.macs
            and not entry.makes
            and not entry.pinned
        )
        block = ending.pop(source) if joins else []
        if not joins:
            blocks.append(block)
        block.append(position)
        ending[position] = block
    return blocks


def _lanes(read_by: Sequence[Sequence[int]]) -> dict[int, int]:
    """The lane of each row that is read further down than in the next row."""
    ends: list[int] = []
    lanes: dict[int, int] = {}
    for row, readers in enumerate(read_by):
        if not readers or readers[-1] <= row + 1:
            continue
        lane = next((lane for lane, end in enumerate(ends) if end <= row), len(ends))
        ends[lane : lane + 1] = [readers[-1]]
        lanes[row] = lane
    return lanes
