"""Reasons for keeping channels, as data: a code, and the values that its message mentions.

Rules do not write sentences. The message of each code, and advice on it, are in one table in `report/text.py`, which
has an entry for every code here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

__all__ = ["CODES", "Code", "Detail", "Reason"]

Code = Literal[
    # Surroundings of the node.
    "graph_cache", "graph_features", "graph_input", "graph_output", "has_subgraph", "no_fixed_length",
    "read_by_subgraph", "shapes_contradict", "shapes_unknown", "shapes_unknown_at",
    # Operators without a rule, or known and not cut.
    "integer_arithmetic", "integer_weights", "no_cpu_kernel", "no_rule", "not_a_layer", "old_opset",
    "packed_in_attributes",
    # Values that are not in the file.
    "bounds_not_followed", "computed_amounts", "computed_axes", "computed_axis", "computed_bounds", "computed_counts",
    "computed_positions", "reduces_computed",
    # Forms of the operator that its rule does not support.
    "attention_cache", "batch_first", "einsum_form", "einsum_sum", "empty_tensor", "heads_packed", "heads_uneven",
    "heads_unknown", "of_a_vector", "returns_positions", "scale_a_block", "unequal_elements", "weight_does_not_fit",
    "with_a_vector",
    # Axes on which an operator does more than carry channels.
    "angles", "directions", "gathers", "gathers_from", "grid", "hidden_state", "made_by", "mixes_all",
    "mixes_neighbours", "normalises_over_it", "numbers", "place", "reduces", "resampled", "spatial_axis",
    "statistics_over_all", "statistics_over_it", "steps", "time_or_batch", "tokens", "works_along", "works_by_number",
    # Forks without a matching way.
    "grouped_convolution", "mixes_axes", "mixes_free_length",
    # Groups that could be cut but are not.
    "made_together", "no_reader", "no_scale", "not_chosen", "not_finite", "not_readable", "one_channel",
    "read_unevenly", "skipped", "two_signals", "weight_not_solved",
    # The model as a whole.
    "no_channels",
]  # fmt: skip

CODES: tuple[Code, ...] = get_args(Code)

Detail = str | int | tuple[int, ...]
"""A name, a number, or the lengths of some axes."""


@dataclass(frozen=True)
class Reason:
    """Why channels are kept.

    Attributes:
        code: The code of the reason.
        operator: Type of the operator, "" if the reason mentions none.
        axis: Number of the axis, if the reason mentions one.
        detail: Other values, in the order in which the message mentions them.
        where: The node or tensor it was found at, "" if it applies to the graph or a whole group.
    """

    code: Code
    operator: str = ""
    axis: int | None = None
    detail: tuple[Detail, ...] = ()
    where: str = ""

    def fields(self) -> dict[str, object]:
        """The fields of its JSON form; those without a value are omitted."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", ())}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Reason:
        """Create a reason from the fields of its JSON form.

        Raises:
            ValueError: The code is unknown.
            TypeError: The fields do not match.
        """
        detail = tuple(tuple(each) if isinstance(each, list) else each for each in fields.get("detail", ()))
        reason = cls(**{**fields, "detail": detail})
        if reason.code not in CODES:
            raise ValueError(f"no reason has the code {reason.code!r}")
        return reason
