"""As a library onnxmerge leaves its host alone: a process of its own is looked at before, during and after a call."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import onnxmerge
from onnxmerge.cli import main

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "sample_models" / "lenet_300_100.onnx"
CALIBRATION = ROOT / "sample_models" / "fashion_mnist_calibration.npz"

# ONNX Runtime warns of an initializer that nothing reads. Its log level can be set but not read back, so two
# sessions of the host show whether it is still the host's: one with a level of its own, one that inherits the default.
HOST = """
import json, logging, os, random, signal, sys, threading, time, warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, {root!r})

MODEL, CALIBRATION, FOLDER = {model!r}, {calibration!r}, Path({folder!r})
value = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["y"])], "host", [value("x", TensorProto.FLOAT, [1])],
    [value("y", TensorProto.FLOAT, [1])], [numpy_helper.from_array(np.zeros(1, np.float32), "nobody_reads_this")],
)
RELU = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
).SerializeToString()
DESCRIPTORS = {{1: os.dup(1), 2: os.dup(2)}}


def logged(severity):
    # The host may redirect its own descriptors to read what a session of its own logs.
    file = FOLDER / "log.txt"
    sys.stderr.flush()
    with file.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
        try:
            options = ort.SessionOptions()
            if severity is not None:
                options.log_severity_level = severity
            ort.InferenceSession(RELU, options, providers=["CPUExecutionProvider"])
        finally:
            os.dup2(DESCRIPTORS[2], 2)
    return "nobody_reads_this" in file.read_text(encoding="utf-8", errors="replace")


def state():
    root = logging.getLogger()
    name, keys, *rest = np.random.get_state()
    return {{
        "own log level": logged(2),
        "default log level": logged(None),
        "environment": dict(os.environ),
        "streams": [id(sys.stdout), id(sys.stderr), id(sys.stdin)],
        "descriptors": [[os.fstat(fd).st_dev, os.fstat(fd).st_ino] for fd in (0, 1, 2)],
        "warnings": [repr(each) for each in warnings.filters],
        "showwarning": id(warnings.showwarning),
        "logging": [root.level, [repr(each) for each in root.handlers], logging.root.manager.disable],
        "logger": [logging.getLogger("onnxmerge").level, logging.getLogger("onnxmerge").propagate],
        "random": [name, keys.tolist(), *rest],
        "python random": repr(random.getstate()),
        "errors of numpy": np.geterr(),
        "signals": {{int(each): repr(signal.getsignal(each)) for each in signal.valid_signals()}},
        "directory": os.getcwd(),
        "threads": sorted(each.name for each in threading.enumerate()),
        "hooks": [id(sys.excepthook), id(threading.excepthook), sys.getrecursionlimit()],
    }}


def compressed(**options):
    return onnxmerge.compress(MODEL, 0.5, **options)


def failing():
    try:
        onnxmerge.compress(MODEL, 0.5, method="refit", calibration="no_such_file.npz")
    except onnxmerge.errors.UsageError:
        return
    raise SystemExit("expected a UsageError")


def refused():
    try:
        compressed(method="prune", calibration=CALIBRATION, min_cosine=0.9999)
    except onnxmerge.errors.GateError:
        return
    raise SystemExit("expected a GateError")


def stranger():
    # Another thread prints all the while; every line has to arrive.
    done = threading.Event()

    def tell():
        while not done.is_set():
            print("host", flush=True)
            counts.append(1)
            time.sleep(0.0005)

    counts = []
    thread = threading.Thread(target=tell)
    thread.start()
    try:
        compressed(method="prune")
    finally:
        done.set()
        thread.join()
    (FOLDER / "count.txt").write_text(str(len(counts)))


import onnxmerge
import onnxmerge.pipeline  # what is imported with it changes a little: scipy adds filters for its own warnings

