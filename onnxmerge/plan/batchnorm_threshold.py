"""Choose the ratio from the importances: remove all channels below the valley between two modes.

A network trained so that unneeded scales recede (2204.06404) has two kinds of channels. The importances of all
channels form one list, which is cut at the valley between the two kinds. Nothing else is removed, with two exceptions:

1. Each group keeps its floor (`allocate.floor_of`): a layer whose scales have all receded keeps its largest ones.
2. If channel counts have to be multiples, groups keep some channels that have receded; no channel above the valley is
   removed.

Scales and the importances used without them are not comparable. So if some groups have BatchNormalization, the others
keep all channels; if none has, those other importances form the list.

A valley counts only if it separates channels within groups: at least half of the channels below it must be in groups
that also have channels above it. A layer whose scales are all small is not a layer of unneeded channels: the next
normalisation undoes any common factor, and importances without scales do not account for the magnitude of a layer's
inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmerge.decompose import find_valley, histogram
from onnxmerge.decompose.rows import Floats
from onnxmerge.errors import NothingToCutError
from onnxmerge.plan.allocation import floor_of
from onnxmerge.plan.rounding import Allowed, rising

__all__ = ["Importances", "below_valley"]


@dataclass(frozen=True)
class Importances:
    """Importances of all channels of a network, and the threshold.

    Attributes:
        what: What an importance is.
        channels: Number of channels.
        edges: Edges of the histogram's bins, ascending; the first bin also counts smaller values.
        counts: Channels in each bin.
        valley: The threshold between the two modes.
        below: Number of channels below it.
        floored: How many of those are kept because of their group's floor or rounding.
        chance: Upper bound on the probability that unimodal importances have such a valley.
        depth: Density in the valley divided by that of the lower peak.
    """

    what: str
    channels: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    valley: float
    below: int
    floored: int
    chance: float
    depth: float

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Importances:
        """Create one from the fields of its JSON form."""
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**known)


def below_valley(
    scores: Mapping[int, Floats], scaled: Collection[int], allowed: Allowed, source: str
) -> tuple[dict[int, int], Importances]:
    """Counts of the groups that lose channels when the lower of two modes is removed.

    Args:
        scores: Importances of the channels of each group.
        scaled: Groups all of whose channels have a BatchNormalization's scale.
        allowed: Counts that groups may be cut to.
        source: Name of the model.

    Raises:
        NothingToCutError: There are not two modes, or all channels of the lower one must be kept.
    """
    listed = {group: score for group, score in scores.items() if not scaled or group in scaled}
    what = "scale of the BatchNormalization" if scaled else "deviation of the output for white inputs"
    values = np.concatenate(list(listed.values()))
    found = find_valley(values)
    if not isinstance(found, str) and _between_groups(listed, found.at):
        found = f"the one at {found.at:.3g} lies between layers, not between channels"
    if isinstance(found, str):
        raise NothingToCutError(
            f"{source}: the importances of its channels ({what}) have no valley at which a ratio of auto could cut: "
            f"{found}; use a fraction such as 0.3, or train so that unneeded scales recede"
        )
    sizes = {group: len(score) for group, score in listed.items()}
    above = {group: int(np.count_nonzero(score >= found.at)) for group, score in listed.items()}
    counts = {group: max(count, floor_of(listed[group])) for group, count in above.items()}
    counts = {group: rising(allowed[group], sizes[group], count - 1) for group, count in counts.items()}
    counts = {group: count for group, count in counts.items() if count < sizes[group]}
    if not counts:
        raise NothingToCutError(
            f"{source}: {found.below} channels lie below the valley at {found.at:.3g}, but all are kept, because "
            f"each group "
            "keeps a minimum or a multiple; try --round-to 1, or a fraction such as 0.3"
        )
    staying = sum(max(counts.get(group, sizes[group]) - above[group], 0) for group in listed)
    bins = histogram(values, found.at)
    return counts, Importances(
        what=what,
        channels=len(values),
        edges=bins.edges,
        counts=bins.counts,
        valley=found.at,
        below=found.below,
        floored=staying,
        chance=found.chance,
        depth=found.depth,
    )


def _between_groups(scores: Mapping[int, Floats], border: float) -> bool:
    """Whether most channels below a threshold are in groups that are entirely below it."""
    below = [np.count_nonzero(score < border) for score in scores.values()]
    parted = [count for count, score in zip(below, scores.values(), strict=True) if count < len(score)]
    return bool(2 * sum(parted) < sum(below))
