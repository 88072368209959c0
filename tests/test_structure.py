"""The shape of the code, read from the syntax tree of each file.

1. No function takes more than eight parameters, `self` and `cls` aside, and none is longer than sixty lines; both but
   those of ``_api/``, whose keywords and docstrings are the public interface.
2. No file is longer than three hundred lines.
3. No module imports itself through others, imports inside functions included.

`test_layers` holds the order of the rooms.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

from tests.test_layers import FILES, PACKAGE, ROOT, imports_of

PARAMETERS, FUNCTION_LINES, FILE_LINES = 8, 60, 300
PUBLIC = "_api"


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return (
        len(names) - (names[:1] in (["self"], ["cls"])) + sum(each is not None for each in (given.vararg, given.kwarg))
    )


def broken(source: str, path: PurePosixPath) -> Iterator[str]:
    """What breaks a limit: one line each."""
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, expected at most {FILE_LINES}"
    if path.parts[0] == PUBLIC:
        return
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        count, length = _parameters(node), (node.end_lineno or node.lineno) - node.lineno + 1
        if count > PARAMETERS:
            yield f"{path}:{node.lineno}: {node.name} takes {count} parameters, expected at most {PARAMETERS}"
        if length > FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {length} lines, expected at most {FUNCTION_LINES}"


def module_of(path: PurePosixPath) -> str:
    """The dotted name of a file given relative to the package."""
    parts = path.parts[:-1] if path.name == "__init__.py" else (*path.parts[:-1], path.stem)
    return ".".join((PACKAGE, *parts))


def cycle(sources: Mapping[PurePosixPath, str]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty if there are none."""
    modules = {module_of(path) for path in sources}
    graph: dict[str, set[str]] = {}
    for path, source in sources.items():
        names = {name if name in modules else name.rpartition(".")[0] for _, name in imports_of(source, path)}
        graph[module_of(path)] = (names & modules) - {module_of(path)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def relative(file: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(ROOT).as_posix())


def test_functions_and_files_are_short() -> None:
    assert [line for file in FILES for line in broken(file.read_text(encoding="utf-8"), relative(file))] == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle({relative(file): file.read_text(encoding="utf-8") for file in FILES}) == []


MANY = ", ".join(f"p{number}" for number in range(PARAMETERS))
BODY = "    x = 0\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (f"def f({MANY}, more): ...", "takes 9 parameters"),
        (f"def f({MANY}, *, more): ...", "takes 9 parameters"),
        (f"def f({MANY}, **more): ...", "takes 9 parameters"),
        (f"class C:\n    def f(self, {MANY}, more): ...", "takes 9 parameters"),
        ("def f():\n" + BODY * FUNCTION_LINES, "has 61 lines"),
        ("async def f():\n" + BODY * FUNCTION_LINES, "has 61 lines"),
        ("def f():\n    def g():\n" + "        x = 0\n" * FUNCTION_LINES, "has 62 lines"),
        ("x = 0\n" * (FILE_LINES + 1), "301 lines"),
    ],
    ids=lambda value: value[:24].replace("\n", " ") if isinstance(value, str) else None,
)
def test_a_planted_violation_is_found(source: str, words: str) -> None:
    assert words in next(broken(source, PurePosixPath("plan/file.py")))


@pytest.mark.parametrize(
    "source",
    [
        f"def f({MANY}): ...",
        f"class C:\n    def f(self, {MANY}): ...",
        "def f():\n" + BODY * (FUNCTION_LINES - 1),
        "x = 0\n" * FILE_LINES,
    ],
    ids=["parameters", "self", "function", "file"],
)
def test_what_the_limits_allow_passes(source: str) -> None:
    assert list(broken(source, PurePosixPath("plan/file.py"))) == []


def test_the_public_interface_may_have_many_keywords() -> None:
    assert list(broken(f"def compress({MANY}, more): ...", PurePosixPath(PUBLIC, "cutting.py"))) == []


@pytest.mark.parametrize("inside", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_a_planted_cycle_is_found(inside: str) -> None:
    sources = {
        PurePosixPath("plan/one.py"): "from onnxmerge.plan.two import a",
        PurePosixPath("plan/two.py"): "from onnxmerge.plan import three",
        PurePosixPath("plan/three.py"): inside.format("from onnxmerge.plan.one import b"),
    }
    found = cycle(sources)
    assert found[0] == found[-1]
    assert set(found) == {f"onnxmerge.plan.{name}" for name in ("one", "two", "three")}
    assert cycle({path: source for path, source in sources.items() if path.stem != "three"}) == []
