"""Inputs that hold tokens: which tables they select rows of, and what goes with them.

An input holds *numbers of rows* if its values reach, unchanged, the indices of a Gather from a stored table. They have
to lie within that table: a BERT selects one of 30522 words. Three more inputs of such a network are known:

1. a mask is 1 for every token, or false where it marks padding;
2. positions, which the input's name says, are 0, 1, 2, ...;
3. the types of tokens, rows of a table of at most 4 beside a larger one for as many tokens, are 0.

Numbers that select from something computed, such as the ends of a graph's edges, are not among them: how much there is
to select from depends on the other inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.mask import find_mask

__all__ = ["NO_ROLES", "Role", "token_roles"]

_UNCHANGED = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
"""Operators whose outputs hold the values of their first input, or of all of them, and no others."""
_SELECTING: Mapping[str, Mapping[int, int]] = MappingProxyType(
    {"Gather": {1: 0}, "EmbedLayerNormalization": {0: 2, 1: 4, 8: 3}}
)
"""By operator: positions of inputs that are numbers of rows, and those of their tables."""
_COMPUTED = frozenset({"GatherElements", "GatherND", "ScatterElements", "ScatterND", "Scatter"})
"""Operators whose second input selects elements of a signal."""
_MOST_TYPES = 4
"""Rows of the largest table of types of tokens: 2 in BERT, 1 in RoBERTa."""


@dataclass(frozen=True)
class Role:
    """What the values of an input are.

    Attributes:
        kind: "rows" for any rows of a table; "codes" for what is encoded one-hot by a comparison; "positions",
            "types"; "mask" for what marks real tokens, and "padding" for what marks the others.
        rows: Rows of the smallest table that the values select from; 0 for a mask.
    """

    kind: Literal["rows", "codes", "positions", "types", "mask", "padding"]
    rows: int = 0


NO_ROLES: Mapping[str, Role] = MappingProxyType({})


def token_roles(model: Model) -> Mapping[str, Role]:
    """The roles of the inputs that hold tokens, or go with them, by name; empty if none holds numbers of rows."""
    inputs = {spec.name: spec for spec in model.inputs if spec.dims is not None}
    tables = {name: rows for name in inputs if (rows := _rows(model, name))}
    roles = {name: Role(_kind(spec, inputs, tables), tables[name]) for name, spec in inputs.items() if name in tables}
    for name in inputs.keys() - tables.keys():
        coded = _rows(model, name, compared=True)
        if coded:
            roles[name] = Role("codes", coded)
    if not any(role.kind in ("rows", "codes") for role in roles.values()):
        return NO_ROLES
    mask = find_mask(model)
    for name, spec in inputs.items():
        known = mask is not None and mask.name == name
        padding = spec.dtype == "bool" and "pad" in name.lower()
        # A mask of another name that is true or false may mark either.
        named = "mask" in name.lower() and len(spec.dims or ()) == 2 and (padding or spec.dtype != "bool")
        if name not in roles and (known or named):
            roles[name] = Role("padding" if padding else "mask")
    return roles


def _kind(
    spec: TensorSpec, inputs: Mapping[str, TensorSpec], tables: Mapping[str, int]
) -> Literal["rows", "positions", "types"]:
    """What rows an input selects."""
    if "position" in spec.name.lower():
        return "positions"
    beside = [tables[name] for name in tables if name != spec.name and inputs[name].dims == spec.dims]
    tokens = spec.dims is not None and len(spec.dims) == 2 and spec.dims[1] != 1
    few = tables[spec.name] <= _MOST_TYPES and max(beside, default=0) > _MOST_TYPES
    return "types" if few and tokens else "rows"


def _rows(model: Model, name: str, *, compared: bool = False) -> int:
    """Rows of the smallest table that the values of a tensor select from; 0 if there is none, or it is computed.

    Lists that values are `compared` with, to encode them one-hot, count as tables if asked for.
    """
    waiting, seen, found = [name], set[str](), []
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in model.captured:
            return 0  # what a subgraph does with it is not known
        for node, position in model.readers.get(tensor, ()):
            table = _SELECTING.get(node.op, {}).get(position)
            if table is not None:
                rows = _length(model, node, node.input(table))
                if not rows:
                    return 0
                found.append(rows)
            elif node.op in _COMPUTED and position == 1:
                return 0
            elif node.op == "Equal" and compared:
                found.extend(_listed(model, node.input(1 - position)))
            elif node.op == "Gather" and not node.domain and position == 0:
                waiting.extend(node.outputs)
            elif node.op in _UNCHANGED and not node.domain and (position == 0 or node.op == "Concat"):
                waiting.extend(output for output in node.outputs if output)
    return min(found, default=0)


def _length(model: Model, node: Node, table: str) -> int:
    """Length of the axis of a stored table that a node selects from; 0 if the table is computed."""
    if table not in model.weights:
        return 0
    shape, axis = model.weights.shape(table), node.attributes.get("axis", 0) if node.op == "Gather" else 0
    return int(shape[axis]) if -len(shape) <= axis < len(shape) else 0


def _listed(model: Model, other: str) -> list[int]:
    """The length of a constant 0, 1, 2, ... along one axis, which integers are compared with to encode them one-hot."""
    if other not in model.weights or not max(model.weights.shape(other), default=0) > 1:
        return []
    values = np.asarray(model.weights[other])
    return [values.size] if np.array_equal(values.ravel(), np.arange(values.size)) else []
