"""Operators that rearrange elements. Shapes, axes and sizes are NumPy arrays: they are known before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnxmerge.graph import Node

__all__ = [
    "concat",
    "depth_to_space",
    "expand",
    "flatten",
    "gather",
    "integers",
    "pad",
    "reshape",
    "resize",
    "slices",
    "split",
    "squeeze",
    "transpose",
    "unsqueeze",
]

Array = NDArray[Any]

_FLOOR = frozenset(
    {
        ("asymmetric", "floor"),
        *(
            (mode, kind)
            for mode in ("half_pixel", "pytorch_half_pixel")
            for kind in ("round_prefer_floor", "round_prefer_ceil")
        ),
    }
)
"""Pairs of coordinate_transformation_mode and nearest_mode that repeat each element by whole factors, as torch does."""


def integers(array: Array) -> list[int]:
    """A shape, axes or sizes as a list."""
    return [int(each) for each in np.atleast_1d(array)]


def reshape(node: Node, x: Tensor, shape: Array) -> Tensor:
    """Reshape."""
    lengths = integers(shape)
    if not node.attributes.get("allowzero", 0):
        lengths = [x.shape[axis] if length == 0 else length for axis, length in enumerate(lengths)]
    return x.reshape(lengths)


def flatten(node: Node, x: Tensor) -> Tensor:
    """Flatten."""
    axis = int(node.attributes.get("axis", 1))
    axis += x.dim() if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def transpose(node: Node, x: Tensor) -> Tensor:
    """Transpose."""
    return x.permute(list(node.attributes.get("perm", range(x.dim() - 1, -1, -1))))


def concat(node: Node, *parts: Tensor) -> Tensor:
    """Concat."""
    return torch.cat(parts, int(node.attributes["axis"]))


def split(node: Node, x: Tensor, lengths: Array | None = None) -> tuple[Tensor, ...]:
    """Split."""
    axis, given = int(node.attributes.get("axis", 0)), node.attributes.get("split")
    sizes = integers(lengths) if lengths is not None else given
    return tuple(x.split(list(sizes) if sizes else -(-x.shape[axis] // len(node.outputs)), axis))


def squeeze(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
    """Squeeze."""
    given = integers(axes) if axes is not None else node.attributes.get("axes")
    return x.squeeze(tuple(given)) if given else x.squeeze()


def unsqueeze(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
    """Unsqueeze."""
    given = integers(axes) if axes is not None else list(node.attributes["axes"])
    rank = x.dim() + len(given)
    for axis in sorted(each % rank for each in given):
        x = x.unsqueeze(axis)
    return x


def expand(_: Node, x: Tensor, shape: Array) -> Tensor:
    """Expand."""
    return x.expand(torch.broadcast_shapes(x.shape, integers(shape)))


def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Gather."""
    axis = int(node.attributes.get("axis", 0)) % x.dim()
    flat = indices.reshape(-1).long() % x.shape[axis]
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def slices(
    node: Node,
    x: Tensor,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Tensor:
    """Slice."""
    first, last = _either(starts, node, "starts"), _either(ends, node, "ends")
    along = integers(axes) if axes is not None else list(node.attributes.get("axes", range(len(first))))
    by = [1] * len(first) if steps is None else integers(steps)
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        positions = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64))
    return x


def _either(array: Array | None, node: Node, name: str) -> list[int]:
    return integers(array) if array is not None else list(node.attributes[name])


def pad(
    node: Node, x: Tensor, pads: Array | None = None, value: Array | None = None, axes: Array | None = None
) -> Tensor:
    """Pad with a constant.

    Raises:
        NotImplementedError: Another mode.
    """
    if node.attributes.get("mode", "constant") != "constant":
        raise NotImplementedError(f"mode is {node.attributes['mode']}")
    given, rank = _either(pads, node, "pads"), x.dim()
    along = range(rank) if axes is None else [axis % rank for axis in integers(axes)]
    sides = {axis: (given[place], given[len(given) // 2 + place]) for place, axis in enumerate(along)}
    order = [each for axis in reversed(range(rank)) for each in sides.get(axis, (0, 0))]
    filling = node.attributes.get("value", 0.0) if value is None else float(np.asarray(value).reshape(-1)[0])
    return functional.pad(x, order, value=filling)


def resize(node: Node, x: Tensor, *given: Array | None) -> Tensor:
    """Resize and Upsample of spatial axes by whole factors, to the nearest element.

    Raises:
        NotImplementedError: Any other.
    """
    if node.attributes.get("mode", "nearest") != "nearest":
        raise NotImplementedError(f"mode is {node.attributes['mode']}")
    if node.op == "Resize" and node.version >= 11:
        _check_nearest(node)
    scales, sizes = _sizes(node, given)
    lengths = sizes or [int(np.floor(length * scale)) for length, scale in zip(x.shape, scales, strict=True)]
    if lengths[:2] != list(x.shape[:2]) or any(new % old for new, old in zip(lengths, x.shape, strict=True)):
        raise NotImplementedError("it does not scale spatial axes by whole factors")
    return functional.interpolate(x, size=lengths[2:], mode="nearest")


def _check_nearest(node: Node) -> None:
    """Refuse attributes, which Resize has from opset 11 on, that torch has no equivalent of."""
    coordinates = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    nearest = node.attributes.get("nearest_mode", "round_prefer_floor")
    if (coordinates, nearest) not in _FLOOR:
        raise NotImplementedError(f"coordinate_transformation_mode is {coordinates} and nearest_mode is {nearest}")
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError(f"keep_aspect_ratio_policy is {node.attributes['keep_aspect_ratio_policy']}")


def _sizes(node: Node, given: Sequence[Array | None]) -> tuple[list[float], list[int]]:
    """Scales and sizes; either is empty."""
    if node.op == "Upsample" or node.version < 11:
        scales = node.attributes["scales"] if not given or given[0] is None else given[0]
        return [float(each) for each in scales], []
    scales = given[1] if len(given) > 1 and given[1] is not None else ()
    sizes = given[2] if len(given) > 2 and given[2] is not None else ()
    return [float(each) for each in scales], [int(each) for each in sizes]


def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """DepthToSpace in either mode."""
    size = int(node.attributes["blocksize"])
    batch, depth, height, width = x.shape
    if node.attributes.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, size)
    x = x.reshape(batch, size, size, depth // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, depth // size**2, height * size, width * size)
