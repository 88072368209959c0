"""Random texts to fit to, for a network of texts without samples.

Each token is any row of the table of words, so a text means nothing; but its embeddings, norms and attention are those
of texts, and the network is the teacher of its own outputs. Fitted to texts of zeros and ones, every token would be one
of two. Numbers of measurements are in docs/methods-measured.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from onnxmerge.graph import infer_shapes, input_dims
from onnxmerge.graph.values import TensorSpec
from onnxmerge.network import Network
from onnxmerge.pipeline.run import Run
from onnxmerge.samples.feeds import Samples, fixed_batch
from onnxmerge.samples.synthetic import samples_for
from onnxmerge.samples.token_inputs import Role, token_roles

__all__ = ["macs_of_text", "synthetic_texts", "takes_known", "takes_texts", "text_shapes"]

_LENGTHS = (16, 24, 32, 40, 48, 56, 64)
"""Tokens of texts where their number is free: sentences and short paragraphs."""
_FLOATS = frozenset({"float16", "float32", "float64"})
_BLOCKS = 32
"""Texts of one length follow each other, so that they can be joined, in this many blocks: every fold has all lengths,
and so have the first batches, on which sensitivities are measured."""


def takes_texts(network: Network) -> bool:
    """Whether every input of a network holds rows of tables or goes with them, so that random texts can be made.

    One-hot codes are left out: Magika, which reads bytes of files, is better merged (docs/methods-measured.md).
    """
    roles = token_roles(network.model)
    known = (spec.name in roles and roles[spec.name].kind != "codes" for spec in network.model.inputs)
    return bool(roles) and all(known)


def takes_known(network: Network) -> bool:
    """Whether every input holds floats, or tokens or what goes with them, so that synthetic samples can be made.

    One-hot codes are left out, as in `takes_texts`, and so are settings, for which random values may be absurd: other
    integers, such as a sampling rate, and floats of fewer than two axes, such as the lowest frequency to look for.
    """
    roles, inputs = token_roles(network.model), network.model.inputs
    return bool(inputs) and all(_known(spec, roles, network.cost.dims.get(spec.name)) for spec in inputs)


def _known(spec: TensorSpec, roles: Mapping[str, Role], dims: tuple[int, ...] | None) -> bool:
    if dims is None or spec.name in roles:
        return dims is not None and roles[spec.name].kind != "codes"
    return spec.dtype in _FLOATS and len(dims) > 1


def macs_of_text(run: Run, network: Network) -> int:
    """MACs of a random text of average length."""
    tokens, mean = _tokens(network, network.cost.dims), [_tokens(network, dims) for dims in text_shapes(run, network)]
    return max(1, round(network.cost.macs({}) * sum(mean) / len(mean) / max(tokens, 1)))


def synthetic_texts(run: Run, network: Network, count: int) -> Samples:
    """Random texts of several lengths.

    Args:
        run: The run.
        network: A network that takes texts.
        count: Number of texts, rounded up to whole feeds.
    """
    shapes, seed = text_shapes(run, network), run.options.seed
    rows = fixed_batch(run.model.inputs)
    size = rows * max(1, count // (_BLOCKS * rows))
    made = [
        samples_for(run.model, shapes[block % len(shapes)], size, seed + block) for block in range(-(-count // size))
    ]
    total = sum(each.count for each in made)
    tokens = [_tokens(network, dims) // rows for dims in shapes]
    lengths = f" of {tokens[0]} to {tokens[-1]} tokens" if len(shapes) > 1 else ""
    source = f"{total} random texts{lengths} (seed {seed})"
    return replace(made[0], feeds=tuple(feed for each in made for feed in each.feeds), source=source)


def text_shapes(run: Run, network: Network) -> list[Mapping[str, tuple[int, ...]]]:
    """Shapes of the inputs at every length that fits, ascending; those of the costs if the length is fixed."""
    inputs, given = run.model.inputs, run.request.shapes
    lengths = [input_dims(inputs, given, 1, length) for length in _LENGTHS]
    found = [] if lengths[0] == lengths[-1] else [dims for dims in lengths if not infer_shapes(run.model, dims).failed]
    return list(found) if len(found) > 1 else [{spec.name: network.cost.dims[spec.name] for spec in inputs}]


def _tokens(network: Network, dims: Mapping[str, tuple[int, ...]]) -> int:
    return max(prod(dims[spec.name]) for spec in network.model.inputs)
