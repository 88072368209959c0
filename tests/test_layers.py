"""Imports point one way: every module of the package imports only from its left, and four libraries have one owner.

The law, checked on the syntax tree of each file, imports inside functions and under ``TYPE_CHECKING`` included:

1. A room imports from itself and from rooms that stand before it in ``ORDER``.
2. ``onnx`` belongs to graph/, ``onnxruntime`` to runtime/, ``click`` to cli/, ``torch`` to training/ and
   recover/, ``dask`` to fleet/, the tools that onnxmerge runs inside of to integrations/.
3. decompose/ knows no ONNX: beside the standard library only numpy, scipy, errors and itself.
4. training/ is a leaf: of onnxmerge it imports errors and itself, and nothing imports it.
5. A new room has to be given a place in ``ORDER``.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = "onnxmerge"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

ORDER = (
    "_version",
    "errors",
    "suggestions",
    "writing",
    "graph",
    "samples",
    "channels",
    "runtime",
    "cost",
    "network",
    "decompose",
    "signals",
    "apply",
    "methods",
    "plan",
    "verify",
    "recover",  # its modules, but not itself, import torch, which is optional
    "report",
    "pipeline",
    "_api",
    "__init__",  # the public names: `from onnxmerge import compress`
    "fleet",
    "cli",
    "__main__",
    "integrations",  # other tools' sides; nothing imports it, and what it imports is optional
    "training",  # last, so that nothing may import it
)
OWNERS = {
    "onnx": "graph",
    "onnx_graphsurgeon": "graph",
    "onnxruntime": "runtime",
    "torch": "training",
    "click": "cli",
    "click_default_group": "cli",
    "dask": "fleet",
    "distributed": "fleet",
    "onnx_ir": "integrations",
    "olive": "integrations",
    "optimum": "integrations",
}
SHARED = frozenset({("torch", "recover")})
ALONE = frozenset({"decompose", "training"})
DECOMPOSE_MAY = frozenset({"numpy", "scipy"})


def room_of(path: PurePosixPath) -> str:
    """The room of a file given relative to the package: ``channels/rules/conv.py`` is in ``channels``."""
    return path.parts[0].removesuffix(".py")


def imports_of(source: str, path: PurePosixPath) -> list[tuple[int, str]]:
    """Line and dotted name of everything a file imports; ``from a import b`` counts as ``a.b``."""
    package = (PACKAGE, *path.parts[:-1])
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{prefix}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in {"__import__", "import_module", "importlib.import_module"}:
                found.append((node.lineno, str(node.args[0].value)))
    return found


def violations(source: str, path: PurePosixPath) -> list[str]:
    """One line for each import of a file that breaks the law; empty where the file keeps it."""
    room = room_of(path)
    if room not in ORDER:
        return [f"{path}: no place in ORDER for {room!r}; add it to tests/test_layers.py where it belongs"]
    broken = []
    for line, name in imports_of(source, path):
        top, _, rest = name.partition(".")
        if top == PACKAGE:
            first = rest.split(".")[0]
            target = first if first in ORDER or (ROOT / first).is_dir() else "__init__"
            if target not in ORDER or ORDER.index(target) > ORDER.index(room):
                broken.append(f"{path}:{line}: {room} imports {name}, which is not to its left")
            elif room in ALONE and target not in {room, "errors"}:
                broken.append(f"{path}:{line}: {room} imports {name}, expected only errors and itself")
        elif OWNERS.get(top, room) != room and (top, room) not in SHARED:
            broken.append(f"{path}:{line}: {room} imports {name}, which belongs to {OWNERS[top]}")
        elif room == "decompose" and top not in DECOMPOSE_MAY and top not in sys.stdlib_module_names:
            broken.append(f"{path}:{line}: decompose imports {name}, expected only numpy and scipy")
    return broken


FILES = sorted(ROOT.rglob("*.py"))


def test_the_package_is_found() -> None:
    assert ROOT / "errors.py" in FILES
    assert ROOT / "graph" / "values.py" in FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_point_one_way(file: Path) -> None:
    assert violations(file.read_text(encoding="utf-8"), PurePosixPath(file.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("graph/load.py", "from onnxmerge.channels.groups import Group"),
        ("graph/load.py", "from onnxmerge import channels"),
        ("graph/load.py", "import onnxmerge.pipeline"),
        ("graph/load.py", "import onnxmerge"),
        ("graph/load.py", "from onnxmerge import __version__"),
        ("graph/load.py", "from onnxmerge import compress"),
        ("graph/load.py", "from ..plan import Plan"),
        ("errors.py", "from onnxmerge.graph.values import TensorSpec"),
        ("errors.py", "from . import graph"),
        ("channels/rules/conv.py", "import onnx"),
        ("channels/rules/conv.py", "import onnx.helper as oh"),
        ("channels/rules/conv.py", "from onnx import numpy_helper"),
        ("channels/rules/conv.py", "from ...apply.cut import cut"),
        ("samples/load.py", "def f():\n    import onnx"),
        ("samples/load.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnxruntime"),
        ("graph/run.py", "import onnxruntime as ort"),
        ("graph/run.py", "import importlib\nort = importlib.import_module('onnxruntime')"),
        ("graph/edit.py", "from click import echo"),
        ("decompose/refit.py", "from onnxmerge.graph.values import TensorSpec"),
        ("decompose/refit.py", "import rich"),
        ("pipeline.py", "from onnxmerge.cli import main"),
        ("graph/load.py", "import torch"),
        ("decompose/refit.py", "from torch import nn"),
        ("pipeline/run.py", "def f():\n    import torch.nn"),
        ("pipeline/run.py", "from onnxmerge.training import plain"),
        ("__init__.py", "from onnxmerge import training"),
        ("cli.py", "import onnxmerge.training.convert"),
        ("training/export.py", "from onnxmerge.graph.save import save"),
        ("training/export.py", "from onnxmerge import compress"),
        ("training/export.py", "import onnx"),
        ("pipeline/run.py", "from onnxmerge.fleet.store import Store"),
        ("pipeline/run.py", "from onnxmerge.integrations import graphsurgeon"),
        ("cli/fleet.py", "import distributed"),
        ("cli/commands.py", "from onnxmerge.integrations.ir import CompressPass"),
        ("integrations/ir.py", "import onnx"),
        ("recover/network.py", "from onnxmerge.pipeline import compress"),
        ("new_room/file.py", "import numpy"),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str) -> None:
    assert len(violations(source, PurePosixPath(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("channels/rules/conv.py", "from onnxmerge.graph.values import TensorSpec\nfrom ..groups import Group"),
        ("channels/rules/conv.py", "from onnxmerge.channels.groups import Group\nimport numpy as np"),
        ("graph/load.py", "import onnx\nimport onnx_graphsurgeon\nfrom onnxmerge import errors"),
        ("runtime/session.py", "def f():\n    import onnxruntime"),
        (
            "decompose/refit.py",
            "import math\nimport scipy.linalg\nfrom onnxmerge.errors import UsageError",
        ),
        ("report/json.py", "from onnxmerge._version import __version__"),
        ("cli/commands.py", "import click\nfrom onnxmerge import compress"),
        ("__init__.py", "from onnxmerge.pipeline import compress"),
        ("cli/fleet.py", "def f():\n    from onnxmerge.fleet import run"),
        ("fleet/run.py", "import distributed\nfrom onnxmerge import compress"),
        ("integrations/ir.py", "import onnx_ir\nfrom onnxmerge import compress"),
        ("recover/network.py", "import torch\nfrom onnxmerge.graph import Model"),
        ("training/export.py", "import torch\nfrom onnxmerge.errors import UsageError"),
        ("training/export.py", "from torch import nn\nfrom onnxmerge.training.convert import plain"),
    ],
)
def test_what_the_law_allows_passes(path: str, source: str) -> None:
    assert violations(source, PurePosixPath(path)) == []
