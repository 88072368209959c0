"""Find what can be removed from one producer's output, by propagating finer and coarser labels.

1. The first pass has one label for each element. Labels that reach neither a pin nor a fork without a matching way are
   free.
2. A pass that is stuck at a fork is repeated once for each way of the fork: with labels merged within each slab (whole
   heads in one pass, widths inside heads in another), and with that way chosen, so that slabs with elements of other
   producers (the other half of a channel shuffle) are filled.
3. Pinned labels are excluded from further passes; merging does not change that they are pinned.

Free labels are split by the set of axes that they touch, so that each group is cut evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.propagation import Chosen, LabelPropagation
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relation_index import RelationIndex
from onnxmerge.channels.relations import Axis, Indices, Producer

__all__ = ["Members", "SearchResult", "search_group"]

_MOST_WALKS = 64
"""Maximum number of passes from one producer. Attention with grouped queries takes about ten, a stage of n shuffled
units 2n; channels not found by then are kept, with a reason.
"""

Members = dict[Axis, Indices]


@dataclass(frozen=True)
class SearchResult:
    """The channels that can be removed from a producer's output.

    Attributes:
        groups: For each group, the channel of each element of every axis it touches, -1 for none.
        lost: Number of elements of the output that are in no group.
        reasons: Why they are in no group.
    """

    groups: tuple[Members, ...]
    lost: int
    reasons: tuple[Reason, ...]


def search_group(
    relation_index: RelationIndex, producer: Producer, free: Indices, searched: dict[Axis, NDArray[np.bool_]]
) -> SearchResult:
    """Find the groups of one producer's output, and its pinned channels.

    Args:
        relation_index: All relations.
        producer: The producer to start from.
        free: Elements of its output that need a search.
        searched: Elements that need no search of their own; those of this search are added.
    """
    length = relation_index.length(producer.output) or 0
    seeds = np.full(length, -1, dtype=np.int64)
    seeds[free] = np.arange(len(free))
    propagation = _run(relation_index, producer.output, seeds, np.arange(len(free), dtype=np.int64), {})
    for axis, labels in propagation.labels.items():
        searched.setdefault(axis, np.zeros(len(labels), dtype=bool))[_settled(propagation, labels)] = True
    coarse = _Coarser(relation_index, producer.output)
    coarse.follow(seeds, propagation, {})
    stuck = _held(propagation) - {root for _, labels in coarse.found for root in propagation.root[labels].tolist()}
    lost = int(np.isin(propagation.root[np.arange(len(free))], sorted(stuck)).sum()) if stuck else 0
    members = (*_free_parts(propagation), *(part for part, _ in coarse.found))
    reasons = dict.fromkeys((*_reasons(propagation, stuck), *(coarse.pinned if lost else ())))
    return SearchResult(members, lost, tuple(reasons))


def _settled(propagation: LabelPropagation, labels: Indices) -> NDArray[np.bool_]:
    """Elements of an axis that need no search of their own.

    Their channel has no other element on the axis, or is pinned. Those of a whole head may also be cut one by one.
    """
    roots = np.where(labels >= 0, propagation.root[labels], -1)
    alone = np.bincount(roots + 1, minlength=1)[roots + 1] == 1
    pinned = [propagation.root[held] for held, _ in propagation.pinned]
    return np.asarray((labels >= 0) & (alone | np.isin(roots, np.concatenate(pinned) if pinned else [])))


def _run(relation_index: RelationIndex, axis: Axis, seeds: Indices, root: Indices, chosen: Chosen) -> LabelPropagation:
    propagation = LabelPropagation(relation_index, root.copy(), chosen)
    propagation.start(axis, seeds)
    return propagation


def _held(propagation: LabelPropagation) -> set[int]:
    """Roots of the labels that are pinned or stuck at a fork."""
    held = {int(r) for labels, _ in propagation.pinned for r in np.unique(propagation.root[labels])}
    for _, axis in propagation.stuck:
        labels = propagation.labels[axis]
        held.update(int(r) for r in np.unique(propagation.root[labels[labels >= 0]]))
    return held


def _reasons(propagation: LabelPropagation, roots: set[int]) -> tuple[Reason, ...]:
    found: dict[Reason, None] = {}
    wanted = np.array(sorted(roots), dtype=np.int64)
    for labels, reason in propagation.pinned:
        if np.isin(propagation.root[labels], wanted).any():
            found[reason] = None
    for fork, axis in propagation.stuck:
        labels = propagation.labels[axis]
        if np.isin(propagation.root[labels[labels >= 0]], wanted).any():
            found[replace(fork.reason, where=axis.tensor)] = None
    return tuple(found)


def _free_parts(propagation: LabelPropagation) -> list[Members]:
    """The free channels of a walk, split by the set of axes they touch and numbered from 0 in order."""
    held = _held(propagation)
    axes = list(propagation.labels)
    touches: dict[int, list[int]] = {}
    for number, axis in enumerate(axes):
        labels = propagation.labels[axis]
        for root in np.unique(propagation.root[labels[labels >= 0]]).tolist():
            if root not in held:
                touches.setdefault(root, []).append(number)
    parts: dict[tuple[int, ...], list[int]] = {}
    for root in sorted(touches):
        parts.setdefault(tuple(touches[root]), []).append(root)
    result = []
    for numbers, roots in parts.items():
        lookup = np.full(len(propagation.root), -1, dtype=np.int64)
        lookup[roots] = np.arange(len(roots))
        lookup = lookup[propagation.root]
        result.append(
            {
                axes[number]: np.where(
                    propagation.labels[axes[number]] >= 0, lookup[propagation.labels[axes[number]]], -1
                )
                for number in numbers
            }
        )
    return result


class _Coarser:
    """Repeats the propagation from the same axis, way by way, wherever the previous pass got stuck.

    Attributes:
        found: Groups, each with the labels of the first pass that it frees.
        pinned: Reasons of passes that freed nothing.
    """

    def __init__(self, relation_index: RelationIndex, start: Axis) -> None:
        self.found: list[tuple[Members, Indices]] = []
        self.pinned: dict[Reason, None] = {}
        self._atlas = relation_index
        self._start = start
        self._left = _MOST_WALKS

    def follow(self, seeds: Indices, propagation: LabelPropagation, chosen: Chosen) -> None:
        """Repeat once for each way of the fork at which `propagation`, started with `seeds`, is stuck."""
        if not propagation.stuck:
            return
        fork, axis = propagation.stuck[0]
        if id(fork) in chosen:
            return
        pinned = np.unique(
            np.concatenate([np.empty(0, np.int64), *(propagation.root[labels] for labels, _ in propagation.pinned)])
        )
        tried: set[bytes] = set()
        for number, way in enumerate(self._atlas.slabs(fork)):
            root = _coarse_roots(propagation, axis, way[axis]) if axis in way else None
            if root is None or way[axis].tobytes() in tried or self._left == 0:
                continue
            tried.add(way[axis].tobytes())
            # What the way does not cover (values beside queries and keys in one weight) is cut in another way.
            beside = propagation.labels[axis][way[axis] < 0]
            blocked = np.isin(root, np.concatenate([root[pinned], root[beside[beside >= 0]]]))
            left = np.where((seeds >= 0) & ~blocked[seeds], seeds, -1)
            if (left >= 0).any():
                self._left -= 1
                self._walk_again(left, root, {**chosen, id(fork): number})

    def _walk_again(self, seeds: Indices, root: Indices, chosen: Chosen) -> None:
        propagation = _run(self._atlas, self._start, seeds, root, chosen)
        parts = _free_parts(propagation)
        if not parts:
            self.pinned.update(dict.fromkeys(reason for _, reason in propagation.pinned))
        for part in parts:
            labels = part.get(self._start)
            if labels is not None and max(int(numbers.max()) for numbers in part.values()) > 0:
                self.found.append((part, seeds[(labels >= 0) & (seeds >= 0)]))
        self.follow(seeds, propagation, chosen)


def _coarse_roots(propagation: LabelPropagation, axis: Axis, slabs: Indices) -> Indices | None:
    """Labels merged within each slab; None if that leaves a single channel."""
    labels = propagation.labels[axis]
    inside = np.flatnonzero((labels >= 0) & (slabs >= 0))
    if not inside.size:
        return None
    trial = LabelPropagation(propagation.relation_index, propagation.root.copy(), {})
    of_slab = np.full(int(slabs.max()) + 1, -1, dtype=np.int64)
    of_slab[slabs[inside]] = labels[inside]
    trial.merge(trial.root[labels[inside]], trial.root[of_slab[slabs[inside]]])
    left = np.unique(trial.root[labels[inside]])
    return trial.root if len(left) > 1 else None
