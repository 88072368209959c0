"""Commands in the documents are run, and the page that is made from the code is what the code says.

A command is a line of a fenced block, in README.md or docs/, that begins with ``onnxmerge`` or ``$ onnxmerge``. It is
run in an empty folder in which every file that it may name lies under that name: the bundled models' names stand for
networks of two layers with inputs like theirs, and samples are few. So a test says that the options exist and that the
command does something, not what comes out on the real models. What is not run is parsed.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxmerge
from docs import generate, import_graph
from onnxmerge.cli import cli, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

NOT_RUN = {
    r"^onnxmerge fleet\b": "needs the extra fleet; tests/fleet runs the command",
    r"--of latency|--round-to auto": "times every operator of a network: minutes on a busy machine",
    r"--plot\b|--report\b|--html\b": "needs the extra report; tests/report and tests/test_pages.py run them",
    r"--recover": "needs the extra recover; tests/pipeline/test_recovering.py runs it",
    r"--tokenizer": "needs the extra text; tests/samples/test_texts.py reads texts",
    r"--calib speech/": "needs a model of spectrograms; tests/samples/test_audio.py reads sounds",
    r"vgg_receding|--ratio auto": "looks for two modes of scales, which a stand-in with weights at random has not",
}
"""Commands that are only parsed, by a pattern of what they hold, and why."""

IMAGES = {"vgg_bn": (1, 28), "lenet_300_100": (1, 28), "resnet": (3, 32)}
MODELS = ("in.onnx", "IN.onnx", "model.onnx", "A.onnx", "B.onnx", "smaller.onnx", "half.onnx", "pruned.onnx")
SAMPLES = ("samples.npz", "held_out.npz", "S.npz", "X.npz")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,{channels},{side},{side}] images) => (float[batch,10] logits)
<float[16,{channels},3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[10,16] w3, float[10] b3>
{{
    h = Conv<pads = [1, 1, 1, 1]>(images, w1, b1)
    a = Relu(h)
    g = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(a, w2, b2)
    b = Relu(g)
    p = GlobalAveragePool(b)
    f = Flatten(p)
    logits = Gemm<transB = 1>(f, w3, b3)
}}
"""


def commands(page: Path) -> Iterator[str]:
    """All commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for block in (block for language, block in blocks if language in ("", "sh", "console")):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.partition("  #")[0].strip().removeprefix("$ ")
            if re.match(r"onnxmerge(?= [^\[]*$)", words) and "[" not in words:
                yield " ".join(words.split())


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))


def network(channels: int, side: int) -> onnx.ModelProto:
    """Two convolutions and a classifier with weights at random."""
    proto = parser.parse_model(TEXT.format(channels=channels, side=side))
    names = (
        "/conv/Conv", "/relu/Relu", "/conv2/Conv", "/relu2/Relu", "/pool/GlobalAveragePool", "/flatten/Flatten",
        "/head/Gemm",
    )  # fmt: skip
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (16, channels, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (10, 16), "b3": (10,),
    }  # fmt: skip
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return proto


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that a command of the documents may name."""
    rng = np.random.default_rng(1)
    (tmp_path / "sample_models").mkdir()
    for name, (channels, side) in IMAGES.items():
        onnx.save(network(channels, side), tmp_path / "sample_models" / f"{name}.onnx")
    for name in MODELS:
        onnx.save(network(1, 28), tmp_path / name)
    shapes = {"fashion_mnist": (24, 1, 28, 28), "cifar10": (24, 3, 32, 32)}
    for data, shape in shapes.items():
        images = rng.integers(0, 255, shape).astype(np.uint8)
        np.savez(tmp_path / "sample_models" / f"{data}_calibration.npz", images=images)
        np.savez(tmp_path / "sample_models" / f"{data}_test.npz", images=images, labels=rng.integers(0, 10, 24))
    for name in SAMPLES:
        np.savez(tmp_path / name, images=rng.standard_normal((24, 1, 28, 28)).astype(np.float32))
    plan = '{"onnxmerge_plan": 1, "groups": [{"name": "/conv/Conv", "kept": 8}]}'
    (tmp_path / "plan.json").write_text(plan, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_are_found() -> None:
    assert "onnxmerge in.onnx out.onnx --ratio 0.5 --calib samples.npz" in COMMANDS
    assert len(COMMANDS) > 25
    for page in ("accuracy-dropped", "not-faster", "commands"):
        assert list(commands(ROOT / "docs" / f"{page}.md")), page


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    if any(re.search(pattern, command) for pattern in NOT_RUN):
        name, rest = (words[0], words[1:]) if words[0] in cli.commands else ("compress", words)
        cli.commands[name].make_context(
            name, rest, **cli.context_settings
        ).close()  # an option that does not exist fails here
        return
    status = main(words)
    gated = "--max-drop" in words or "--min-cosine" in words
    assert status == 0 or (gated and status == 1), capsys.readouterr().err


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_there(pattern: str) -> None:
    assert any(re.search(pattern, command) for command in COMMANDS)


def test_an_option_that_does_not_exist_is_noticed(folder: Path) -> None:
    assert main(["in.onnx", "out.onnx", "--no-such-option"]) == 2


def test_the_reference_is_what_the_code_says() -> None:
    assert generate.TARGET.read_text(encoding="utf-8") == generate.page(), "run: python docs/generate.py"


def test_the_import_graph_is_up_to_date() -> None:
    text = import_graph.TARGET.read_text(encoding="utf-8")
    assert import_graph.page(text) == text, "run: python docs/import_graph.py"
    assert "    PIPELINE --> REPORT" in text


def test_edges_that_follow_from_others_are_omitted() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set[str](), "e": {"d"}}
    assert import_graph.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"d"}}


def test_every_command_and_option_is_in_the_reference() -> None:
    page = generate.TARGET.read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for option in (each for parameter in command.params for each in parameter.opts if each.startswith("--")):
            assert re.search(rf"{option}(?![\w-])", section), f"{name} {option}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_first_python_example(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None
    program = re.sub(r"^.*\.html\(.*$", "", found[1], flags=re.M)  # needs the extra report
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxmerge.OnnxMergeWarning)  # the stand-in is too small for every ratio
        exec(program, {})
    assert (folder / "smaller.onnx").exists()
    assert "of the MACs removed" in capsys.readouterr().out


def test_the_cpu_runtime_alone_is_installed_with_every_other_dependency() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"^pip install (click .*)$", page, re.M)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)
    assert listed is not None
    needed = set(re.findall(r'^ +"([\w-]+)', listed[1], re.M))
    assert set(told.split()) == needed - {"onnxruntime-gpu"}


def test_every_extra_is_listed_with_its_command() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `pip install \"\.\[(\w+)\]\"` \|$", page, re.M))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", project, re.M | re.S)
    assert listed is not None
    extras = set(re.findall(r"^(\w+) = ", listed[1], re.M)) - {"browser", "dev", "test"}
    assert rows == {extra: extra for extra in extras}


def test_no_page_installs_from_an_index() -> None:
    for page in PAGES:
        assert "pip install onnxmerge" not in page.read_text(encoding="utf-8").replace('"', "").replace("'", "")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
