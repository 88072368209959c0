"""Calibration samples, and everything that determines how a network is run on them."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmerge.network import Network
from onnxmerge.runtime.session import Provider
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.refit_schedule import RefitSchedule
from onnxmerge.signals.statistics import WIDEST
from onnxmerge.signals.tensor_store import LEAST_HELD, MOST_HELD

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """Calibration samples, and how a network is run on them.

    Attributes:
        network: The network that they run in: the original, or a copy with other BatchNormalization statistics if the
            samples are synthetic.
        schedule: The refit schedule.
        batches: Samples in batches and folds.
        counter: Counts every node that runs.
        real: Whether the samples are real.
        ridge: Minimum strength of the regularisation towards the original weights.
        memory: Maximum size of the matrices of one node in bytes.
        provider: The execution provider that runs the network.
        seed: Seed for sampled positions.
        rows: Factor of the number of rows that are drawn for a node.
        widest: Number of unknowns of a node beyond which planning uses statistics of its channels, not of all taps.
    """

    network: Network
    schedule: RefitSchedule
    batches: Batches
    counter: PassCounter
    real: bool = True
    ridge: float = 1e-3
    memory: int = 1 << 30
    provider: Provider = "auto"
    seed: int = 0
    rows: float = 1.0
    widest: int = WIDEST

    def frontier(self, networks: int = 2) -> Frontier:
        """The network before its first node, to be run on the samples in the order of the schedule.

        Args:
            networks: Number of networks that are run side by side, which share the memory for activations.
        """
        held = min(MOST_HELD, max(LEAST_HELD, self.memory // 2)) // networks
        return Frontier(self.network, self.schedule.order, self.batches, self.provider, self.counter, held)
