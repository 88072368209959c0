"""What a person can do about a pin: the one table from the reasons that rules give to advice.

A reason is matched whole, then without the node that it names first. The first entry that fits is taken. Reasons
without advice say it themselves, or hold for any tool: a softmax over channels does need them all.
"""

from __future__ import annotations

import re

__all__ = ["FIXES", "fix_of"]

_FIXED_LENGTH = "if the model always runs at one length, say so: --shape NAME:1,3,224,224"
_OPEN_SIZES = "export with fixed sizes, or fold constants (onnxsim), so that these numbers stand in the file"
_EXPORT_AGAIN = "the file contradicts itself: export it again"
_NONE = ""

FIXES: tuple[tuple[str, str], ...] = (
    (r"graph output ", "where another network reads this result, export both as one, and these channels can go too"),
    (r"graph input ", _NONE),
    (r".* is read by a subgraph$|\S+ has a subgraph$", "export for one case, so that no If, Loop or Scan is left"),
    (r"the shapes around .* could not be inferred$", f"{_FIXED_LENGTH}, or fold constants (onnxsim)"),
    (r"the shapes around .* contradict each other$", _EXPORT_AGAIN),
    (r".* mixes it with an axis of free length$|axis \d+ of .* has no fixed length$", _FIXED_LENGTH),
    (r".* computed while the network runs$|Slice whose bounds could not be followed$", _OPEN_SIZES),
    (r"\S+ of opset \d+ has no rule$", "convert the model to a newer opset (onnx.version_converter)"),
    (r".*; quantize after cutting$", _NONE),
    (r"\S+ with one scale a block$", "cut the float model, then quantize the result"),
    (r"\S+ (has no CPU implementation|keeps several heads packed)", "export without fused operators"),
    (r"Attention with heads packed|\S+ of packed heads", "export with an axis of heads: (batch, heads, tokens, width)"),
    (r"Attention (with a cache|of \S+ heads)", "export without the cache, with as many heads for keys as for queries"),
    (r"\S+ has no rule$", "teach it the operator: docs/adding-an-operator.md"),
    (r"Einsum ", "write it as MatMul and Transpose, and export again"),
    (r"\S+ with the batch first$", "export with layout 0, (sequence, batch, input)"),
    (r"\S+ mixes it with other axes ", "export without this step, if what reads the result can take it"),
    (r"\S+ from .* which hold unequally many elements$|\S+ whose weight does not fit", _EXPORT_AGAIN),
    (r"\S+ returns positions$", "export without the positions, if nobody reads them"),
    (r"\S+ with a vector$|\S+ of a vector$|\S+ of an empty tensor$", _NONE),
    (r"(spatial axis|time or batch|hidden state|tokens|place|grid|angles) of |(resampled|made) by ", _NONE),
    (r"convolution in \d+ groups$|Slice with step |\S+ turns pairs of elements of it$", _NONE),
    (r"\S+ (takes its statistics over|mixes|over (the channels|it)$|numbers the channels)", _NONE),
    (r"Gather picks |\S+ works along it", _NONE),
)  # fmt: skip
"""Pattern of a reason, what to do about it."""

_COMPILED = tuple((re.compile(pattern), fix) for pattern, fix in FIXES)


def fix_of(reason: str) -> str | None:
    """Advice on a reason.

    Args:
        reason: As a rule gives it, or with the node in front: ``node: reason``.

    Returns:
        What to do, "" where the reason says it or nothing helps, None where no entry fits.

    Example:
        >>> fix_of("/head/Reshape: Reshape mixes it with an axis of free length")
        'if the model always runs at one length, say so: --shape NAME:1,3,224,224'
        >>> fix_of("the moon is full")
    """
    for words in (reason, reason.rpartition(": ")[2]):
        for pattern, fix in _COMPILED:
            if pattern.match(words):
                return fix
    return None
