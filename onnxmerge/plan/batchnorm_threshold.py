"""How much goes where the importances of channels say it themselves: all that lies below the valley of two modes.

A network that was trained so that unneeded scales recede (2204.06404) has two kinds of channels. All importances of the
network are one list; the valley between the two kinds is where it is cut. Nothing else goes, with two exceptions:

1. Each group keeps its floor (`allocate.floor_of`): a layer whose scales have all receded keeps its largest ones.
2. Where channel counts have to be multiples, groups keep some that have receded: nothing above the valley goes.

Scales and what stands in for them have no unit in common. So where some groups have BatchNormalization, the others keep
all channels; where none has, the stand-ins are the list.

A valley counts only if it parts channels within groups: at least half of the channels below it have to be in groups
that also have some above. A layer whose scales are all small is no layer of unneeded channels: the next normalisation
makes up for any factor that they have in common, and stand-ins know nothing of how large a layer's inputs are.
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
    """Importances of all channels of a network, and where they were cut.

    Attributes:
        what: What an importance is.
        channels: How many there are.
        edges: Borders of the bins of their histogram, rising; the lowest bin also holds what is smaller.
        counts: Channels in each bin.
        valley: Between the two modes.
        below: Channels that lie lower.
        floored: How many of those stay because their group keeps its floor, or its multiple.
        chance: Bound of the probability that importances with one mode have such a valley.
        depth: Density in the valley over that of the lower peak.
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
        """The same from the fields of JSON."""
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**known)


def below_valley(
    scores: Mapping[int, Floats], scaled: Collection[int], allowed: Allowed, source: str
) -> tuple[dict[int, int], Importances]:
    """Counts of the groups that lose channels when the lower of two modes goes.

    Args:
        scores: Importances of the channels of each group.
        scaled: Groups all of whose channels have a BatchNormalization's scale.
        allowed: Counts that groups may be cut to.
        source: What the model is called.

    Raises:
        NothingToCutError: There are no two modes, or all channels of the lower one have to stay.
    """
    listed = {group: score for group, score in scores.items() if not scaled or group in scaled}
    what = "scale of the BatchNormalization" if scaled else "deviation of the output for white inputs"
    values = np.concatenate(list(listed.values()))
    found = find_valley(values)
    if not isinstance(found, str) and _between_groups(listed, found.at):
        found = f"the one at {found.at:.3g} lies between layers, not between channels"
    if isinstance(found, str):
        raise NothingToCutError(
            f"{source}: the importances of its channels ({what}) have no valley that a ratio of auto could cut at: "
            f"{found}; give a fraction such as 0.3, or train so that unneeded scales recede"
        )
    sizes = {group: len(score) for group, score in listed.items()}
    above = {group: int(np.count_nonzero(score >= found.at)) for group, score in listed.items()}
    counts = {group: max(count, floor_of(listed[group])) for group, count in above.items()}
    counts = {group: rising(allowed[group], sizes[group], count - 1) for group, count in counts.items()}
    counts = {group: count for group, count in counts.items() if count < sizes[group]}
    if not counts:
        raise NothingToCutError(
            f"{source}: {found.below} channels lie below the valley at {found.at:.3g} and all stay, because each group "
            "keeps its floor, or its multiple; try --round-to 1, or give a fraction such as 0.3"
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
    """Whether most channels below a border are in groups that lie below it altogether."""
    below = [np.count_nonzero(score < border) for score in scores.values()]
    parted = [count for count, score in zip(below, scores.values(), strict=True) if count < len(score)]
    return bool(2 * sum(parted) < sum(below))
