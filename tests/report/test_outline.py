"""The tree of groups: what is a branch of what, and what is alike."""

from __future__ import annotations

from onnxmerge.report.model import GroupEntry
from onnxmerge.report.outline import branches, outline


def group(name: str, producers: str, consumers: str, size: int = 8) -> GroupEntry:
    return GroupEntry(name, size, size, tuple(producers.split()), tuple(consumers.split()), 0.1, saving=0.1)


STREAM = group("stem", "stem b1.out b2.out", "b1.in b2.in fc")
RESIDUAL = [STREAM, group("b1.in", "b1.in", "b1.out", 4), group("b2.in", "b2.in", "b2.out", 4)]


def test_the_inside_of_a_residual_block_is_a_branch_of_its_stream() -> None:
    assert branches(RESIDUAL) == (None, 0, 0)


def test_a_chain_has_no_branches() -> None:
    assert branches([group("a", "a", "b"), group("b", "b", "c"), group("c", "c", "fc")]) == (None, None, None)


def test_what_leads_into_a_stream_from_outside_is_no_branch() -> None:
    assert branches([group("first", "first", "stem"), *RESIDUAL]) == (None, None, 1, 1)


def test_two_nodes_deep_inside_a_block() -> None:
    stream = group("stem", "stem b1.out", "b1.in fc")
    assert branches([stream, group("b1.in", "b1.in", "b1.mid"), group("b1.mid", "b1.mid", "b1.out")]) == (None, 0, 0)


def test_a_branch_of_a_branch() -> None:
    # A gate inside a block: what squeezes reads the inner channels, what expands multiplies onto them.
    stream = group("stem", "stem b.out", "b.in fc")
    inner = group("b.in", "b.in b.expand", "b.squeeze b.out")
    gate = group("b.squeeze", "b.squeeze", "b.expand")
    assert branches([stream, inner, gate]) == (None, 0, 1)


def test_between_two_streams_the_one_that_is_written_to() -> None:
    one = group("stem", "stem a.out", "a.in b.in b.short")
    inside = group("b.in", "b.in", "b.out")
    two = group("b.out", "b.out b.short", "fc")
    assert branches([one, inside, two]) == (None, 2, None)


def test_groups_without_readers() -> None:
    assert branches([group("a", "a", ""), group("b", "b c", "")]) == (None, None)


def test_alike_groups_share_a_line() -> None:
    assert [(line.groups, line.last) for line in outline(RESIDUAL, fold=True)] == [
        ((0,), (True,)),
        ((1, 2), (True, True)),
    ]
    assert [line.groups for line in outline(RESIDUAL, fold=False)] == [(0,), (1,), (2,)]


def test_another_size_or_name_is_not_alike() -> None:
    chain = [group("l1.conv", "l1.conv", "l2.conv"), group("l2.conv", "l2.conv", "x", 16), group("x", "x", "y")]
    assert [line.groups for line in outline(chain, fold=True)] == [(0,), (1,), (2,)]
    chain[1] = group("l2.conv", "l2.conv", "x")
    assert [line.groups for line in outline(chain, fold=True)] == [(0, 1), (2,)]


def test_every_group_has_one_line() -> None:
    for fold in (False, True):
        shown = [position for line in outline(RESIDUAL, fold=fold) for position in line.groups]
        assert sorted(shown) == [0, 1, 2]
