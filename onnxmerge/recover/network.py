"""A model that torch computes, node by node, with gradients for its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxmerge.errors import UsageError
from onnxmerge.graph import Model, Node, NotEvaluableError, evaluate
from onnxmerge.recover.operators import OPERATORS, PARAMETERS

__all__ = ["TorchNetwork"]

Arrays = dict[str, NDArray[Any]]

_TRAINED: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "BatchNormalization": (1, 2),
        "Conv": (1, 2),
        "ConvTranspose": (1, 2),
        "Gemm": (1, 2),
        "LayerNormalization": (1, 2),
        "MatMul": (0, 1),
        "PRelu": (1,),
    }
)
"""Positions of the inputs that are trained, the weight first. Statistics of BatchNormalization are not."""
_SHOWN = 3


class TorchNetwork:
    """A model of float32 weights.

    Values that depend on shapes and constants alone are NumPy arrays. They are computed in the first run with inputs of
    these shapes, by ONNX's reference implementation.

    Attributes:
        weights: What is trained: tensors by the name of their initializer.
        scales: For each of them, the root mean square of its values, or for an offset that of the weight beside it if
            that is larger.
        elements: Number of elements of all tensors of the last run.
    """

    def __init__(self, model: Model, *, trained: bool) -> None:
        """See the class.

        Args:
            model: The model; never changed.
            trained: Whether gradients are needed.

        Raises:
            UsageError: An operator is not among those that torch computes here, or a weight is not float32.
        """
        _check_operators(model)
        self._model = model
        self._constants: Arrays = {name: np.asarray(array) for name, array in model.weights.items()}
        self._known: dict[tuple[tuple[int, ...], ...], Arrays] = {}
        self._tensors: dict[str, Tensor] = {}
        self.scales: dict[str, float] = {}
        for name, scale in _trained(model).items():
            if self._constants[name].dtype != np.float32:
                kind = model.weights.dtype(name)
                raise UsageError(f"--recover trains float32 weights, and {name!r} is {kind}; omit --recover")
            self._tensors[name] = torch.from_numpy(self._constants[name].copy()).requires_grad_(trained)
            self.scales[name] = scale
        self.elements = 0
        self.weights: Mapping[str, Tensor] = {name: self._tensors[name] for name in self.scales}
        self._last = {name: node.index for node in model.nodes for name in node.inputs}

    def run(self, feed: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
        """The values of some tensors for one feed.

        Raises:
            UsageError: torch cannot compute a node, which is named.
        """
        values = {name: _channels_last(each) for name, each in feed.items()}
        self.elements = sum(each.numel() for each in values.values())
        known = self._known.setdefault(tuple(tuple(each.shape) for each in feed.values()), dict(self._constants))
        for node in self._model.nodes:
            if node.op == "Shape" and node.inputs[0] in values:
                known.setdefault(node.outputs[0], self._shape(node, values[node.inputs[0]]))
            elif not any(name in values or name in self.weights for name in node.inputs):
                self._evaluate(node, known)
            else:
                results = self._compute(node, values, known)
                values.update((name, each) for name, each in zip(node.outputs, results, strict=False) if name)
                self.elements += sum(each.numel() for each in results)
                for name in node.inputs:
                    if self._last[name] == node.index and name not in wanted:
                        values.pop(name, None)  # inference needs no more than what is still to be read
        return {name: values[name] for name in wanted if name in values}

    def _shape(self, node: Node, x: Tensor) -> NDArray[np.int64]:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return np.array(x.shape[start:end], dtype=np.int64)

    def _evaluate(self, node: Node, known: Arrays) -> None:
        """Add what a node makes of constants and shapes to the known values."""
        if all(name in known for name in node.outputs if name):
            return
        try:
            made = evaluate(self._model, node, {name: known[name] for name in node.inputs if name})
        except NotEvaluableError as error:
            raise UsageError(f"--recover: {node.name}: {error}") from error
        known.update((name, np.asarray(each)) for name, each in zip(node.outputs, made, strict=False) if name)

    def _compute(self, node: Node, values: Mapping[str, Tensor], known: Arrays) -> Sequence[Tensor]:
        """What a node makes of tensors."""
        parameters = PARAMETERS.get(node.op, ())
        try:
            inputs = [
                None if not name else known[name] if place in parameters else self._tensor(name, values, known)
                for place, name in enumerate(node.inputs)
            ]
        except KeyError as error:
            raise UsageError(
                f"--recover: torch does not compute {node.op} ({node.name}) here: it depends on computed values"
            ) from error
        try:
            result = OPERATORS[node.op](node, *inputs)
        except (NotImplementedError, RuntimeError, ValueError, TypeError, LookupError) as error:
            words = f"no attribute {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
            raise UsageError(f"--recover: torch does not compute {node.op} ({node.name}) here: {words}") from error
        return result if isinstance(result, tuple) else (result,)

    def _tensor(self, name: str, values: Mapping[str, Tensor], known: Arrays) -> Tensor:
        if name in values:
            return values[name]
        if name not in self._tensors:
            if name not in self._constants:
                return torch.from_numpy(np.array(known[name]))
            self._tensors[name] = torch.from_numpy(np.array(self._constants[name]))
        return self._tensors[name]


def _channels_last(values: Tensor) -> Tensor:
    """The same values in the order in memory that convolutions are fastest in: a fifth faster on ResNet-56."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values


def _check_operators(model: Model) -> None:
    """Refuse a model with an operator that is not computed here.

    Raises:
        UsageError: It has one; the message names up to three.
    """
    constant = model.constants
    missing = {
        f"{node.domain}.{node.op}" if node.domain else node.op: None
        for node in model.nodes
        if (node.domain or node.op not in OPERATORS or node.captures)
        and node.op != "Shape"
        and not all(name in constant for name in node.outputs if name)
        and not _of_shapes(model, node)
    }
    if missing:
        names = list(missing)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise UsageError(f"--recover: torch does not compute {', '.join(names[:_SHOWN])}{more}; omit --recover")


def _of_shapes(model: Model, node: Node) -> bool:
    """Whether a node depends on shapes and constants alone."""
    waiting, seen = [node], set[int]()
    while waiting:
        each = waiting.pop()
        if each.op == "Shape" or each.index in seen:
            continue
        seen.add(each.index)
        if each.captures:
            return False
        for name in each.inputs:
            if name in model.writer:
                waiting.append(model.writer[name])
            elif name and name not in model.weights:
                return False
    return True


def _trained(model: Model) -> dict[str, float]:
    """The initializers to train, with the size of their values."""
    found: dict[str, float] = {}
    places = {(node.index, place) for node in model.nodes for place in _TRAINED.get(node.op, ())}
    for node in model.nodes:
        largest = 0.0
        for place in _TRAINED.get(node.op, ()):
            name = node.input(place)
            if name not in model.weights or name in model.captured:
                continue
            if any((reader.index, where) not in places for reader, where in model.readers[name]):
                continue  # another operator reads it too, perhaps as a constant
            largest = max(largest, float(np.sqrt(np.mean(np.square(model.weights[name], dtype=np.float64)))))
            found.setdefault(name, largest)
    return {name: scale for name, scale in found.items() if scale > 0}
