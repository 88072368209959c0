"""Words of other tools: shapes are read, the rest is answered with our own word; every row of the table is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import onnx
import pytest
from onnx import parser

from onnxmerge.cli import cli, main, values
from onnxmerge.cli.other_tools import HABITS, loose_advice, named, option_advice
from onnxmerge.cli.sections import takes
from onnxmerge.errors import UsageError

TABLE = Path(__file__).parents[2] / "docs" / "conventions.md"
ROW = re.compile(r"^\| `onnxmerge (?P<typed>[^`]*)` \| [^|]+ \| (?:`(?P<answer>[^`]+)`|works) \|$", re.MULTILINE)
ROWS = [(row["typed"], row["answer"]) for row in ROW.finditer(TABLE.read_text(encoding="utf-8"))]

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, H, W] x) => (float[N, 4, H, W] y)
<float[6, 3, 1, 1] a = {A}, float[4, 6, 1, 1] b = {B}>
{
    h = Conv (x, a)
    r = Relu (h)
    y = Conv (r, b)
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    numbers = {"{A}": 18, "{B}": 24}
    text = TEXT
    for word, count in numbers.items():
        text = text.replace(word, "{" + ", ".join(f"{(7 * i) % 11 - 5}.0" for i in range(count)) + "}")
    path = tmp_path_factory.mktemp("models") / "in.onnx"
    onnx.save(parser.parse_model(text), path)
    return path


def test_the_table_is_read() -> None:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `onnxmerge ")]
    assert len(ROWS) == len(lines) > 30
    assert sum(answer is None for _, answer in ROWS) == sum(line.endswith("| works |") for line in lines)


@pytest.mark.parametrize(("typed", "answer"), ROWS)
def test_a_row_of_the_table(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: str, answer: str | None
) -> None:
    target = tmp_path / "out.onnx"
    named = {"IN": str(model), "OUT": str(target)}
    quick = ["--method", "prune", "--no-verify"] if answer is None else []
    status = main([named.get(word, word) for word in shlex.split(typed)] + quick)
    err = capsys.readouterr().err
    if answer is None:
        assert status == 0, err
        assert target.exists() == ("OUT" in typed)
        return
    assert (status, target.exists()) == (2, False)
    assert err.startswith("onnxmerge: error: ")
    assert err.count("\n") == 1
    assert answer in err


ARGUMENTS = {"compress": ["IN", "OUT"], "inspect": ["IN"], "compare": ["IN", "IN"], "tradeoff": ["IN"],
             "quantize": ["IN", "OUT"], "fleet": ["IN"]}  # fmt: skip


OPTIONS = [option for habit in HABITS for option in habit.options]


def test_no_option_of_another_tool_is_one_of_ours() -> None:
    assert ARGUMENTS.keys() == cli.commands.keys()
    assert len(HABITS) == 10
    assert len(OPTIONS) == len(set(OPTIONS))
    ours = frozenset().union(*(takes(command) for command in cli.commands.values()))
    assert not ours & set(OPTIONS)
    assert all(named(answer) <= ours for habit in HABITS for answer in habit.answers)


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_answer_names_what_the_command_takes(
    model: Path, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    words = [str(model) if word == "IN" else str(model.with_name("out.onnx")) for word in ARGUMENTS[command]]
    assert main([command, *words, option, "1"]) == 2
    said = capsys.readouterr().err.removesuffix("\n")
    answer = said.partition(f"{option} is an option of other tools; ")[2]
    if answer:
        assert named(answer) <= takes(cli.commands[command])
    else:
        assert said.startswith(f"onnxmerge: error: there is no option '{option}'")
    if command == "compress":
        assert answer


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("inspect IN -o net.html", "--html F"),
        ("tradeoff IN -o curve.png", "--json F"),
        ("compare IN IN -o a.json", "--json F"),
        ("inspect IN --check", "there is no option '--check'"),
        ("inspect IN --save-external-data", "there is no option '--save-external-data'"),
        ("compare IN IN --atol 1", "there is no option '--atol'"),
        ("compare IN IN --check-n 3", "both models are run and compared; --data"),
        ("compare IN IN --batch 1 8", "unexpected extra argument (8)"),
        ("IN OUT --calib-size 4 8", "unexpected extra argument (8)"),
        ("IN OUT 12 --bogus", "there is no option '--bogus'"),
        ("IN OUT 12", "unexpected extra argument (12)"),
        ("IN OUT --ratio 0.5 x:1,3 --of mac", "none of macs"),
        ("IN OUT --silent --bogus", "use -v or -q"),
        ("inspect IN --silent", "use -v or -q"),
    ],
)
def test_the_true_error_stays(model: Path, capsys: pytest.CaptureFixture[str], typed: str, part: str) -> None:
    named = {"IN": str(model), "OUT": str(model.with_name("out.onnx"))}
    assert main([named.get(word, word) for word in shlex.split(typed)]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name", "lengths"),
    [
        ("x:1,3,224,224", "x", (1, 3, 224, 224)),
        ("x:[1,3,224,224]", "x", (1, 3, 224, 224)),
        ("x:[ 1, 3 ]", "x", (1, 3)),
        ("x:1x3X224x224", "x", (1, 3, 224, 224)),
        ("x:[1x3]", "x", (1, 3)),
        ("x:5", "x", (5,)),
        ("a:0:5,6", "a:0", (5, 6)),
    ],
)
def test_shapes_that_are_read(text: str, name: str, lengths: tuple[int, ...]) -> None:
    assert values.shape(text) == (name, lengths)


@pytest.mark.parametrize(
    "text",
    ["x", "x:", "x:[]", "x:0,3", "x:-1,3", "x:1,,3", "x:[1,3", "x:1,3]", "x:[[1,3]]", "x:1,3x4", "x:a,b", "x:1.5"],
)
def test_shapes_that_are_not(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME:1,3,224,224"):
        values.shape(text)


def test_a_shape_without_a_name_is_shown_with_one() -> None:
    with pytest.raises(UsageError, match="--shape NAME:1,3,8,8"):
        values.shape("[1, 3, 8, 8]")


def test_what_is_known_from_nowhere_gets_no_advice() -> None:
    assert option_advice("--bogus", takes(cli.commands["compress"])) == ""
    assert loose_advice(["in.onnx", "out.onnx", "--bogus", "x:7"]) == ""
    assert loose_advice(["in.onnx", "--ratio", "1"]) == ""
    assert loose_advice([]) == ""
