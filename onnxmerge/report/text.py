"""The messages of reasons: the one table from codes to messages and advice.

A code has no advice if its message is sufficient, or if nothing helps: a softmax over channels needs all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from onnxmerge.channels.reasons import Code, Detail, Reason

__all__ = ["TEXTS", "Text", "advice", "kind", "listed", "nothing_to_cut", "sentence"]

_SHOWN = 3
"""Maximum number of reasons listed in an error."""


class Text(NamedTuple):
    """The messages of a code.

    Attributes:
        words: Why, with placeholders: ``{op}``, ``{axis}``, and numbers for the details of a reason.
        fix: What can be done about it; "" if nothing, or if the words say so.
        short: Why, without names, for nodes that share a row; "" for the words themselves.
    """

    words: str
    fix: str = ""
    short: str = ""


def sentence(reason: Reason) -> str:
    """Why, preceded by the node.

    Example:
        >>> sentence(Reason("mixes_free_length", "Reshape", where="/head/Reshape"))
        '/head/Reshape: Reshape mixes this axis with one of free length'
    """
    return f"{reason.where}: {_why(reason)}" if reason.where else _why(reason)


def kind(reason: Reason) -> str:
    """Why, in words that are the same for all nodes.

    Example:
        >>> kind(Reason("mixes_all", "Softmax", where="/head/Softmax")), kind(Reason("graph_output", detail=("y",)))
        ('Softmax mixes all channels', 'graph output')
    """
    return TEXTS[reason.code].short or _why(reason)


def advice(reason: Reason) -> str:
    """What can be done about it; "" if nothing, or if the words say so."""
    return TEXTS[reason.code].fix


def nothing_to_cut(source: str, reasons: Sequence[Reason]) -> str:
    """The message for a model in which no group can be cut.

    Args:
        source: The name of the model.
        reasons: Why, without duplicates; at least one.
    """
    return f"{source}: nothing can be cut: {listed(reasons)}"


def listed(reasons: Sequence[Reason]) -> str:
    """The first few of some reasons in one line, and how many more there are."""
    more = f" (and {len(reasons) - _SHOWN} more reasons)" if len(reasons) > _SHOWN else ""
    return f"{'; '.join(map(sentence, reasons[:_SHOWN]))}{more}"


def _why(reason: Reason) -> str:
    details = map(_shown, reason.detail)
    return TEXTS[reason.code].words.format(*details, op=reason.operator, axis=reason.axis)


def _shown(detail: Detail) -> str:
    return "x".join(map(str, detail)) or "a scalar" if isinstance(detail, tuple) else str(detail)


_FIXED_LENGTH = "if the length is always the same, fix it: --shape NAME:1,3,224,224"
_OPEN_SIZES = "export with fixed sizes, or fold constants (onnxsim), so that the file contains these numbers"
_UNKNOWN_SHAPES = f"{_FIXED_LENGTH}, or fold constants (onnxsim)"
_EXPORT_AGAIN = "the file is inconsistent: export it again"
_NO_SUBGRAPH = "export a single branch, without If, Loop or Scan"
_UNFUSED = "export without fused operators"
_HEADS_APART = "export with a separate axis for heads: (batch, heads, tokens, width)"
_NO_CACHE = "export without the cache (use_cache=False)"
_EINSUM = "rewrite it with MatMul and Transpose, and export again"

_AROUND: Mapping[Code, Text] = {
    "graph_cache": Text("cache {0} is the model's interface", _NO_CACHE, "cache of keys and values"),
    "graph_features": Text(
        "the classes or features of graph output {0} are the model's interface",
        short="classes or features of a graph output",
    ),
    "graph_input": Text("graph input {0}", short="graph input"),
    "graph_output": Text(
        "graph output {0}",
        "if another network reads this output, export both as one model; then these channels can be removed too",
        "graph output",
    ),
    "has_subgraph": Text("{op} has a subgraph", _NO_SUBGRAPH),
    "read_by_subgraph": Text("{0} is read by a subgraph", _NO_SUBGRAPH),
    "no_fixed_length": Text("axis {axis} of {0} has no fixed length", _FIXED_LENGTH),
    "shapes_unknown": Text("the shapes around {op} could not be inferred", _UNKNOWN_SHAPES),
    "shapes_unknown_at": Text("the shapes around {0} could not be inferred", _UNKNOWN_SHAPES),
    "shapes_contradict": Text("the shapes around {op} contradict each other", _EXPORT_AGAIN),
}

_REFUSED: Mapping[Code, Text] = {
    "no_rule": Text("{op} has no rule", "add a rule: docs/adding-an-operator.md"),
    "not_a_layer": Text("{op} is not a layer of a neural network: it has no channels"),
    "old_opset": Text("{op} of opset {0} has no rule", "convert the model to a newer opset (onnx.version_converter)"),
    "no_cpu_kernel": Text("{op} has no CPU implementation with which a cut could be verified", _UNFUSED),
    "packed_in_attributes": Text(
        "{op} packs several heads into one axis and stores their sizes in attributes", _UNFUSED
    ),
    "integer_arithmetic": Text(
        "{op} computes in integers with scales calibrated for all channels; quantize after cutting"
    ),
    "integer_weights": Text(
        "{op} reads a weight packed into blocks of integers that span channels; quantize after cutting"
    ),
}

_COMPUTED: Mapping[Code, Text] = {
    "computed_amounts": Text("the amounts of {op} are computed at run time", _OPEN_SIZES),
    "computed_axes": Text("the axes of {op} are computed at run time", _OPEN_SIZES),
    "computed_axis": Text("the axis of {op} is computed at run time", _OPEN_SIZES),
    "computed_bounds": Text("the bounds of {op} are computed at run time", _OPEN_SIZES),
    "computed_counts": Text("the counts of {op} are computed at run time", _OPEN_SIZES),
    "computed_positions": Text("the positions of {op} are computed at run time", _OPEN_SIZES),
    "reduces_computed": Text("the axes that {op} reduces are computed at run time", _OPEN_SIZES),
    "bounds_not_followed": Text("the bounds of {op} could not be traced", _OPEN_SIZES),
}

_FORMS: Mapping[Code, Text] = {
    "attention_cache": Text("{op} shares its heads and widths with a cache", _NO_CACHE),
    "heads_uneven": Text("{op} has {0} query heads for {1} key heads", "export with as many key heads as query heads"),
    "heads_packed": Text("{op} packs its heads into one axis", _HEADS_APART),
    "heads_unknown": Text("{op} packs an unknown number of heads into one axis", _HEADS_APART),
    "batch_first": Text("{op} has the batch axis first", "export with layout 0, (sequence, batch, input)"),
    "einsum_form": Text("{op} {0!r} is not supported", _EINSUM),
    "einsum_sum": Text("{op} {0!r} sums over an axis of a single operand", _EINSUM),
    "returns_positions": Text("{op} returns positions", "export without the positions if they are not needed"),
    "scale_a_block": Text("{op} has one scale per block", "cut the float model, then quantize the result"),
    "unequal_elements": Text("{op} from {0} to {1}, which differ in their number of elements", _EXPORT_AGAIN),
    "weight_does_not_fit": Text("the weight of {op} does not match its input", _EXPORT_AGAIN),
    "empty_tensor": Text("{op} has an empty tensor as input"),
    "of_a_vector": Text("{op} has a vector as input"),
    "with_a_vector": Text("{op} multiplies a vector"),
}

_AXES: Mapping[Code, Text] = {
    "angles": Text("angles of {op}"),
    "directions": Text("directions of {op}"),
    "grid": Text("grid of {op}"),
    "hidden_state": Text("{op} whose weights are computed while the network runs"),
    "made_by": Text("produced by {op}"),
    "place": Text("position of {op}"),
    "resampled": Text("resampled by {op}"),
    "spatial_axis": Text("spatial axis of {op}"),
    "time_or_batch": Text("time or batch of {op}"),
    "tokens": Text("tokens of {op}"),
    "works_along": Text("{op} works along this axis"),
    "works_by_number": Text("{op} addresses this axis by index"),
    "gathers_from": Text("{op} indexes this axis"),
    "gathers": Text("{op} selects by index"),
    "statistics_over_all": Text("{op} computes statistics over all channels"),
    "statistics_over_it": Text("{op} computes statistics over this axis"),
    "normalises_over_it": Text("{op} normalises over this axis"),
    "mixes_all": Text("{op} mixes all channels"),
    "mixes_neighbours": Text("{op} mixes neighbouring channels"),
    "numbers": Text("{op} numbers the channels"),
    "reduces": Text("{op} reduces over the channels"),
    "steps": Text("{op} has step {0} along the channels"),
    "grouped_convolution": Text("convolution with {0} groups"),
    "mixes_axes": Text(
        "{op} mixes this axis with others ({0} to {1})",
        "export without this step if its consumers allow it",
    ),
    "mixes_free_length": Text("{op} mixes this axis with one of free length", _FIXED_LENGTH),
}

_GROUPS: Mapping[Code, Text] = {
    "one_channel": Text("a single channel"),
    "made_together": Text("produced by {0} nodes together (--no-coupled)"),
    "not_chosen": Text("not selected by --only"),
    "skipped": Text("skipped by --skip"),
    "not_readable": Text("the weights that produce it cannot be read"),
    "not_finite": Text("the weights that produce it are not all finite"),
    "no_scale": Text("no BatchNormalization, so its importance cannot be compared with that of other groups"),
    "two_signals": Text("{0} multiplies two signals"),
    "weight_not_solved": Text("the weight of {0} cannot be refitted"),
    "read_unevenly": Text("{0} does not read the same number of elements of every channel"),
    "no_reader": Text("no weighted node reads it"),
    "no_channels": Text("no operator in it produces channels"),
}

TEXTS: Mapping[Code, Text] = MappingProxyType({**_AROUND, **_REFUSED, **_COMPUTED, **_FORMS, **_AXES, **_GROUPS})
"""The messages of each code."""
