"""What a method is: how removed channels are expressed, and what happens to the weights that read them.

Which channels stay is a different question, answered by a selection: any selection goes with any method. So importance
is measured by the planner, from the selection, and a method states what it requires and how it is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, CommutesWith, Indices
from onnxmerge.decompose import Expression, GroupWeights
from onnxmerge.graph import Draft
from onnxmerge.network import Network
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.producer_weights import group_passes

__all__ = ["Applied", "Decided", "Method", "Requires", "obstacle"]

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Requires:
    """What has to hold for a method to be used for a group.

    Attributes:
        commutes_with: The scaling matrices that every node between a producer and a consumer has to commute with; None
            if the method scales nothing.
        checks: Each returns why a group's weights do not allow the method; "" if they do.
        samples: Whether weights are fitted to samples, real or synthetic.
    """

    commutes_with: CommutesWith | None = None
    checks: tuple[Callable[[Context, ChannelGroup], str], ...] = ()
    samples: bool = False


class Decided(Protocol):
    """The part of a plan that methods read."""

    @property
    def fold_mean(self) -> bool:
        """Whether known means of removed channels are added to the biases of their consumers."""
        ...

    def kept(self) -> Mapping[int, Indices]:
        """Channels to keep, by group position."""
        ...

    def expressions(self) -> Mapping[int, Expression]:
        """Expressions of removed channels, by group position."""
        ...


@dataclass(frozen=True)
class Applied:
    """New weights of a network; never a shape.

    Attributes:
        change: Writes them to a draft, as often as it is called; returns the vectors added to it, each with its axis.
        constants: Values of tensors whose branch keeps no channel, by channel axis: see `apply.cut`.
        approximated: Names of nodes that were too wide to be solved from all their rows.
    """

    change: Callable[[Draft], Mapping[str, Axis]]
    constants: Mapping[Axis, NDArray[Any]] = field(default_factory=dict)
    approximated: tuple[str, ...] = ()


class Method(Protocol):
    """How removed channels are compensated for.

    Attributes:
        name: The value of `--compensate`.
        requires: What has to hold for a group.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def requires(self) -> Requires: ...  # noqa: D102

    def express(self, rows: GroupWeights, kept: Indices, threshold: float, balance: float) -> Expression:
        """Express the channels of a group that are not kept.

        Args:
            rows: The group's weights.
            kept: (k,) channels to keep, ascending.
            threshold: Minimum cosine similarity of a merge.
            balance: Weight of direction against offset in a merge.
        """
        ...

    def apply(self, network: Network, plan: Decided, calibration: Calibration | None, progress: Progress) -> Applied:
        """Find the weights of a network that reads no removed channel.

        Args:
            network: The analysed model.
            plan: What was decided.
            calibration: The samples; None unless the method requires them.
            progress: Called with the fraction completed.
        """
        ...


def obstacle(method: Method, network: Network, group: ChannelGroup) -> str:
    """Why a method cannot be used for a group; "" if it can."""
    needed = method.requires.commutes_with
    if needed is not None:
        passes, where = group_passes(network, group, network.relations)
        if passes < needed:
            return f"{where} does not commute with the scaling of {method.name}"
    return next((why for check in method.requires.checks if (why := check(network, group))), "")
