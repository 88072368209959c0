"""The JSON form of a plan, which users may edit; `docs/plans.md` explains every key.

1. `onnxmerge_plan` is the version of the format; it is incremented whenever a key is removed or changes its meaning.
2. Every key but `onnxmerge_plan`, `groups`, and a group's `name` and `kept` may be omitted.
3. The checks here need no model: keys, types and finite numbers. `applying` checks the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from onnxmerge.channels.reasons import Reason
from onnxmerge.errors import UsageError
from onnxmerge.plan.batchnorm_threshold import Importances
from onnxmerge.plan.plan import GroupPlan, Plan
from onnxmerge.suggestions import did_you_mean

__all__ = ["VERSION", "from_text", "to_text"]

VERSION = 1
_KEY = "onnxmerge_plan"


def to_text(plan: Plan) -> str:
    """A plan as JSON, one line per key, so that lists of channels are easy to read and compare."""
    top: dict[str, object] = {
        _KEY: VERSION,
        "of": plan.of,
        "asked": plan.asked,
        "reached": plan.reached,
        "most": plan.most,
        "select": plan.select,
        "compensate": plan.compensate,
        "allocate": plan.allocate,
        "fold_mean": plan.fold_mean,
        "predicted": plan.predicted,
        "left_alone": {str(position): _reason_fields(why) for position, why in plan.left_alone.items()},
        "importances": None if plan.importances is None else asdict(plan.importances),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in top.items() if value not in (None, {})]
    groups = ",\n".join(_group_text(entry) for entry in plan.groups)
    listed = f"[\n{groups}\n  ]" if groups else "[]"
    return "\n".join(["{", *lines, f'  "groups": {listed}', "}\n"])


def _group_text(entry: GroupPlan) -> str:
    terms = [list(term) for term in zip(entry.removed, entry.target, entry.factor, strict=True)]
    keys: dict[str, object] = {
        "name": entry.name,
        "position": entry.group if entry.group >= 0 else None,
        "producers": list(entry.producers) or None,
        "size": entry.size or None,
        "kept": list(entry.kept) if entry.count is None else entry.count,
        "select": entry.select or None,
        "compensate": entry.compensate or None,
        "expressed": terms or None,
        "order": list(entry.order) or None,
        "note": entry.note or None,
    }
    lines = [f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in keys.items() if value is not None]
    return "\n".join(["    {", ",\n".join(lines), "    }"])


def from_text(text: str) -> Plan:
    """Parse the JSON form of a plan.

    Raises:
        UsageError: The text is not JSON, has another version, or a key is missing, unknown or of the wrong type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise _refused(str(error)) from error
    if not isinstance(data, dict) or _KEY not in data:
        raise _refused(f"expected an object with the key {_KEY!r}; write a plan with --save-plan or Plan.save")
    version = data[_KEY]
    if version != VERSION or isinstance(version, bool):
        raise _refused(f"{_KEY} is {version!r}, expected {VERSION}; plan again with this version of onnxmerge")
    _check(data, _PLAN_KEYS, ("groups",), "")
    return Plan(
        of=data.get("of", "macs"),
        asked=float(data.get("asked", 0.0)),
        reached=float(data.get("reached", 0.0)),
        most=float(data.get("most", 0.0)),
        allocate=data.get("allocate", "auto"),
        fold_mean=data.get("fold_mean", True),
        groups=tuple(_group(entry, place) for place, entry in enumerate(data["groups"], 1)),
        left_alone=_left_alone(data.get("left_alone", {})),
        predicted=data.get("predicted"),
        importances=_importances(data.get("importances")),
        select=data.get("select", ""),
        compensate=data.get("compensate", ""),
    )


def _group(entry: object, place: int) -> GroupPlan:
    named = isinstance(entry, dict) and isinstance(entry.get("name"), str)
    where = f"group {entry['name']!r}: " if named and isinstance(entry, dict) else f"group number {place}: "
    if not isinstance(entry, dict):
        raise _refused(f"{where}got {_shown(entry)}, expected an object with name and kept")
    _check(entry, _GROUP_KEYS, ("name", "kept"), where)
    terms, kept = entry.get("expressed", []), entry["kept"]
    compensate = entry.get("compensate", "")
    return GroupPlan(
        group=entry.get("position", -1),
        name=entry["name"],
        size=entry.get("size", 0),
        kept=tuple(kept) if isinstance(kept, list) else (),
        removed=tuple(term[0] for term in terms),
        target=tuple(term[1] for term in terms),
        factor=tuple(float(term[2]) for term in terms),
        averages=compensate == "fold" and bool(terms),
        select=entry.get("select", ""),
        compensate=compensate,
        note=entry.get("note", ""),
        producers=tuple(entry.get("producers", ())),
        order=tuple(entry.get("order", ())),
        count=None if isinstance(kept, list) else kept,
    )


def _importances(data: Mapping[str, Any] | None) -> Importances | None:
    try:
        return None if data is None else Importances.of(data)
    except TypeError as error:
        raise _refused(f"importances: {error}; leave the key out") from error


def _reason_fields(reason: Reason) -> dict[str, object]:
    return {key: value for key, value in asdict(reason).items() if value not in (None, "", ())}


def _left_alone(data: Mapping[str, Any]) -> dict[int, Reason]:
    try:
        return {int(position): Reason.of(fields) for position, fields in data.items()}
    except (TypeError, ValueError) as error:
        raise _refused(f"left_alone: {error}; leave the key out") from error


def _refused(why: str) -> UsageError:
    return UsageError(f"not a plan of onnxmerge: {why}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_Check = tuple[Callable[[Any], bool], str]


def _check(data: Mapping[str, Any], keys: Mapping[str, _Check], needed: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"; known are {', '.join(keys)}"
            raise _refused(f"{where}unknown key {key!r}{hint}")
    for key in needed:
        if key not in data:
            raise _refused(f"{where}the key {key!r} is missing")
    for key, value in data.items():
        holds, expected = keys[key]
        if not holds(value):
            raise _refused(f"{where}{key} is {_shown(value)}, expected {expected}")


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
