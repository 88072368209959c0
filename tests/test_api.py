"""The public names: what `onnxmerge` exports, typed keywords that are those of `Options`, results that print."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge import errors
from onnxmerge.cli import cli
from onnxmerge.errors import UsageError
from onnxmerge.plan.options import Options
from tests.builders import Net
from tests.plan.test_plan import network

NAMES = {
    "Compression", "ImageOptions", "Options", "Plan", "Quantized", "TextOptions", "compare", "compress", "inspect",
    "quantize", "tradeoff",
}  # fmt: skip


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    shown = {name for name in dir(onnxmerge) if not name.startswith("__")}
    assert shown == NAMES | set(errors.__all__)
    assert {"__version__", "__doc__"} <= set(dir(onnxmerge))
    assert set(onnxmerge.__all__) == shown | {"__version__"}
    assert all(getattr(onnxmerge, name) is not None for name in onnxmerge.__all__)


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'onnxmerge' has no attribute 'squash'"):
        onnxmerge.squash  # noqa: B018


def test_importing_is_light() -> None:
    program = "import sys, onnxmerge; print([n for n in ('numpy', 'onnx', 'onnxruntime', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("function", [onnxmerge.compress, onnxmerge.tradeoff])
def test_keywords_are_the_fields_of_options(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    for field in fields(Options):
        if field.name == "ratio" and "ratio" not in parameters:
            continue  # a trade-off has several
        assert parameters[field.name].annotation == field.type, field.name
        assert parameters[field.name].default == field.default, field.name
        assert f"        {field.name}: " in (function.__doc__ or "")
    assert all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values())
    documented = [name for name in parameters if f"        {name}: " in (function.__doc__ or "")]
    assert documented == list(parameters)


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="rato"):
        onnxmerge.compress(network(), rato=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("source", [12, None, ["model.onnx"], np.zeros(3)], ids=lambda source: type(source).__name__)
def test_what_is_no_model_is_a_usage_error(source: object) -> None:
    got = f"a model is a path, the bytes .* got {type(source).__name__}$"
    calls = (
        lambda: onnxmerge.compress(source),
        lambda: onnxmerge.inspect(source),
        lambda: onnxmerge.compare(network(), source),
        lambda: onnxmerge.tradeoff(source),
        lambda: onnxmerge.quantize(source, dynamic=True),
    )
    for call in calls:
        with pytest.raises(UsageError, match=got):
            call()


def test_a_path_of_any_kind_is_a_model(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx")

    class Somewhere:
        def __fspath__(self) -> str:
            return str(tmp_path / "model.onnx")

    assert onnxmerge.inspect(Somewhere()).source == str(tmp_path / "model.onnx")


def test_the_page_names_every_option_that_python_calls_otherwise() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    everywhere = {"--help", "--quiet", "--verbose", "--version"}
    for name in ("compress", "inspect", "compare", "quantize", "tradeoff"):
        keywords = inspect.signature(getattr(onnxmerge, name)).parameters
        for each in cli.commands[name].params:
            option = max(each.opts, key=len)
            if option.startswith("--") and option not in everywhere and option[2:].replace("-", "_") not in keywords:
                assert re.search(rf"^\| .*`(compare )?{option}\b.* \|$", page, re.M), f"{name} {option}"


def test_tradeoff() -> None:
    curve = onnxmerge.tradeoff(network(), [0.2, 0.4], method="prune", of="channels")
    assert [point.ratio for point in curve.points] == [0.2, 0.4]
    assert curve.of == "channels"


def test_a_result_prints_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a<b>.onnx"
    onnx.save(network(), path)
    result = onnxmerge.compress(path, 0.4, method="prune")
    lines = str(result).splitlines()
    assert repr(result) == str(result)
    assert lines[0] == f"{path}: {result.plan.reached * 100:.1f} % of the MACs removed"
    assert [line[:18].strip() for line in lines[2:]] == [
        "MACs", "parameters", "size", "latency", "fidelity (cosine)", "groups cut",
    ]  # fmt: skip
    assert lines[-1].endswith("2 of 3")
    page = result._repr_html_()
    assert "a&lt;b&gt;.onnx" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 7
    unverified = str(onnxmerge.compress(path, 0.4, method="prune", verify=False))
    assert "latency" not in unverified
    assert "fidelity" not in unverified


def test_samples_of_a_model_with_one_input_may_be_an_array() -> None:
    x = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
    options: dict[str, Any] = {"method": "refit", "of": "channels", "provider": "cpu"}
    bare = onnxmerge.compress(network(), 0.4, calibration=x, data=x[:4], **options)
    named = onnxmerge.compress(network(), 0.4, calibration={"x": x}, data={"x": x[:4]}, **options)
    assert bare.model.SerializeToString() == named.model.SerializeToString()
    assert bare.report.samples == named.report.samples
    assert onnxmerge.compress(network(), 0.4, data=x[:4].tolist(), method="prune").report.samples


@pytest.mark.parametrize("name", ["calibration", "data"])
def test_an_array_for_one_of_several_inputs_is_refused(name: str) -> None:
    net = Net()
    one, two = (net.conv(net.input("N", 3, 8, 8, name=each), 3, 4) for each in ("left", "right"))
    net.output(net.add("Add", one, two), 4)
    with pytest.raises(UsageError, match=r"a single ndarray, but .* 2 inputs \('left', 'right'\); give "):
        onnxmerge.compress(net.model(), 0.4, **{name: np.zeros((4, 3, 8, 8), np.float32)})  # type: ignore[arg-type]


def test_a_glob_may_be_a_string() -> None:
    options: dict[str, Any] = {"method": "prune", "verify": False, "round_to": 1}
    found = onnxmerge.compress(network(), 0.05, only="conv0*", **options).plan.groups
    assert [entry.name for entry in found] == ["conv0"]
    assert found == onnxmerge.compress(network(), 0.05, only=["conv0*"], **options).plan.groups
    skipped = onnxmerge.compress(network(), 0.4, skip="conv0*", **options).plan.groups
    assert "conv0" not in {entry.name for entry in skipped}
    assert onnxmerge.Options(only="conv*") == onnxmerge.Options(only=("conv*",))
