from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxmerge import __version__, pipeline
from onnxmerge.cli import cli, main
from onnxmerge.cli.values import ratios
from onnxmerge.errors import GateError, ModelError, NothingToCutError, OnnxMergeError, RuntimeMissingError, UsageError
from onnxmerge.pipeline import Request
from onnxmerge.plan.options import Options
from onnxmerge.samples import ImageOptions
from onnxmerge.verify import Verification
from onnxmerge.writing import check_writable

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8] x) => (float[N,4] y)
<float[16,8] w1, float[16] b1, float[16,16] w2, float[16] b2, float[4,16] w3, float[4] b3>
{
    h1 = Gemm<transB = 1>(x, w1, b1)
    a1 = Relu(h1)
    h2 = Gemm<transB = 1>(a1, w2, b2)
    a2 = Relu(h2)
    y = Gemm<transB = 1>(a2, w3, b3)
}
"""
SHAPES = {"w1": (16, 8), "b1": (16,), "w2": (16, 16), "b2": (16,), "w3": (4, 16), "b3": (4,)}
PINNED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8] x) => (float[N,8] y)
{
    y = Relu(x)
}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    for i, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{i}"
    path = tmp_path_factory.mktemp("models") / "in.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line; gives exit status, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What ``compress_file`` is called with for some options."""
    seen: dict[str, Any] = {}

    def record(request: Request, target: Path | None, **keywords: Any) -> None:
        seen.update(keywords, **vars(request), **vars(request.samples), target=target)
        raise GateError("enough")

    def call(*words: object) -> dict[str, Any]:
        assert main([str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), *map(str, words)]) == 1
        return seen

    monkeypatch.setattr(pipeline, "compress_file", record)
    return call


def error_line(err: str) -> str:
    """The one line that an error is."""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removesuffix("\n")


# --- the main job -----------------------------------------------------------------------------------------------


def test_compress_is_the_default_command(run: Run, model: Path, tmp_path: Path) -> None:
    for words in ([], ["compress"]):
        target = tmp_path / f"out{len(words)}.onnx"
        status, out, err = run(*words, model, target, "--provider", "cpu", "--no-fold-mean")
        assert (status, err) == (0, "")
        assert " of the MACs removed" in out
        assert "Gemm0" in out
        onnx.checker.check_model(onnx.load(target))
    assert (tmp_path / "out0.onnx").read_bytes() == (tmp_path / "out1.onnx").read_bytes()


