"""Free lengths that are assumed are said, once, and only where nothing determines them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.graph.values import Dim, TensorSpec
from onnxmerge.pipeline.assumed_shapes import assumed_words
from tests.builders import Net

WORDS = "height and width of 'x' are free: 224x224 is assumed; give others with --shape x:1,3,H,W"


def network(*sides: int | str) -> onnx.ModelProto:
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input("N", 3, *(sides or ("H", "W"))), 3, 16, 3))
    net.output(net.conv(h, 16, 4))
    return net.model()


def test_an_inspection_says_what_it_assumes() -> None:
    assert WORDS in onnxmerge.inspect(network()).notes
    assert WORDS not in onnxmerge.inspect(network(), shapes={"x": (1, 3, 224, 224)}).notes
    assert not any("assumed" in note for note in onnxmerge.inspect(network(8, 8)).notes)


def test_a_compression_says_it_unless_samples_have_a_shape() -> None:
    assert WORDS in onnxmerge.compress(network(), 0.5, method="prune", verify=False).report.notes
    samples = np.zeros((8, 3, 16, 16), np.float32)
    result = onnxmerge.compress(network(), 0.5, method="prune", verify=False, data=samples)
    assert not any("assumed" in note for note in result.report.notes)


def test_a_comparison_says_it_once() -> None:
    assert onnxmerge.compare(network(), network()).notes.count(WORDS) == 1
    assert not any("assumed" in note for note in onnxmerge.compare(network(), network(16, 16)).notes)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ((("N", 3, 8, 8),), ""),
        (
            ((None, "H", "W", 3),),
            "height and width of 'x0' are free: 6x7 is assumed; give others with --shape x0:5,H,W,3",
        ),
        ((("N", 3, "H", 8),), "axis 2 of 'x0' is free: 6 is assumed; give others with --shape x0:5,3,H,8"),
        ((("N", "s + 1"),), "axis 1 of 'x0' is free: 6 is assumed; give others with --shape x0:5,?"),
        ((("N", "s"), ("N", "s")), "axis 1 of 'x0' is free: 6 is assumed; give others with --shape x0:5,s"),
        (
            (("N", "s"), ("N", "t")),
            "axis 1 of 'x0' is free: 6 is assumed; axis 1 of 'x1' is free: 6 is assumed; "
            "give others with --shape x0:5,s --shape x1:5,t",
        ),
        ((None, ()), ""),
        ((("N", "s", 3, "t"),), "axes 1 and 3 of 'x0' are free: 6x7 is assumed; give others with --shape x0:5,s,3,t"),
    ],
)
def test_words(declared: tuple[tuple[Dim, ...] | None, ...], words: str) -> None:
    inputs = [TensorSpec(f"x{i}", "float32", dims) for i, dims in enumerate(declared)]
    shapes = {}
    for spec in inputs:
        waiting = iter((6, 7))
        dims = enumerate(spec.dims or ())
        shapes[spec.name] = tuple(n if isinstance(n, int) else next(waiting) if axis else 5 for axis, n in dims)
    assert assumed_words(inputs, shapes, {}) == words


def test_a_length_that_the_shape_of_another_input_sets_is_not_assumed() -> None:
    inputs = [TensorSpec(name, "int64", ("N", "s")) for name in ("ids", "mask")]
    assert assumed_words(inputs, {"ids": (1, 9), "mask": (1, 9)}, {"mask": (1, 9)}) == ""


def test_many_inputs_are_not_all_named() -> None:
    inputs = [TensorSpec(f"x{i}", "float32", ("N", f"s{i}")) for i in range(9)]
    words = assumed_words(inputs, {spec.name: (1, 2) for spec in inputs}, {})
    assert "x2" in words
    assert "x3" not in words
    assert words.endswith("--shape x2:1,s2 …")
