"""The histogram of importances in the terminal: one line per bin, with the threshold between two of them."""

from __future__ import annotations

from onnxmerge.plan.batchnorm_threshold import Importances

__all__ = ["modes_lines"]

_WIDTH = 40
"""Characters of the longest bar."""


def modes_lines(importances: Importances) -> list[str]:
    """Lines that show the distribution of importances and the threshold.

    Bars are proportional to the square root of the count, so that a small mode is visible beside a large one; a
    non-empty bin has at least one character.
    """
    most = max(importances.counts)
    lines = [f"Importance of {importances.channels} channels ({importances.what}), bars as the root of the count:"]
    # The valley is one of the edges, up to rounding.
    cut = min(range(len(importances.edges)), key=lambda place: abs(importances.edges[place] - importances.valley))
    for place, (low, count) in enumerate(zip(importances.edges, importances.counts, strict=False)):
        if place == cut:
            lines.append(f"  {importances.valley:9.3g} {'- ' * (_WIDTH // 2)}cut, {importances.below} below")
        bar = "#" * (max(1, round(_WIDTH * (count / most) ** 0.5)) if count else 0)
        lines.append(f"  {low:9.3g} {bar:{_WIDTH}} {count}")
    if importances.floored:
        lines.append(f"{importances.floored} of those below stay: each group keeps its floor, or its multiple.")
    return lines
