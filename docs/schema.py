"""Writes the JSON Schema of the reports that `--json` makes, from the dataclasses that they are made of.

    python docs/schema.py [--check]

The schema is written twice, as `docs/report-schema-1.json` and inside the package, for programs that have only that.
`--check` writes nothing and fails where a file is not what the code says. Texts are those of the docstrings.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxmerge.report.data import LEFT_OUT, SCHEMA
from onnxmerge.report.entries import PinnedEntry
from onnxmerge.report.model import Account, Inspection, SideBySide, Tradeoff
from onnxmerge.report.quantization import Quantization
from onnxmerge.writing import write_text

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (
    ROOT / "docs" / f"report-schema-{SCHEMA}.json",
    ROOT / "onnxmerge" / "report" / f"report-schema-{SCHEMA}.json",
)
KINDS = {
    "account": Account,
    "inspection": Inspection,
    "side_by_side": SideBySide,
    "tradeoff": Tradeoff,
    "quantization": Quantization,
}
TEXTS = {"type": "array", "items": {"type": "string"}}

Schema = dict[str, Any]


def schema() -> Schema:
    """The whole schema: one alternative for each kind of report."""
    definitions: dict[str, Schema] = {}
    kinds = []
    for kind, made in KINDS.items():
        _define(made, definitions)
        head = {"schema": {"const": SCHEMA, "description": "Version of this format."}, "kind": {"const": kind}}
        definition = definitions[made.__name__]
        definition["properties"] = {**head, **definition["properties"]}
        definition["required"] = [*head, *definition["required"]]
        kinds.append({"$ref": f"#/$defs/{made.__name__}"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:onnxmerge:report:{SCHEMA}",
        "title": "Report of onnxmerge",
        "description": "What --json writes. New fields may appear under the same version; a field that is removed or "
        "changes its meaning increments it. Numbers that are not finite are null.",
        "oneOf": kinds,
        "$defs": dict(sorted(definitions.items())),
    }


def _define(made: type, definitions: dict[str, Schema]) -> None:
    """Add the schema of a dataclass and of those that it holds."""
    if made.__name__ in definitions:
        return
    definitions[made.__name__] = {}
    hints, words = get_type_hints(made), _attributes(made.__doc__ or "")
    properties: dict[str, Schema] = {}
    required = []
    for field in dataclasses.fields(made):
        if field.name in LEFT_OUT:
            continue
        properties[field.name] = _of(hints[field.name], definitions)
        if field.name in words:
            properties[field.name] = {"description": words[field.name], **properties[field.name]}
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    if made is PinnedEntry:
        properties |= {"reasons": TEXTS, "fixes": TEXTS, "codes": TEXTS}
    first = (made.__doc__ or "").partition("\n\n")[0]
    definitions[made.__name__] = {
        "type": "object",
        "description": " ".join(first.split()),
        "properties": properties,
        "required": required,
    }


def _of(hint: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: ANN401 - a type
    """The schema of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        _define(hint, definitions)  # type: ignore[arg-type] # a class, not an instance
        return {"$ref": f"#/$defs/{hint.__name__}"}  # type: ignore[union-attr]
    if origin in (Union, types.UnionType):
        return _either([_of(argument, definitions) for argument in arguments])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = [_of(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (tuple, list) or (isinstance(origin, type) and issubclass(origin, (list, tuple))):
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    simple: dict[Any, Schema] = {
        str: {"type": "string"}, Path: {"type": "string"}, bool: {"type": "boolean"}, int: {"type": "integer"},
        float: {"type": ["number", "null"]}, type(None): {"type": "null"}, object: {},
    }  # fmt: skip
    return dict(simple[hint])


def _either(options: list[Schema]) -> Schema:
    """One of several schemas; plain types become a list of types."""
    if all(set(option) == {"type"} for option in options):
        names = [option["type"] if isinstance(option["type"], list) else [option["type"]] for option in options]
        return {"type": list(dict.fromkeys(name for each in names for name in each))}
    return {"anyOf": options}


def _attributes(doc: str) -> dict[str, str]:
    """The texts of a docstring's section Attributes, by name."""
    section = re.search(r"^\s*Attributes:\n(.*?)(?:\n\s*\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else []:
        started = re.match(r"\s{8}(\w+): (.*)", line)
        if started:
            name = started[1]
        found[name] = f"{found.get(name, '')} {started[2] if started else line.strip()}".strip()
    return {name: re.sub(r"\bNone\b", "null", words) for name, words in found.items()}


def text() -> str:
    """The schema as it is written."""
    return json.dumps(schema(), indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the files, or with ``--check`` compares them."""
    if arguments == ["--check"]:
        return 0 if all(target.read_text(encoding="utf-8") == text() for target in TARGETS) else 1
    for target in TARGETS:
        write_text(target, text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
