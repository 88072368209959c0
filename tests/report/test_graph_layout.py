"""The lines beside a drawn network: every edge is drawn, and no two run in one lane."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxmerge.report.graph_layout import rows_of
from onnxmerge.report.model import NodeEntry

Network = tuple[NodeEntry, ...]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    entries = [NodeEntry("x", "Input", (), (1, 3))]
    for place in range(1, draw(st.integers(1, 30))):
        reads = draw(st.sets(st.integers(max(0, place - 9), place - 1), max_size=3))
        macs = draw(st.sampled_from([0, 0, 5]))
        entries.append(NodeEntry(f"n{place}", "Op", tuple(sorted(reads)), None, macs=macs))
    return tuple(entries)


@given(networks())
def test_every_node_is_in_one_row_in_order(network: Network) -> None:
    rows = rows_of(network)
    assert sorted(node for row in rows for node in row.nodes) == list(range(len(network)))
    firsts = [row.nodes[0] for row in rows]
    assert firsts == sorted(firsts)
    assert all(source < number for number, row in enumerate(rows) for source in row.reads)


@given(networks())
def test_nodes_share_a_row_only_where_one_reads_the_other_alone(network: Network) -> None:
    for row in rows_of(network):
        for one, two in zip(row.nodes, row.nodes[1:], strict=False):
            assert network[two].reads == (one,)
            assert [place for place, entry in enumerate(network) if one in entry.reads] == [two]
            assert not network[two].macs


@given(networks())
def test_every_edge_is_drawn_and_lanes_are_never_shared(network: Network) -> None:
    rows = rows_of(network)
    row_of = {node: number for number, row in enumerate(rows) for node in row.nodes}
    edges = {(row_of[source], row_of[node]) for node, entry in enumerate(network) for source in entry.reads}
    edges = {(source, row) for source, row in edges if source != row}
    drawn = set()
    for start, row in enumerate(rows):
        if row.below:
            drawn.add((start, start + 1))
            assert rows[start + 1].above
        if row.leaving is None:
            continue
        # Follow the lane down: it passes rows, and every row that it enters before it ends reads its start.
        at = start + 1
        while True:
            if row.leaving in rows[at].entering:
                drawn.add((start, at))
            if row.leaving not in rows[at].passing:
                break
            assert rows[at].leaving != row.leaving
            at += 1
    assert drawn == edges


def test_blocks_of_a_residual_network() -> None:
    network = (
        NodeEntry("x", "Input", (), None),
        NodeEntry("c1", "Conv", (0,), None, macs=1, makes=(0,)),
        NodeEntry("b1", "BatchNormalization", (1,), None),
        NodeEntry("r1", "Relu", (2,), None),
        NodeEntry("c2", "Conv", (3,), None, macs=1, makes=(1,)),
        NodeEntry("add", "Add", (3, 4), None),
        NodeEntry("y", "Output", (5,), None),
    )
    rows = rows_of(network)
    assert [row.nodes for row in rows] == [(0,), (1, 2, 3), (4,), (5,), (6,)]
    assert (rows[1].leaving, rows[2].passing, rows[3].entering) == (0, (0,), (0,))
    assert [row.below for row in rows] == [True, True, True, True, False]
