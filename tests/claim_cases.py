"""Graphs whose claims about scalings depend on a constant, a type, or a length of 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.builders import Net
from tests.operators import Case, chain, to_float

__all__ = ["MORE_CASES", "Middle", "number", "padded", "plane"]

Middle = Callable[[Net, str], str]


def plane(net: Net) -> str:
    """(2, 1, 4, 4): one channel that is stretched over all."""
    return net.conv("x", 3, 1, name="plane")


def number(net: Net) -> str:
    """A scalar that is computed while the network runs."""
    return net.add("ReduceMean", "x", keepdims=0)


def cast(net: Net, x: str, to: int = 7) -> str:
    return to_float(net, net.add("Cast", x, to=to))


def cast_like(net: Net, x: str) -> str:
    return to_float(net, net.add("CastLike", x, net.const(np.int32(0))))


def padded(net: Net, x: str, value: str = "", **attributes: Any) -> str:
    return net.add("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), *filter(None, [value]), **attributes)


def class_token(net: Net, x: str) -> str:
    """A constant in front of the places, as vision transformers have it."""
    return net.add("Concat", net.random(2, 6, 1, 4), x, axis=2)


def constant_channels(net: Net, x: str) -> str:
    """Constants among the channels, onto which others are added."""
    return net.add("Add", net.add("Concat", x, net.random(2, 3, 4, 4), axis=1), net.conv("x", 3, 9, name="second"))


def computed_length(net: Net) -> None:
    """Position embeddings, cut to the length of the input and added to it."""
    h = net.matmul(net.input(2, "T", 5), 5, 6, name="first")
    length = net.add("Slice", net.add("Shape", h), net.ints(1), net.ints(2))
    positions = net.add("Slice", net.random(1, 512, 6), net.ints(0), length, net.ints(1))
    net.output(net.matmul(net.add("Add", h, positions), 6, 4, name="last"), 3)


def expanded_constant(net: Net, x: str) -> str:
    return net.add("Add", x, net.add("Expand", net.random(6, 1, 1), net.add("Shape", net.conv("x", 3, 6))))


def sampled_by_a_signal(net: Net, x: str) -> str:
    grid = net.input(2, 4, 4, 2, name="grid")
    return net.add("GridSample", x, grid)


def cropped(net: Net, x: str) -> str:
    corners = net.const(np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32))
    settings: dict[str, Any] = {
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 7.0,
        "mode": "linear",
    }
    return net.add("Resize", x, corners, net.const(np.array([1, 1, 2, 2], np.float32)), **settings)


def mask_of_dropout(net: Net, x: str) -> str:
    kept, mask = net.many("Dropout", x, count=2)
    return net.add("Where", mask, kept, net.add("Neg", kept))


def trained_dropout(net: Net, x: str) -> str:
    return net.add("Dropout", x, net.const(np.float32(0.5)), net.const(np.bool_(True)))


def chosen(net: Net, x: str) -> str:
    numbers = (net.const(np.float32(2)), net.const(np.float32(3)))
    return net.add("Where", net.add("Less", x, number(net)), *numbers)


def scalars(op: str, *values: float) -> Middle:
    return lambda net, x: net.add(op, x, *(net.const(np.float32(value)) for value in values))


def more_cases() -> Iterator[Case]:
    for to in (6, 7, 9):
        yield Case("Cast", f"to type {to} and back", chain(lambda net, x, to=to: cast(net, x, to)))  # type: ignore[misc]
    yield Case("CastLike", "integers", chain(cast_like), opset=15)
    for op in ("Add", "Sub", "Sum", "Mean", "Mul", "Max", "Min", "Div", "PRelu"):
        yield Case(op, "one channel for all", chain(lambda net, x, op=op: net.add(op, x, plane(net))))  # type: ignore[misc]
        yield Case(op, "one number for all", chain(lambda net, x, op=op: net.add(op, x, number(net))))  # type: ignore[misc]
    for op in ("Mul", "Div", "Add", "Sub", "Max", "Min", "Pow"):
        for value in (2.5, 0.0, -1.5):
            if (op, value) != ("Div", 0.0):
                yield Case(op, f"by {value}", chain(scalars(op, value)))
    yield Case("Max", "0 and 1", chain(scalars("Max", 0, 1)))
    yield Case("Min", "0 and -1", chain(scalars("Min", 0, -1)))
    yield Case("Where", "two numbers", chain(chosen))
    bounds = lambda net, x: net.add("Clip", x, number(net))  # noqa: E731
    yield Case("Clip", "a computed bound", chain(bounds))
    yield Case("Dropout", "mask that is read", chain(mask_of_dropout))
    yield Case("Dropout", "training", chain(trained_dropout))
    yield Case("Pad", "zeros", chain(lambda net, x: padded(net, x, net.const(np.float32(0)))))
    yield Case("Pad", "ones", chain(lambda net, x: padded(net, x, net.const(np.float32(1)))))
    yield Case("Pad", "a computed number", chain(lambda net, x: padded(net, x, number(net))))
    ones = lambda net, x: net.add("Pad", x, pads=[0, 0, 1, 0, 0, 0, 1, 0], value=1.0)  # noqa: E731
    yield Case("Pad", "attribute, ones", chain(ones), opset=10)
    yield Case("Pad", "edge", chain(lambda net, x: padded(net, x, net.const(np.float32(1)), mode="edge")))
    yield Case("Concat", "a constant along space", chain(class_token))
    yield Case("Concat", "a constant among the channels", chain(constant_channels, 9))
    yield Case("Slice", "a constant to a computed length", computed_length)
    yield Case("Expand", "a constant", chain(expanded_constant))
    yield Case("GridSample", "places that are a signal", chain(sampled_by_a_signal))
    yield Case("Resize", "cropped", chain(cropped), opset=13)
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for op in ("AveragePool", "MaxPool", "LpPool"):
        yield Case(op, "padded", chain(lambda net, x, op=op: net.add(op, x, **pads)))  # type: ignore[misc]
    counted = lambda net, x: net.add("AveragePool", x, count_include_pad=1, **pads)  # noqa: E731
    yield Case("AveragePool", "padded, counted", chain(counted))
    cubic = lambda net, x: net.add("Resize", x, "", net.const(np.array([1, 1, 2, 2], np.float32)), mode="cubic")  # noqa: E731
    yield Case("Resize", "cubic", chain(cubic), opset=13)


MORE_CASES = tuple(more_cases())
