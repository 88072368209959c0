"""The analysed model: everything that is known about it before a plan is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, find_groups, kept_elements
from onnxmerge.channels.relations import Indices
from onnxmerge.cost.network import CostModel
from onnxmerge.graph import Joins, joined_outputs

__all__ = ["Network"]


@dataclass(frozen=True)
class Network(Context, Analysis):
    """A model with its shapes, relations, channel groups and costs.

    It is a `Context`, so whatever queries shapes and constants takes a network too.

    Attributes:
        cost: Its costs, at the shapes at which MACs are counted.
    """

    cost: CostModel

    @classmethod
    def of(cls, context: Context, dims: Mapping[str, tuple[int, ...]]) -> Network:
        """Find the groups of a model.

        Args:
            context: The model and its shapes.
            dims: Shape of every tensor at which MACs are counted.
        """
        found = find_groups(context)
        return cls(
            groups=found.groups,
            pinned=found.pinned,
            relations=found.relations,
            model=context.model,
            shapes=context.shapes,
            cost=CostModel(context.model, dims, context.shapes.first.dims),
        )

    @cached_property
    def joined(self) -> Mapping[str, Joins]:
        """Where outputs are joined from several tensors."""
        return joined_outputs(self.model, self.cost.dims)

    def macs_ratio(self, kept: Mapping[int, Indices]) -> float | None:
        """MACs of the model over those with the kept channels of some groups; None if none are counted."""
        return self.cost.macs_ratio(kept_elements(self.groups, kept))
