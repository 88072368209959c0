"""How long weights are trained, and how fast: the one place for these numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["USUAL", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How weights are trained.

    Attributes:
        steps: Number of steps.
        batch: Samples of a step.
        rate: Largest step of a weight, relative to the root mean square of its tensor.
        rising: Steps in which the rate rises.
        memory: Number of steps that the running mean of the weights covers.
        checkpoints: How often the weights are judged.
    """

    steps: int = 400
    batch: int = 32
    rate: float = 0.01
    rising: int = 30
    memory: int = 50
    checkpoints: int = 8

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates to try, the next one if the weights of the first checkpoint are no better than those before."""
        return self.rate, self.rate / 4, self.rate / 16


USUAL = Recipe()
