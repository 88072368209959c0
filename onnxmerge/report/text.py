"""The messages of reasons: the one table from codes to messages and advice.

A code has no advice if its message is sufficient, or if nothing helps: a softmax over channels does need all of
them.
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
        words: Why, with ``{op}``, ``{axis}`` and numbers in the places of a reason's operator, axis and details.
        fix: What can be done about it, "" where nothing can or the words say it.
        short: Why, where many are told together and names would be too many; "" for the words.
    """

    words: str
    fix: str = ""
    short: str = ""


def sentence(reason: Reason) -> str:
    """Why, with the node in front.

    Example:
        >>> sentence(Reason("mixes_free_length", "Reshape", where="/head/Reshape"))
        '/head/Reshape: Reshape mixes it with an axis of free length'
    """
    return f"{reason.where}: {_why(reason)}" if reason.where else _why(reason)


def kind(reason: Reason) -> str:
    """Why, in words that all nodes share.

    Example:
        >>> kind(Reason("mixes_all", "Softmax", where="/head/Softmax")), kind(Reason("graph_output", detail=("y",)))
        ('Softmax mixes all channels', 'graph output')
    """
    return TEXTS[reason.code].short or _why(reason)


def advice(reason: Reason) -> str:
    """What can be done about it, "" where nothing can or the words say it."""
    return TEXTS[reason.code].fix


