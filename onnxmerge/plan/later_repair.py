"""The part of a group's sensitivity that the layers behind it leave, once they are solved again.

Sensitivity is measured with one group cut and all later weights as they were. The refit then solves every later node
towards the dense network's signals, so errors made early are repaired more often than errors made late, and the
prediction for early groups is too high. Cuts are therefore weighed with `exp(REPAIR·depth)`, depth being the fraction
of the network that runs before the group is read.

Texts are the exception. Of three encoders, none did better at 70 % of the MACs with late groups or early ones weighing
more than with sensitivities as measured (docs/methods-measured.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["REPAIR", "later_repair"]

REPAIR = 0.5
"""How much more an error at the end counts than one at the beginning, as a logarithm. Of -0.5, 0, 0.5, 1, 1.5 and 2, it
is the largest that lowered the error on held-out samples, or left it within half a percent, in nine of nine cases (five
networks); 1 gains more at half of the MACs and loses at 30 % (docs/methods-measured.md).
"""


def later_repair(behind: Mapping[int, float]) -> dict[int, float]:
    """Factor by which the sensitivity of each group is multiplied for an allocation.

    Args:
        behind: By group: the fraction of the network that runs from its first consumer on, 0..1.
    """
    return {group: float(np.exp(REPAIR * (1.0 - share))) for group, share in behind.items()}