before = state()
{call}
after = state()
(FOLDER / "states.json").write_text(json.dumps([before, after]))
"""


def host(call: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any], str, str]:
    """Global state before and after a call in a process of its own, and what that printed on descriptors 1 and 2."""
    program = HOST.format(root=str(ROOT), model=str(MODEL), calibration=str(CALIBRATION), folder=str(folder), call=call)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OPENBLAS_THREAD_TIMEOUT": "4"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = json.loads((folder / "states.json").read_text(encoding="utf-8"))
    return before, after, done.stdout, done.stderr


@pytest.mark.parametrize(
    "call",
    [
        "compressed(method='prune')",
        "compressed(method='prune', calibration=CALIBRATION, provider='cpu')",
        "compressed(method='neuron-merging', verify=False).save(FOLDER / 'out.onnx')",
        "onnxmerge.inspect(MODEL)",
        "onnxmerge.compare(MODEL, MODEL)",
        "failing()",
        "refused()",
    ],
)
def test_a_call_leaves_no_trace(call: str, tmp_path: Path) -> None:
    before, after, out, error = host(call, tmp_path)
    assert before["own log level"]
    assert before["default log level"]
    assert {name for name in before if before[name] != after[name]} == set()
    assert (out, error) == ("", "")


@pytest.mark.parametrize(("severity", "warns"), [(2, True), (3, False)])
def test_the_log_level_of_the_host_stays(severity: int, warns: bool, tmp_path: Path) -> None:
    call = f"ort.set_default_logger_severity({severity})\nbefore = state()\ncompressed(method='prune')"
    before, after, out, error = host(call, tmp_path)
    assert before["default log level"] is after["default log level"] is warns
    assert (out, error) == ("", "")


def test_other_threads_print_all_the_while(tmp_path: Path) -> None:
    _, _, out, error = host("stranger()", tmp_path)
    assert out == "host\n" * int((tmp_path / "count.txt").read_text(encoding="utf-8"))
    assert error == ""


def test_a_trace_would_be_noticed(tmp_path: Path) -> None:
    changes = {
        "default log level": "ort.set_default_logger_severity(4)",
        "environment": "os.environ['X'] = '1'",
        "warnings": "warnings.simplefilter('ignore')",
        "logging": "logging.basicConfig()",
        "random": "np.random.seed(1)",
        "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "directory": "os.chdir('/')",
        "threads": "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
        "streams": "sys.stdout = sys.__stderr__",
        "descriptors": "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
    }
    before, after, _, _ = host("\n".join(changes.values()), tmp_path)
    assert {name for name in before if before[name] != after[name]} >= changes.keys() - {"own log level"}


def test_what_is_logged_reaches_a_handler_of_the_host(tmp_path: Path) -> None:
    call = """
logger, handler = logging.getLogger("onnxmerge"), logging.FileHandler(FOLDER / "onnxmerge.log")
handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
logger.addHandler(handler)
logger.setLevel(logging.DEBUG)
before = state()
compressed(method="prune", calibration=CALIBRATION)
"""
    before, after, out, error = host(call, tmp_path)
    assert before == after
    assert (out, error) == ("", "")
    told = (tmp_path / "onnxmerge.log").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(f"DEBUG onnxmerge.pipeline.run read {MODEL}: ") for line in told)
    assert "DEBUG onnxmerge.pipeline.run planning" in told
    assert any(str(CALIBRATION) in line and "onnxmerge.pipeline.sample_loading" in line for line in told)


def test_a_host_without_logging_sees_no_record() -> None:
    assert any(isinstance(each, logging.NullHandler) for each in logging.getLogger("onnxmerge").handlers)


def test_what_a_caller_should_act_on_is_a_warning() -> None:
    with pytest.warns(onnxmerge.OnnxMergeWarning, match=r"asked for 50\.0 % of the MACs, reached") as caught:
        result = onnxmerge.compress(MODEL, 0.5, method="prune", best_effort=True, only=("/fc2/*",), verify=False)
    assert [str(each.message) for each in caught] == list(result.cautions)
    assert caught[0].filename == __file__
    assert set(result.cautions) <= set(result.report.notes)


def test_the_command_line_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(MODEL), str(tmp_path / "out.onnx"), "--ratio", "0.5", "--method", "prune", "--only", "/fc2/*"]
    words.append("--best-effort")
    assert main([*words, "--no-verify"]) == 0
    out, error = capsys.readouterr()
    assert out.count("asked for 50.0 %") == 1
    assert error == ""
