"""The methods, each in one file: what it requires, how it expresses removed channels, how it is applied.

`COMPENSATIONS` lists them; `METHODS` combines each with a selection of the channels to keep and an allocation of the
budget, as in its paper. Either can be replaced by an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from onnxmerge.decompose import SELECTIONS
from onnxmerge.methods.fold import Fold
from onnxmerge.methods.linear import Linear
from onnxmerge.methods.method import Applied, Decided, Method, Requires, obstacle
from onnxmerge.methods.neuron_merging import NeuronMerging
from onnxmerge.methods.prune import Prune
from onnxmerge.methods.refit import Refit

__all__ = ["COMPENSATIONS", "METHODS", "Applied", "Decided", "Method", "Preset", "Requires", "obstacle"]


class Preset(NamedTuple):
    """A selection, a method, an allocation, and whether known means are added to the consumers' biases."""

    select: str
    compensate: str
    allocate: str
    fold_mean: bool

    @property
    def method(self) -> Method:
        """What happens to the weights that read removed channels."""
        return COMPENSATIONS[self.compensate]

    @property
    def fitted(self) -> bool:
        """Whether the weights that read removed channels are fitted to samples."""
        return self.method.requires.samples

    @property
    def measured(self) -> bool:
        """Whether it needs samples, real or synthetic."""
        return self.select not in SELECTIONS or self.fitted


_ALL: tuple[Method, ...] = (Prune(), NeuronMerging(), Fold(), Linear(), Refit())

COMPENSATIONS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})

METHODS: Mapping[str, Preset] = MappingProxyType(
    {
        "auto": Preset("obs", "refit", "global", True),
        "prune": Preset("l2", "none", "uniform", True),
        "neuron-merging": Preset("l2", "merge", "uniform", True),
        "reprune": Preset("cluster", "none", "uniform", True),
        "reprune-2024": Preset("coverage", "none", "global", True),
        "receding": Preset("bn", "none", "global", True),
        "fold": Preset("cluster", "fold", "uniform", True),
        "refit": Preset("obs", "refit", "global", True),
    }
)
