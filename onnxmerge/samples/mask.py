"""The input that tells real tokens from padding.

Padding says nothing about a network. Its rows must not weigh in statistics, sensitivities or fidelity.

1. Of the inputs of shape (batch, tokens), the mask is the one that reaches what a Softmax is taken of without passing
   a product: a summand of the scores, or the condition of a Where. If several do, it is the one called a mask.
2. If none does (the mask is ignored, or read only where the network pools), it is `attention_mask`, if there is one.
3. A token is real where the mask is not 0. In a mask of booleans whose name contains "padding", as of PyTorch's
   `key_padding_mask`, it is real where the mask is false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.model import Model
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.token_mask import TokenMask
from onnxmerge.suggestions import did_you_mean

__all__ = ["find_mask", "without_padding"]

_USUAL = "attention_mask"
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "Conv", "FusedMatMul", "Attention", "Softmax", "Shape", "Size"})
"""Operators that a mask does not pass on its way to the scores: what goes through them is a signal, or a length."""
_ATTENTION_MASK = 3
"""Position of the mask among the inputs of ONNX's Attention."""


def find_mask(model: Model, name: str | None = None) -> TokenMask | None:
    """The input of a model that marks padding; None if it has none.

    Args:
        model: The model.
        name: Name of the input, or "none" to count every token; None: find it, see the module.

    Raises:
        UsageError: The model has no such input, or it is not of shape (batch, tokens).
    """
    if name == "none":
        return None
    specs = {spec.name: spec for spec in model.inputs}
    if name is not None:
        if name not in specs:
            known = ", ".join(specs)
            raise UsageError(f"--mask names {name!r}, but the inputs are: {known}{did_you_mean(name, list(specs))}")
        if not _is_mask(specs[name]):
            raise UsageError(f"--mask: input {name!r} is not of shape (batch, tokens); none counts every token")
        return _mask(specs[name])
    reached = [specs[each] for each in _reaching(model) if each in specs and _is_mask(specs[each])]
    called = [spec for spec in reached if "mask" in spec.name.lower()]
    for found in (called, reached):
        if len(found) == 1:
            return _mask(found[0])
    usual = specs.get(_USUAL)
    return _mask(usual) if usual is not None and _is_mask(usual) else None


def _mask(spec: TensorSpec) -> TokenMask:
    return TokenMask(spec.name, spec.dtype == "bool" and "padding" in spec.name.lower())


def _is_mask(spec: TensorSpec) -> bool:
    return spec.dims is not None and len(spec.dims) == 2 and spec.dtype not in ("string", "unknown")


def _reaching(model: Model) -> dict[str, None]:
    """Graph inputs that scores are computed from without a product, in the order found."""
    waiting = [node.inputs[0] for node in model.nodes if node.op == "Softmax"]
    waiting += [node.input(_ATTENTION_MASK) for node in model.nodes if node.op == "Attention" and not node.domain]
    seen: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen[name] = None
        node = model.writer.get(name)
        if node is not None and node.op not in _PRODUCTS:
            waiting.extend(node.inputs)
    return {name: None for name in seen if name not in model.writer}


def without_padding(samples: Samples, mask: TokenMask, inputs: Sequence[TensorSpec]) -> Samples:
    """The same samples without the padding at their ends, to be padded to the longest of a batch when joined.

    They are returned unchanged if the number of tokens is fixed, or nothing is padded.

    Args:
        samples: The samples.
        mask: The input that marks padding.
        inputs: The model's inputs.
    """
    tokens = _token_inputs(samples, mask, inputs)
    if not tokens or samples.padding:
        return samples
    feeds: list[Mapping[str, NDArray[Any]]] = []
    padding: dict[str, float] = {}
    for feed in samples.feeds:
        real = mask.real(feed)
        length = feed[mask.name].shape[1] if real is None else int(np.flatnonzero(real.any(axis=0))[-1]) + 1
        if length < feed[mask.name].shape[1] and not padding:
            padding = {name: float(feed[name][0, length].flat[0]) for name in tokens}
        feeds.append({name: array[:, :length] if name in tokens else array for name, array in feed.items()})
    return replace(samples, feeds=tuple(feeds), padding=padding) if padding else samples


def _token_inputs(samples: Samples, mask: TokenMask, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Inputs whose axis 1 counts tokens; none if their number is fixed."""
    specs = {spec.name: spec for spec in inputs}
    dims = specs[mask.name].dims
    if not samples.batchable or dims is None or isinstance(dims[1], int):
        return ()
    length = samples.feeds[0][mask.name].shape[1]
    found = [mask.name]
    for name, spec in specs.items():
        if name == mask.name or spec.dims is None or len(spec.dims) < 2 or isinstance(spec.dims[1], int):
            continue
        if spec.dims[1] == dims[1] and samples.feeds[0][name].shape[1] == length:
            found.append(name)
        elif samples.feeds[0][name].shape[1] == length:
            return ()  # an axis of another name and the same length: perhaps tokens, perhaps not
    return tuple(found)
