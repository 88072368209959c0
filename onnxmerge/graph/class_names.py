"""What a model's own metadata say its classes are called."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from onnxmerge.graph.model import Model

__all__ = ["class_numbers"]

_KEY = "names"
"""Ultralytics' exporter writes ``{0: 'person', 1: 'bicycle'}``, as Python prints it; JSON and lists are read too."""


def class_numbers(model: Model) -> Mapping[str, int]:
    """Class number by class name; empty where the model says nothing, or not in a form that is sure."""
    text = next((entry.value for entry in model.proto.metadata_props if entry.key == _KEY), "")
    try:
        named = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # a TypeError: a list as a key
        return {}
    if isinstance(named, (list, tuple)):
        named = dict(enumerate(named))
    if not isinstance(named, dict):
        return {}
    numbers = {name: _number(key) for key, name in named.items() if isinstance(name, str)}
    sure = len(numbers) == len(named) and None not in numbers.values()
    return {name: number for name, number in numbers.items() if number is not None} if sure else {}


def _number(key: object) -> int | None:
    if isinstance(key, str) and key.isdecimal():
        return int(key)
    return key if isinstance(key, int) and not isinstance(key, bool) and key >= 0 else None
