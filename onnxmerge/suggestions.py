"""What someone may have meant by a word that is none of the known ones, and how to install what is missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "installing", "nearest"]

_LIKENESS = 0.6
"""Least likeness of what is suggested, as ``difflib`` counts it; its own default."""


def nearest(word: str, names: Iterable[str], most: int = 1) -> list[str]:
    """The names most like a word, best first; of equals the first.

    Case does not count, and names of nodes are compared part by part as well: who looks for ``conv1x`` may mean
    ``/stage1/conv1/Conv``.

    Example:
        >>> nearest("conv1x", ["/stage1/conv1/Conv", "/stage1/conv2/Conv", "/fc/Gemm"])
        ['/stage1/conv1/Conv']
    """
    likeness = {name: _likeness(word.lower(), name.lower()) for name in names}
    ranked = sorted((name for name in likeness if likeness[name] >= _LIKENESS), key=lambda name: -likeness[name])
    return ranked[:most]


def did_you_mean(word: str, names: Iterable[str], most: int = 1) -> str:
    """The end of a message: a question with what is nearest, or nothing.

    Example:
        >>> did_you_mean("--raito", ["--data", "--ratio"]), did_you_mean("x", ["--ratio"])
        ("; did you mean '--ratio'?", '')
    """
    found = nearest(word, names, most)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def installing(extra: str) -> str:
    """The commands that install an extra.

    Example:
        >>> print(installing("text"))
        pip install ".[text]" in a checkout, or pip install "onnxmerge[text]"
    """
    return f'pip install ".[{extra}]" in a checkout, or pip install "onnxmerge[{extra}]"'


def _likeness(word: str, name: str) -> float:
    parts = [name, *(part for part in name.split("/") if part)]
    return max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts)
