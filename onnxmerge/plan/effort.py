"""How much planning looks at the samples: `--effort`, turned into levels and samples of the sensitivity curves.

Planning is counted in dense passes: one is the whole network over all calibration samples.

| effort | levels of a group | dense passes for probing |
|---|---|---|
| fast | 2 | 2 |
| balanced | 4 | 9 |
| thorough | 9 | 45 |

The walk that sums up what every layer reads is one pass more. Every group is cut at each level and the rest of the
network is run behind it, so probing costs levels times the parts of the network behind all groups. The number of
samples is what the budget leaves; where that would be too few to tell groups apart, there are fewer levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from onnxmerge.signals.batches import Batches
from onnxmerge.signals.sensitivity import Probing

__all__ = ["EFFORTS", "Effort", "probing_for"]


@dataclass(frozen=True)
class Effort:
    """What planning may cost.

    Attributes:
        levels: Fractions of channels, falling, at which a group is cut.
        passes: Dense passes that probing may take.
        samples: Samples beyond which probing gains nothing that could be measured.
    """

    levels: tuple[float, ...]
    passes: float
    samples: int


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        "fast": Effort((0.75, 0.4), 2.0, 128),
        "balanced": Effort((0.85, 0.65, 0.4, 0.15), 9.0, 256),
        "thorough": Effort((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 45.0, 1024),
    }
)
_FEWEST = 32
"""Samples below which levels are given up first. A guess: the divergence of 32 samples is off by a fifth."""


def probing_for(effort: Effort, behind: Sequence[float], vanishing: float, batches: Batches) -> Probing:
    """Levels and samples that keep to an effort's budget.

    Args:
        effort: The effort.
        behind: For every group the part of the network that has to run behind it, 0..1.
        vanishing: The sum of that over groups that are also measured without any channel.
        batches: The samples.
    """
    levels = list(effort.levels)
    while True:
        once = (1.0 + sum(behind) * len(levels) + vanishing) / batches.count
        samples = min(effort.samples, batches.count, int(effort.passes / max(once, 1e-12)))
        if samples >= min(_FEWEST, batches.count) or len(levels) <= 2:
            break
        # Every other level, from the second, so that what is left spans the range.
        levels = levels[1::2]
    return Probing(tuple(levels), batches.first(max(samples, 1)))
