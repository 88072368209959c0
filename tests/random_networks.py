"""Random networks out of all operators that have a rule: branches, joins, shared weights, several outputs.

A network starts with a contraction of its input and goes on with steps from `tests/random_steps.py`, each from one of
the signals that there are. First the kind of a step is drawn, then the step: contractions and layouts are few, and turn
up often enough that signals meet.
"""

from __future__ import annotations

import onnx
from hypothesis import strategies as st
from onnx import helper

from tests.builders import Net
from tests.random_steps import KINDS, Draw, Signal, Step, contracted, into

__all__ = ["OPSETS", "drawn", "drawn_around"]

OPSETS = (9, 10, 12, 13, 18, 21, 24)
"""One for each form in which operators take their sizes; 9 is the last with Upsample, 24 the first with Swish."""

LIKELY = tuple(kind for kind, times in zip(KINDS, (1, 1, 2, 2, 1), strict=True) for _ in range(times))
"""Contractions and layouts twice as often as the other kinds."""


def started(data: st.DataObject, opset: int) -> Draw:
    """A network of one layer."""
    draw = Draw(data, Net(seed=data.draw(st.integers(0, 999)), opset=opset))
    batch = draw.choice([2, "N"])
    if draw.number(0, 3) == 0:
        x = Signal(draw.net.input(batch, 4, 3), (4, 3), 2)
    else:
        x = Signal(draw.net.input(batch, 3, 5, 4), (3, 5, 4), 1)
    draw.pool.append(contracted(draw, x, draw.number(2, 7)))
    return draw


def finish(draw: Draw, signal: Signal, *, whole: bool = False) -> None:
    """Make a signal, or a contraction of it, an output with its shape declared."""
    taken = {value.name for value in draw.net.outputs}
    signal = signal if whole and signal.name not in taken else contracted(draw, signal, draw.number(1, 4))
    batch = draw.net.inputs[0].type.tensor_type.shape.dim[0]
    dims = [batch.dim_param or batch.dim_value, *signal.shape]
    draw.net.outputs.append(helper.make_tensor_value_info(signal.name, onnx.TensorProto.FLOAT, dims))


def drawn(data: st.DataObject) -> onnx.ModelProto:
    """One network, with the choices of a hypothesis test."""
    draw = started(data, data.draw(st.sampled_from(OPSETS)))
    for _ in range(draw.number(2, 9)):
        signal = draw.pool[-1] if draw.number(0, 2) else draw.choice(draw.pool)
        fitting = [step for step in draw.choice(LIKELY) if step.fits(signal, draw.net.opset)]
        if fitting:
            draw.pool.append(draw.choice(fitting).build(draw, signal))
    finish(draw, draw.pool[-1], whole=draw.number(0, 4) == 4)
    for _ in range(draw.number(0, 2)):
        finish(draw, draw.choice(draw.pool), whole=draw.number(0, 3) == 3)
    return draw.net.model()


def drawn_around(data: st.DataObject, step: Step, opset: int) -> onnx.ModelProto:
    """A network of little more than one step."""
    draw = started(data, opset)
    signal = draw.pool[-1]
    form = signal.form if signal.form in step.forms else step.forms[0]
    finish(draw, step.build(draw, into(draw, signal, form)))
    return draw.net.model()
