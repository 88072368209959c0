"""How long weights are trained, and how fast: the one place for these numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Recipe", "recipe_for"]

_FEWEST, _MOST, _MACS = 400, 1600, 5e12
"""Steps: at least and at most so many, in between as many as run the original on samples of so many MACs in all. That
allows 1250 for ResNet-56 on 32x32 images, and 400 for any network of 0.4 GMACs or more.
"""


@dataclass(frozen=True)
class Recipe:
    """How weights are trained.

    Attributes:
        steps: Number of steps.
        batch: Samples of a step.
        rate: Largest step of a weight, relative to the root mean square of its tensor.
        rising: Steps in which the rate rises.
        memory: Number of steps that the running mean of the weights covers.
        every: Steps after which the weights are judged.
    """

    steps: int = _FEWEST
    batch: int = 32
    rate: float = 0.01
    rising: int = 30
    memory: int = 50
    every: int = 50

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates to try, the next one if the weights are no better than before when they are judged first."""
        return self.rate, self.rate / 4, self.rate / 16


def recipe_for(macs: int) -> Recipe:
    """The recipe for a network of so many MACs for a sample."""
    return Recipe(steps=max(_FEWEST, min(_MOST, int(_MACS / (Recipe.batch * max(macs, 1))))))
