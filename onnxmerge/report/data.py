"""The report as data: JSON with a stable format for other programs.

1. ``schema`` is the version of this format; it is incremented whenever a field is removed or changes its meaning, but
   not for a new field. ``kind`` is account, inspection, side_by_side, tradeoff or quantization.
2. Fields keep the order and the names of the dataclasses in ``account``; mappings keep their own order. A pin has the
   messages of its ``reasons``, with one entry of ``fixes`` and ``codes`` for each.
3. Tuples are arrays. NaN and infinities, which JSON does not have, are null.
4. Large data used only for drawing is omitted: single timings (``times_ms``; the median and interval summarise them),
   pictures of samples, sensitivity at counts that were not chosen (``curve``, ``probed``), the nodes of a ``network``
   and the names for tables (``titles``; ``module`` has what they are made of).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxmerge.report.model import Account, Inspection, PinnedEntry, SideBySide, Tradeoff
from onnxmerge.report.quantization import Quantization

__all__ = ["SCHEMA", "to_json"]

SCHEMA = 1
"""Version of the JSON reports."""
LEFT_OUT = frozenset({"times_ms", "pictures", "curve", "probed", "network", "titles"})


def to_json(result: Account | Inspection | SideBySide | Tradeoff | Quantization) -> str:
    """A result as JSON text, ASCII only, with a line feed at the end.

    Args:
        result: What to write.

    Raises:
        TypeError: A value cannot be written as JSON, which is a bug in the code that made the result.
    """
    kinds = (
        (Account, "account"), (Inspection, "inspection"), (SideBySide, "side_by_side"), (Tradeoff, "tradeoff"),
        (Quantization, "quantization"),
    )  # fmt: skip
    kind = next(name for each, name in kinds if isinstance(result, each))
    fields = _plain(result)
    assembled = {"schema": SCHEMA, "kind": kind, **(fields if isinstance(fields, dict) else {})}
    return json.dumps(assembled, indent=2, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    """Dataclasses, mappings, sequences and NumPy scalars as what ``json`` knows."""
    if isinstance(value, PinnedEntry):
        return _pin(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name not in LEFT_OUT]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _pin(entry: PinnedEntry) -> dict[str, object]:
    """A pin with the messages of its reasons."""
    return {
        "name": entry.name,
        "size": entry.size,
        "total": entry.total,
        "reasons": list(entry.words),
        "fixes": list(entry.fixes),
        "place": entry.place,
        "codes": [reason.code for reason in entry.reasons],
        "module": entry.module,
        "macs_share": entry.macs_share,
    }
