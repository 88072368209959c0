"""The JSON form of a plan, which users may edit; `docs/plans.md` explains every key.

1. `onnxmerge_plan` is the version of the format; it is incremented whenever a key is removed or changes its meaning.
2. Every key but `onnxmerge_plan`, `groups`, and a group's `name` and `kept` may be omitted.
3. The checks here need no model: keys, types and finite numbers. `applying` checks the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxmerge.errors import UsageError
from onnxmerge.suggestions import did_you_mean

__all__ = ["VERSION", "from_text", "refused", "to_text"]

VERSION = 1
_KEY = "onnxmerge_plan"


def to_text(top: Mapping[str, object], groups: Sequence[Mapping[str, object]]) -> str:
    """A plan as JSON, one line per key, so that lists of channels are easy to read and compare.

    Args:
        top: The keys of the plan, in order; those without a value are omitted.
        groups: The keys of each group, likewise.
    """
    known = {_KEY: VERSION, **top}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in known.items() if value not in (None, {})]
    texts = ",\n".join(_group_text(entry) for entry in groups)
    listed = f"[\n{texts}\n  ]" if texts else "[]"
    return "\n".join(["{", *lines, f'  "groups": {listed}', "}\n"])


def _group_text(keys: Mapping[str, object]) -> str:
    lines = [f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in keys.items() if value is not None]
    return "\n".join(["    {", ",\n".join(lines), "    }"])


def from_text(text: str) -> dict[str, Any]:
    """Parse the JSON form of a plan.

    Returns:
        Its keys; the value of `groups` is a list of the keys of each group. All have the right type.

    Raises:
        UsageError: The text is not JSON, has another version, or a key is missing, unknown or of the wrong type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise refused(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise refused(str(error)) from error
    if not isinstance(data, dict) or _KEY not in data:
        raise refused(f"expected an object with the key {_KEY!r}; write a plan with --save-plan or Plan.save")
    version = data[_KEY]
    if version != VERSION or isinstance(version, bool):
        raise refused(f"{_KEY} is {version!r}, expected {VERSION}; plan again with this version of onnxmerge")
    _check(data, _PLAN_KEYS, ("groups",), "")
    for place, entry in enumerate(data["groups"], 1):
        named = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        where = f"group {entry['name']!r}: " if named else f"group number {place}: "
        if not isinstance(entry, dict):
            raise refused(f"{where}got {_shown(entry)}, expected an object with name and kept")
        _check(entry, _GROUP_KEYS, ("name", "kept"), where)
    return data


def refused(why: str) -> UsageError:
    """The error for a file that is no plan."""
    return UsageError(f"not a plan of onnxmerge: {why}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_Check = tuple[Callable[[Any], bool], str]


def _check(data: Mapping[str, Any], keys: Mapping[str, _Check], needed: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"; known are {', '.join(keys)}"
            raise refused(f"{where}unknown key {key!r}{hint}")
    for key in needed:
        if key not in data:
            raise refused(f"{where}the key {key!r} is missing")
    for key, value in data.items():
        holds, expected = keys[key]
        if not holds(value):
            raise refused(f"{where}{key} is {_shown(value)}, expected {expected}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(holds(each) for each in value)


def _word(value: object) -> bool:
    return isinstance(value, str)


def _term(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_whole, value[:2])) and _number(value[2])


def _reasons(value: object) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and isinstance(why, dict) for key, why in value.items())


_TEXT: _Check = (_word, "a string")
_FRACTION: _Check = (_number, "a number")
_INDICES: _Check = (_list_of(_whole), "a list of channel numbers")
_PLAN_KEYS: Mapping[str, _Check] = {
    _KEY: (_whole, "a whole number"),
    "of": _TEXT,
    "asked": _FRACTION,
    "reached": _FRACTION,
    "most": _FRACTION,
    "select": _TEXT,
    "compensate": _TEXT,
    "allocate": _TEXT,
    "fold_mean": (lambda value: isinstance(value, bool), "true or false"),
    "predicted": _FRACTION,
    "left_alone": (_reasons, "reasons by position of the group"),
    "importances": (lambda value: isinstance(value, dict), "an object"),
    "groups": (lambda value: isinstance(value, list), "a list of groups"),
}
_GROUP_KEYS: Mapping[str, _Check] = {
    "name": _TEXT,
    "position": (_whole, "a whole number"),
    "producers": (_list_of(_word), "a list of node names"),
    "size": (_whole, "a whole number"),
    "kept": (lambda value: _whole(value) or _INDICES[0](value), "a list of channel numbers, or how many stay"),
    "select": _TEXT,
    "compensate": _TEXT,
    "expressed": (_list_of(_term), "a list of [removed channel, kept channel, factor]"),
    "order": _INDICES,
    "note": _TEXT,
}