def nothing_to_cut(source: str, reasons: Sequence[Reason]) -> str:
    """What to say of a model in which no group may be cut.

    Args:
        source: What the model is called.
        reasons: Why, each once, at least one.
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


_FIXED_LENGTH = "if the model always runs at one length, say so: --shape NAME:1,3,224,224"
_OPEN_SIZES = "export with fixed sizes, or fold constants (onnxsim), so that these numbers stand in the file"
_UNKNOWN_SHAPES = f"{_FIXED_LENGTH}, or fold constants (onnxsim)"
_EXPORT_AGAIN = "the file contradicts itself: export it again"
_NO_SUBGRAPH = "export for one case, so that no If, Loop or Scan is left"
_UNFUSED = "export without fused operators"
_HEADS_APART = "export with an axis of heads: (batch, heads, tokens, width)"
_PLAIN_HEADS = "export without the cache, with as many heads for keys as for queries"
_EINSUM = "write it as MatMul and Transpose, and export again"

_AROUND: Mapping[Code, Text] = {
    "graph_features": Text(
        "the classes or features of graph output {0} are the model's interface",
        short="classes or features of a graph output",
    ),
    "graph_input": Text("graph input {0}", short="graph input"),
    "graph_output": Text(
        "graph output {0}",
        "where another network reads this result, export both as one, and these channels can go too",
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
    "no_rule": Text("{op} has no rule", "teach it the operator: docs/adding-an-operator.md"),
    "old_opset": Text("{op} of opset {0} has no rule", "convert the model to a newer opset (onnx.version_converter)"),
    "no_cpu_kernel": Text("{op} has no CPU implementation to hold a cut against", _UNFUSED),
    "packed_in_attributes": Text("{op} keeps several heads packed in one axis, and its sizes in attributes", _UNFUSED),
    "integer_arithmetic": Text(
        "{op} computes in integers, whose scales were measured for all channels; quantize after cutting"
    ),
    "integer_weights": Text(
        "{op} reads a weight stored as packed integers in blocks that cross channels; quantize after cutting"
    ),
}

_COMPUTED: Mapping[Code, Text] = {
    "computed_amounts": Text("{op} by amounts that are computed while the network runs", _OPEN_SIZES),
    "computed_axes": Text("{op} along axes that are computed while the network runs", _OPEN_SIZES),
    "computed_axis": Text("{op} along an axis that is computed while the network runs", _OPEN_SIZES),
    "computed_bounds": Text("{op} between bounds that are computed while the network runs", _OPEN_SIZES),
    "computed_counts": Text("{op} by counts that are computed while the network runs", _OPEN_SIZES),
    "computed_positions": Text(
        "{op} reads or writes by positions that are computed while the network runs", _OPEN_SIZES
    ),
    "reduces_computed": Text("{op} over axes that are computed while the network runs", _OPEN_SIZES),
    "bounds_not_followed": Text("{op} whose bounds could not be followed", _OPEN_SIZES),
}

_FORMS: Mapping[Code, Text] = {
    "attention_extras": Text("{op} with a cache, a length or a second output", _PLAIN_HEADS),
    "heads_uneven": Text("{op} of {0} heads over {1}", _PLAIN_HEADS),
    "heads_packed": Text("{op} with heads packed in one axis", _HEADS_APART),
    "heads_unknown": Text("{op} of packed heads whose number is not known", _HEADS_APART),
    "batch_first": Text("{op} with the batch first", "export with layout 0, (sequence, batch, input)"),
    "einsum_form": Text("{op} {0!r} is not of a form that is understood", _EINSUM),
    "einsum_sum": Text("{op} {0!r} sums over an axis of one operand", _EINSUM),
    "returns_positions": Text("{op} returns positions", "export without the positions, if nobody reads them"),
    "scale_a_block": Text("{op} with one scale a block", "cut the float model, then quantize the result"),
    "unequal_elements": Text("{op} from {0} to {1}, which hold unequally many elements", _EXPORT_AGAIN),
    "weight_does_not_fit": Text("{op} whose weight does not fit its input", _EXPORT_AGAIN),
    "empty_tensor": Text("{op} of an empty tensor"),
    "of_a_vector": Text("{op} of a vector"),
    "with_a_vector": Text("{op} with a vector"),
}

_AXES: Mapping[Code, Text] = {
    "angles": Text("angles of {op}"),
    "grid": Text("grid of {op}"),
    "hidden_state": Text("hidden state of {op}"),
    "made_by": Text("made by {op}"),
    "place": Text("place of {op}"),
    "resampled": Text("resampled by {op}"),
    "spatial_axis": Text("spatial axis of {op}"),
    "time_or_batch": Text("time or batch of {op}"),
    "tokens": Text("tokens of {op}"),
    "works_along": Text("{op} works along it"),
    "works_by_number": Text("{op} works along it by number"),
    "gathers_from": Text("{op} picks from it by number"),
    "gathers": Text("{op} picks by number"),
    "statistics_over_all": Text("{op} takes its statistics over all channels"),
    "statistics_over_it": Text("{op} takes its statistics over it"),
    "normalises_over_it": Text("{op} over it"),
    "mixes_all": Text("{op} mixes all channels"),
    "mixes_neighbours": Text("{op} mixes neighbouring channels"),
    "numbers": Text("{op} numbers the channels"),
    "reduces": Text("{op} over the channels"),
    "turns_pairs": Text("{op} turns pairs of elements of it"),
    "steps": Text("{op} with step {0} along the channels"),
    "grouped_convolution": Text("convolution in {0} groups"),
    "mixes_axes": Text(
        "{op} mixes it with other axes ({0} to {1})", "export without this step, if what reads the result can take it"
    ),
    "mixes_free_length": Text("{op} mixes it with an axis of free length", _FIXED_LENGTH),
}

_GROUPS: Mapping[Code, Text] = {
    "one_channel": Text("a single channel"),
    "made_together": Text("made by {0} nodes together (--no-coupled)"),
    "not_chosen": Text("not chosen by --only"),
    "skipped": Text("skipped by --skip"),
    "not_readable": Text("the weights that make it cannot be read"),
    "not_finite": Text("the weights that make it are not all finite"),
    "no_scale": Text("no BatchNormalization, so no importance that could be set beside the others'"),
    "two_signals": Text("{0} multiplies two signals"),
    "weight_not_solved": Text("the weight of {0} cannot be solved again"),
    "read_unevenly": Text("{0} reads channels unevenly"),
    "no_reader": Text("no weighted node reads it"),
    "no_channels": Text("no operator in it makes channels"),
}

TEXTS: Mapping[Code, Text] = MappingProxyType({**_AROUND, **_REFUSED, **_COMPUTED, **_FORMS, **_AXES, **_GROUPS})
"""The messages of each code."""
