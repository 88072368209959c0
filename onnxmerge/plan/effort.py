"""Turn `--effort` into the number of levels and samples used to measure sensitivity curves.

Planning cost is counted in dense passes; one dense pass runs the whole network on all calibration samples.

| effort | levels of a group | dense passes for probing | statistics | plans tried | if much is removed | steps |
|---|---|---|---|---|---|---|
| fast | 2 | 2 | half of the rows; channels only, beyond 1152 unknowns | 0 | 0 | 4 |
| balanced | 4 | 9 | all | 1 | 2 | 16 |
| thorough | 9 | 45 | all | 1 | 3 | 16 |

The steps are those of `signals/matched_images.py`, without samples; each costs about three dense passes, and there are
fewer if these take long.

Collecting the inputs of every layer takes one more pass. Every group is cut at each level and the rest of the
network is run behind it, so probing costs levels times the parts of the network behind all groups. The number of
samples is chosen to fit the budget; if that would be too few to distinguish groups, the number of levels is reduced.
Whole batches are taken, from every fold; from three of the four at least at `fast`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from onnxmerge.signals.batches import Batches
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.sensitivity import Probing
from onnxmerge.signals.statistics import WIDEST

__all__ = ["EFFORTS", "Effort", "behind_groups", "probing_for", "probing_passes"]


@dataclass(frozen=True)
class Effort:
    """The cost that planning is allowed.

    Attributes:
        levels: Fractions of channels, descending, at which a group is cut.
        passes: Maximum number of dense passes for probing.
        samples: Number of samples beyond which no gain was measured.
        trial: Maximum number of multiplications of a refit that is made once more to predict the error of a plan.
        floors: Minimum fractions of the channels of every group, of further plans to try if the predicted error is
            large.
        rows: Factor of the number of rows drawn for the statistics of a node.
        widest: Number of unknowns of a node beyond which planning uses statistics of its channels, not of all taps.
        steps: Maximum number of steps that bring the statistics of synthetic images near to the recorded ones.
        folds: Number of folds on which outputs are compared, if fewer samples than in one batch of each fold would do;
            None for all.
    """

    levels: tuple[float, ...]
    passes: float
    samples: int
    trial: float
    floors: tuple[float, ...]
    rows: float = 1.0
    widest: int = WIDEST
    steps: int = 16
    folds: int | None = None


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        "fast": Effort((0.75, 0.4), 2.0, 128, 0.0, (), 0.5, 1152, 4, folds=3),
        "balanced": Effort((0.85, 0.65, 0.4, 0.15), 9.0, 256, 5e11, (0.3,)),
        "thorough": Effort((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 45.0, 1024, 1e13, (0.15, 0.3)),
    }
)
_FEWEST = 32
"""The number of levels is reduced before the number of samples falls below this. A guess: the divergence of 32 samples
is off by a fifth.
"""


def behind_groups(calibration: Calibration, positions: Iterable[int]) -> dict[int, float]:
    """By group: the fraction of the network that runs from its first consumer on."""
    order = calibration.schedule.order
    places = {index: place for place, index in enumerate(order)}
    behind = {}
    for position in positions:
        first = min(places[consumer.node] for consumer in calibration.network.groups[position].consumers)
        behind[position] = calibration.counter.share(order[first:])
    return behind


def probing_passes(probing: Probing, behind: Sequence[float], batches: Batches) -> float:
    """Dense passes that a probing takes."""
    samples = sum(batches.sizes[batch] for batch in probing.batches)
    return (1.0 + sum(behind) * len(probing.levels)) * samples / batches.given_count


def probing_for(effort: Effort, behind: Sequence[float], vanishing: float, batches: Batches) -> Probing:
    """Levels and samples that stay within the budget of an effort.

    Args:
        effort: The effort.
        behind: For every group, the fraction of the network that runs after it, 0..1.
        vanishing: The sum of `behind` over groups that are also measured without any channel.
        batches: The samples.
    """
    levels = list(effort.levels)
    while True:
        once = (1.0 + sum(behind) * len(levels) + vanishing) / batches.given_count
        samples = min(effort.samples, batches.given_count, int(effort.passes / max(once, 1e-12)))
        if samples >= min(_FEWEST, batches.given_count) or len(levels) <= 2:
            break
        # Every other level, starting with the second, so that the remaining ones span the range.
        levels = levels[1::2]
    return Probing(tuple(levels), batches.first(max(samples, 1), effort.folds))