def test_options_may_come_first(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("--ratio", "0.25", "--no-verify", "-q", model, tmp_path / "out.onnx") == (0, "", "")


def test_a_dry_run_needs_no_target_and_writes_nothing(run: Run, model: Path) -> None:
    before = sorted(model.parent.iterdir())
    status, out, _ = run(model, "--dry-run")
    assert status == 0
    assert "nothing was written" in out
    assert sorted(model.parent.iterdir()) == before


def test_defaults_are_those_of_the_tables(given: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    seen = given()
    assert seen["options"] == Options()
    assert seen["verification"] == Verification()
    assert seen["source"] == tmp_path / "in.onnx"
    assert seen["target"] == tmp_path / "out.onnx"
    rest = {name: seen[name] for name in ("calibration", "data", "images")}
    assert rest == {"calibration": None, "data": None, "images": None}
    assert (seen["calib_size"], seen["shapes"]) == (512, {})
    assert not (seen["overwrite"] or seen["external_data"] or seen["dry_run"])


def test_every_option_arrives(given: Callable[..., dict[str, Any]]) -> None:
    seen = given(
        *("--ratio", 0.3, "--of", "params", "--allocate", "global", "--method", "fold", "--select", "gm"),
        *("--compensate", "merge", "--threshold", 0.2, "--balance", 0.7, "--fold-mean", "--no-coupled"),
        *("--only", "a*", "--only", "b", "--skip", "c", "--round-to", 8, "--seed", 7),
        *("--calib", "c.npz", "--calib-size", 64, "--data", "d.npz", "--mean", "0.1,0.2,0.3", "--std", "2"),
        *("--scale", "0.5", "--resize", "24x32", "--shape", "x:0:1,3,8,8", "--shape", "y:2"),
        *("--min-cosine", 0.9, "--max-drop", 1.5, "--provider", "cpu"),
        *("--external-data", "--overwrite", "--dry-run", "-v", "--effort", "fast", "--memory", "1.5GB"),
    )
    assert seen["options"] == Options(
        0.3, "params", "global", "fold", "gm", "merge", 0.2, 0.7, True, False, ("a*", "b"), ("c",), 8, "fast",
        3 << 29, 7,
    )  # fmt: skip
    assert seen["verification"] == Verification(True, "cpu", 0.9, 1.5)
    assert seen["images"] == ImageOptions((0.1, 0.2, 0.3), (2.0,), 0.5, (24, 32))
    assert seen["shapes"] == {"x:0": (1, 3, 8, 8), "y": (2,)}
    assert (seen["calibration"], seen["calib_size"], seen["data"]) == (Path("c.npz"), 64, Path("d.npz"))
    assert seen["overwrite"]
    assert seen["external_data"]
    assert seen["dry_run"]


def test_short_sides_and_single_numbers(given: Callable[..., dict[str, Any]]) -> None:
    assert given("--resize", "256", "--mean", "-1")["images"] == ImageOptions(mean=(-1.0,), resize=256)


# --- the other commands -----------------------------------------------------------------------------------------


def test_inspect(run: Run, model: Path) -> None:
    status, out, err = run("inspect", model, "--shape", "x:3,8")
    assert (status, err) == (0, "")
    assert "2 channel groups" in out
    assert "Measured at x 3x8." in out


def test_compare(run: Run, model: Path) -> None:
    status, out, err = run("compare", model, model, "--provider", "cpu")
    assert (status, err) == (0, "")
    assert out.startswith("B has as many MACs as A")


def test_the_module_runs(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnxmerge", "inspect", model], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gemm0" in done.stdout


# --- what is printed where --------------------------------------------------------------------------------------


def test_json_in_a_file(run: Run, model: Path, tmp_path: Path) -> None:
    status, out, _ = run(model, "--dry-run", "--json", tmp_path / "a.json")
    assert status == 0
    assert "MACs removed" in out
    data = json.loads((tmp_path / "a.json").read_text())
    assert (data["schema"], data["kind"], data["source"]) == (1, "account", str(model))
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_json_on_standard_output_moves_the_tables(run: Run, model: Path) -> None:
    status, out, err = run("inspect", model, "--json", "-")
    assert status == 0
    assert json.loads(out)["kind"] == "inspection"
    assert "Gemm0" in err
    assert run("inspect", model, "--json", "-", "-q") == (0, out, "")


def test_json_of_a_verified_run(run: Run, model: Path, tmp_path: Path) -> None:
    status, out, _ = run(model, tmp_path / "out.onnx", "--json", "-", "-q", "--provider", "cpu")
    assert status == 0
    data = json.loads(out)
    assert data["latency"]["compressed"]["provider"] == "CPUExecutionProvider"
    assert data["after"]["file_bytes"] == (tmp_path / "out.onnx").stat().st_size
    status, out, _ = run("compare", model, tmp_path / "out.onnx", "--json", "-", "-q", "--provider", "cpu")
    assert (status, json.loads(out)["kind"]) == (0, "side_by_side")


def test_quiet_prints_nothing(run: Run, model: Path) -> None:
    assert run(model, "--dry-run", "-q") == (0, "", "")


@pytest.mark.parametrize("columns", [60, 80])
def test_columns_and_no_escape_sequences_off_a_terminal(
    run: Run, model: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (("inspect", model), (model, "--dry-run", "-v"), ("compare", model, model, "--provider", "cpu")):
        _, out, _ = run(*words)
        assert max(map(len, out.splitlines())) <= columns
        assert "\x1b" not in out


# --- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compress", "inspect", "compare"])
def test_help_names_every_option_under_a_title(run: Run, name: str) -> None:
    status, out, err = run(name, "--help")
    assert (status, err) == (0, "")
    assert "\n    onnxmerge" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\nOutput:\n" in out
    assert "\nOptions:\n" not in out
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"^  .*(?<![\w-]){option}(?![\w-])", out, re.MULTILINE), option


def test_options_are_those_of_the_design() -> None:
    names = {name for parameter in cli.commands["compress"].params for name in parameter.opts}
    expected = """--ratio --of --allocate --method --select --compensate --threshold --balance --fold-mean --coupled
    --only --skip --calib --calib-size --data --mean --std --scale --resize --preprocessor --shape --round-to
    --tokenizer --mask --best-effort
    --min-cosine --max-drop --provider --threads --json --report --verify --external-data --overwrite --dry-run
    --effort --memory --seed --plan --save-plan --fold-batchnorm --recover -v --verbose -q --quiet --version"""
    assert {name for name in names if name.startswith("-")} == set(expected.split())
    names = {name for parameter in cli.commands["fleet"].params for name in parameter.opts}
    expected = """--ratios --of --methods --effort --calib --calib-size --data --shape --min-cosine --max-drop --latency
    --scheduler --workers --threads --out --seed --json -v --verbose -q --quiet --version"""
    assert {name for name in names if name.startswith("-")} == set(expected.split())


def test_help_of_the_whole_on_standard_output_or_as_an_error(run: Run) -> None:
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for word in ("compress*", "inspect", "compare", "onnxmerge model.onnx smaller.onnx --ratio 0.5"):
        assert word in out
    assert run() == (2, "", out)
    assert run("-h") == (0, out, "")


@pytest.mark.parametrize("words", [["--version"], ["compress", "--version"], ["inspect", "--version"]])
def test_version(run: Run, words: list[str]) -> None:
    assert run(*words) == (0, f"onnxmerge, version {__version__}\n", "")


# --- exit status ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--ratio", "1"], "ratio is 1; expected the fraction to remove"),
        (["--ratio", "-0.1"], "ratio is -0.1; expected the fraction to remove"),
        (["--ratio", "nan"], "ratio is nan; expected the fraction to remove"),
        (["--ratio", "half"], "--ratio is 'half'; expected a fraction such as 0.5, or auto"),
        (["--ratio"], "--ratio"),
        (["--rato", "0.5"], "--ratio"),
        (["--of", "mac"], "'macs'"),
        (["--method", "magic"], "none of auto, prune, neuron-merging"),
        (["--threshold", "2"], "threshold is 2"),
        (["--balance", "nan"], "balance is nan"),
        (["--round-to", "0"], "--round-to"),
        (["--calib-size", "0"], "--calib-size"),
        (["--seed", "-1"], "--seed"),
        (["--min-cosine", "1.5"], "min-cosine is 1.5"),
        (["--max-drop", "nan"], "max-drop is nan"),
        (["--no-verify", "--max-drop", "1"], "--no-verify"),
        (["--shape", "1,3"], "--shape is '1,3'; name the input as well: --shape NAME:1,3"),
        (["--shape", "x:1,-3"], "expected NAME:"),
        (["--shape", "x:0,3"], "expected NAME:"),
        (["--shape", "x:1,,3"], "expected NAME:"),
        (["--shape", "x:1", "--shape", "x:2"], "the same input twice"),
        (["--mean", "a"], "expected finite numbers"),
        (["--std", "0"], "--std must be positive"),
        (["--scale", "nan"], "expected finite numbers"),
        (["--scale", "1,2"], "--scale takes one number"),
        (["--resize", "0x3"], "--resize is '0x3'"),
        (["--resize", "1x2x3"], "--resize is '1x2x3'"),
        (["--resize", "100000000"], "--resize is '100000000'; expected 256 (the short side) or 224x224"),
        (["--resize", "9" * 5000], "at most 16384"),
        (["extra.onnx"], "extra.onnx"),
        (["--json", "no/such/folder/a.json"], "does not exist"),
    ],
)
def test_options_that_cannot_be_used(run: Run, model: Path, tmp_path: Path, words: list[str], part: str) -> None:
    status, out, err = run(model, tmp_path / "out.onnx", *words)
    assert (status, out) == (2, "")
    assert error_line(err).startswith("onnxmerge: error: ")
    assert part in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", [[], ["inspect"], ["compare", "in.onnx"]])
def test_a_missing_file(run: Run, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*command, "nothing.onnx", *([] if command else ["out.onnx"]))
    assert status == 2
    assert error_line(err).startswith("onnxmerge: error: ")


def test_more_ratios_than_are_drawn(run: Run, model: Path) -> None:
    status, out, err = run("tradeoff", model, "--ratios", "0.1:0.9:0.0001")
    assert (status, out) == (2, "")
    assert "which are 8001 ratios; at most 1000" in error_line(err)
    found = re.search(r"a STEP of ([\d.]+) or more", err)
    assert found is not None
    assert 990 < len(ratios(f"0.1:0.9:{found[1]}")) <= 1000
    assert run("tradeoff", model, "--ratios", "0.1:0.9:1e-320")[0] == 2
    assert len(ratios("0.001:0.999:0.001")) == 999


def test_a_missing_target(run: Run, model: Path) -> None:
    status, _, err = run(model)
    assert status == 2
    assert "the file to write, is missing" in error_line(err)
    assert "--dry-run" in err


def test_a_mistyped_command(run: Run, model: Path) -> None:
    status, _, err = run("inspct", model)
    assert status == 2
    assert "did you mean 'inspect'?" in error_line(err)
    status, _, err = run("-v", "inspect", model)
    assert status == 2
    assert "onnxmerge inspect … OPTIONS" in error_line(err)


def test_json_never_replaces_a_model(run: Run, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for words in (["inspect", model], ["compare", model, model], [model, "--dry-run"]):
        status, _, err = run(*words, "--json", model)
        assert status == 2
        assert "is one of the models" in error_line(err)
    assert model.read_bytes() == before
    assert run(model, tmp_path / "out.onnx", "--json", tmp_path / "out.onnx")[0] == 2


def test_a_gate_that_fails_leaves_the_older_file(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")
    status, out, err = run(model, target, "--ratio", "0.9", "--min-cosine", "1", "--provider", "cpu")
    assert (status, out) == (1, "")
    assert "cosine" in error_line(err)
    assert target.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]


def test_no_model_and_nothing_to_cut(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    status, _, err = run("inspect", bad)
    assert status == 3
    assert "bad.onnx" in error_line(err)
    onnx.save(parser.parse_model(PINNED), bad)
    status, _, err = run(bad, tmp_path / "out.onnx")
    assert status == 3
    error_line(err)


def test_next_to_nothing_is_written_only_where_that_is_wanted(run: Run, tmp_path: Path) -> None:
    """Of LeNet without its first layer a tenth of the work can go."""
    source, target = Path(__file__).resolve().parents[1] / "sample_models" / "lenet_300_100.onnx", tmp_path / "out.onnx"
    words = (source, target, "--method", "prune", "--skip", "/fc1/*", "--no-verify")
    status, out, err = run(*words)
    assert (status, out, target.exists()) == (3, "", False)
    assert "asked for 50.0 % of the MACs, but at most 1" in error_line(err)
    assert "skipped by --skip" in err
    status, out, _ = run(*words, "--best-effort")
    assert (status, target.exists()) == (0, True)
    assert "asked for 50.0 % of the MACs, reached 1" in out.replace("\n", " ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("told\nso"), 2),
        (ModelError("told\nso"), 3),
        (NothingToCutError("told\nso"), 3),
        (GateError("told\nso"), 1),
        (RuntimeMissingError("told\nso"), 4),
    ],
)
def test_every_error_is_one_line_with_its_status(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, error: OnnxMergeError, status: int
) -> None:
    monkeypatch.setattr(pipeline, "compress_file", raising(error))
    assert run(model, "--dry-run") == (status, "", "onnxmerge: error: told so\n")


@pytest.mark.parametrize(
    "error", [KeyError("x"), OnnxMergeError("x"), EOFError("x"), RecursionError("x"), OSError("x")]
)
def test_any_other_exception_is_our_own_bug(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(pipeline, "compress_file", raising(error))
    status, out, err = run(model, "--dry-run")
    assert (status, out) == (70, "")
    assert error_line(err).startswith(f"onnxmerge: internal error: {type(error).__name__}: ")
    assert "please report it" in err
    assert __version__ in err
    status, _, err = run(model, "--dry-run", "-v")
    assert status == 70
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("onnxmerge: internal error: ")


def test_control_characters_of_a_message_are_not_printed(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "inspect", raising(ModelError("node '\x1b[31m\udcff'")))
    assert (
        run("inspect", model)[2] == "onnxmerge: error: node '\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}'\n"
    )


def test_an_interrupt(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "compress_file", raising(KeyboardInterrupt()))
    assert run(model, "--dry-run") == (130, "", "onnxmerge: interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_from_outside_leaves_nothing(model: Path, tmp_path: Path, sent: signal.Signals) -> None:
    # The child says when it verifies, with the file half done, and then waits for the signal.
    child = (
        "import signal, sys, time\n"
        "from onnxmerge.pipeline import verifying as search\n"
        # A parent in the background hands down that interrupts are ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from onnxmerge.__main__ import run\n"
        "def wait(*args, **given):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "search.measure_models = wait\n"
        "sys.exit(run())\n"
    )
    words = [sys.executable, "-c", child, str(model), str(tmp_path / "out.onnx"), "--provider", "cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert any(tmp_path.iterdir())
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "onnxmerge: interrupted\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="pipes differ on Windows")
@pytest.mark.parametrize("words", [[], ["--json", "-", "-q"]])
def test_a_reader_that_has_gone_is_no_error(model: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "onnxmerge", "inspect", str(model), *words]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_behind_standard_output(model: Path) -> None:
    command = [sys.executable, "-m", "onnxmerge", "inspect", str(model)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "No space left" in error_line(done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
@pytest.mark.parametrize("words", [["--help"], ["inspect", "--help"], ["--version"]])
def test_a_full_disk_behind_what_click_prints(words: list[str]) -> None:
    command = [sys.executable, "-m", "onnxmerge", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "cannot be printed: No space left" in error_line(done.stderr)


def test_names_that_are_too_long(run: Run, model: Path, tmp_path: Path) -> None:
    long = tmp_path / ("n" * 300)
    for words in (
        (model, "--dry-run", "--json", long),
        (model, "--dry-run", "--report", f"{long}.html"),
        (model, long),
        (long, "--dry-run"),
        ("inspect", long),
        (model, "--dry-run", "--calib", f"{long}.npz"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert "File name too long" in error_line(err)
    with pytest.raises(UsageError, match="File name too long"):
        check_writable(long)


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
