"""Concrete shapes for inputs whose dimensions are free, and what depends on them.

`probe_shapes` compares two passes of shape inference under different free dimensions: what is equal in both does not
depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmerge.errors import UsageError
from onnxmerge.graph.model import Model
from onnxmerge.graph.shapes import Shapes, StaticShapes, infer_shapes
from onnxmerge.graph.values import Dim, TensorSpec
from onnxmerge.suggestions import did_you_mean

__all__ = ["input_dims", "probe_shapes"]


_PROBES = (
    (2, 64), (3, 96), (2, 16), (3, 24), (2, 224), (3, 320), (2, (48, 320)), (3, (48, 192)), (2, (32, 128)),
    (3, (32, 320)), (2, 48), (3, 80), (1, 64), (1, 96), (1, 320), (1, 224),
    (1, 512), (1, 640), (2, 512), (1, 16000), (1, 1), (2, 1), (1, 7),
)  # fmt: skip
"""(batch, other free axes) tried in turn: multiples of 32 suit strided networks, batch 1 those exported with it.

A table of positions may be shorter than 96 tokens (CLIP's has 77).

A line of text is 32 or 48 pixels high, and its network fits no other height even where the file leaves it free.
"""

_HOPELESS = 9
"""Walks that leave the same nodes unknown, squares and lines of text among them: no shape will help, an operator is not
understood."""


def input_dims(
    specs: Sequence[TensorSpec], overrides: Mapping[str, tuple[int, ...]], batch: int, other: int | tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """A concrete shape for every input.

    Args:
        specs: The graph inputs.
        overrides: Shapes the user fixed, by input name; they must agree with static dimensions.
        batch: Length for a free first axis.
        other: Length for any other free axis, or one for each of an input's, in order; the last is repeated.

    Raises:
        UsageError: An override names no input, or contradicts the declared shape.
    """
    names = [spec.name for spec in specs]
    for name in overrides:
        if name not in names:
            known = ", ".join(names)
            raise UsageError(f"--shape names {name!r}, but the inputs are: {known}{did_you_mean(name, names)}")
    by_symbol: dict[str, int] = {}
    result = {}
    for spec in specs:
        if spec.dims is None:
            if spec.name in overrides:
                result[spec.name] = overrides[spec.name]
            continue
        if spec.name in overrides:
            _check_override(spec, overrides[spec.name])
            result[spec.name] = overrides[spec.name]
            by_symbol.update(
                (dim, length) for dim, length in zip(spec.dims, overrides[spec.name], strict=True)
                if isinstance(dim, str)
            )  # fmt: skip
    for spec in specs:
        if spec.dims is None or spec.name in result:
            continue
        result[spec.name] = _filled(spec.dims, batch, other, by_symbol)
    return result


def _filled(
    declared: Sequence[Dim], batch: int, other: int | tuple[int, ...], by_symbol: dict[str, int]
) -> tuple[int, ...]:
    """A declared shape with lengths for its free axes; those of a name are remembered for the next input."""
    dims: list[int] = []
    waiting = list(other) if isinstance(other, tuple) else [other]
    for axis, dim in enumerate(declared):
        if isinstance(dim, int):
            dims.append(dim)
            continue
        length = batch if axis == 0 else waiting.pop(0) if len(waiting) > 1 else waiting[0]
        dims.append(by_symbol.setdefault(dim, length) if isinstance(dim, str) and dim != "?" else length)
    return tuple(dims)


def _check_override(spec: TensorSpec, dims: tuple[int, ...]) -> None:
    declared = spec.dims or ()
    if len(declared) != len(dims) or any(isinstance(d, int) and d != n for d, n in zip(declared, dims, strict=False)):
        shown = ",".join("?" if dim is None else str(dim) for dim in declared)
        raise UsageError(f"--shape {spec.name}:{','.join(map(str, dims))} contradicts the model's {spec.name}:{shown}")


def probe_shapes(model: Model, overrides: Mapping[str, tuple[int, ...]]) -> StaticShapes:
    """Two passes with different free dimensions, chosen so that as few nodes as possible are unknown.

    Args:
        model: The model.
        overrides: Shapes the user fixed; they hold in both walks.
    """
    walks: dict[tuple[tuple[str, tuple[int, ...]], ...], Shapes] = {}
    for batch, other in _PROBES:
        dims = input_dims(model.inputs, overrides, batch, other)
        key = tuple(sorted(dims.items()))
        if key in walks:
            continue
        walks[key] = infer_shapes(model, dims)
        ranked = sorted(walks.values(), key=lambda walk: len(walk.failed))
        if len(ranked) > 1 and not ranked[1].failed:
            break
        if len(ranked) >= _HOPELESS and ranked[0].failed == ranked[_HOPELESS - 1].failed:
            break
    if len(ranked) > 1:
        # If only one set of shapes fits the graph, the next best one still shows what depends on free dimensions.
        return StaticShapes(ranked[0], ranked[1])
    return StaticShapes(ranked[0], _another_batch(model, overrides, ranked[0]))


def _another_batch(model: Model, overrides: Mapping[str, tuple[int, ...]], first: Shapes) -> Shapes:
    """A pass with another batch where the user fixed all shapes; the given pass if the model fits no other.

    Samples come in batches of any size, whatever the shape was.
    """
    free = {spec.name for spec in model.inputs if spec.dims and not isinstance(spec.dims[0], int)}
    grown = {name: (dims[0] + 1, *dims[1:]) if name in free else dims for name, dims in overrides.items() if dims}
    second = infer_shapes(model, input_dims(model.inputs, {**overrides, **grown}, 2, 64))
    return second if second.failed == first.failed else first
