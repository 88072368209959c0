"""The published JSON Schema holds for what every command writes, and says no less than that."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from docs import schema as published
from onnxmerge.cli import main
from onnxmerge.report.data import SCHEMA
from onnxmerge.runtime.turns import Limits
from tests.test_documentation import network

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema, of the extra test, is not installed")

COMMANDS = {
    "account": "compress model.onnx out.onnx --ratio 0.3 --calib samples.npz --data held.npz",
    "account, refused": "model.onnx out.onnx --ratio 0.9 --method prune --best-effort --data held.npz --min-cosine 1",
    "account, dry run": "model.onnx --dry-run --method prune --ratio 0.3 --of params",
    "account, auto": "model.onnx out.onnx --method receding --ratio 0.2 --no-verify",
    "inspection": "inspect model.onnx",
    "side_by_side": "compare model.onnx model.onnx --data held.npz --batch 1,2",
    "tradeoff": "tradeoff model.onnx --ratios 0.2,0.4 --method prune --data held.npz --max-drop 50",
    "quantization": "quantize model.onnx int8.onnx --calib samples.npz --data held.npz --original model.onnx",
    "quantization, dynamic": "quantize model.onnx int8.onnx --dynamic",
    "quantization, refused": "quantize model.onnx int8.onnx --calib samples.npz --min-cosine 1",
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every command writes, by its name above."""
    folder = tmp_path_factory.mktemp("reports")
    onnx.save(network(3, 8), folder / "model.onnx")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((48, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "samples.npz", images=images)
    np.savez(folder / "held.npz", images=images[:16], labels=rng.integers(0, 10, 16))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("onnxmerge.verify.measure._COMPARED", Limits(0.2, 2))
        patch.setattr("onnxmerge.verify.several._TIMED", Limits(0.2, 2))
        for name, command in COMMANDS.items():
            timed = [] if command.startswith("inspect") else ["--threads", "1"]
            status = main([*command.split(), *timed, "-q", "--json", "report.json"])
            assert status == (1 if "refused" in name else 0), name
            found[name] = json.loads(Path("report.json").read_text(encoding="utf-8"))
    return found


def strict(part: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(part, dict):
        closed = {"additionalProperties": False} if "properties" in part else {}
        return {key: strict(value) for key, value in part.items()} | closed
    return [strict(each) for each in part] if isinstance(part, list) else part


@pytest.mark.parametrize("target", published.TARGETS, ids=lambda target: target.parent.name)
def test_the_files_are_what_the_code_says(target: Path) -> None:
    assert target.read_text(encoding="utf-8") == published.text(), "run python docs/schema.py"


def test_the_package_has_the_schema_of_its_version() -> None:
    text = (resources.files("onnxmerge.report") / f"report-schema-{SCHEMA}.json").read_text(encoding="utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    assert json.loads(text)["$id"] == f"urn:onnxmerge:report:{SCHEMA}"


@pytest.mark.parametrize("name", COMMANDS)
def test_reports_are_valid_and_every_field_is_named(reports: dict[str, Any], name: str) -> None:
    report = reports[name]
    assert (report["schema"], report["kind"]) == (SCHEMA, name.partition(",")[0])
    jsonschema.validate(report, published.schema(), jsonschema.Draft202012Validator)
    jsonschema.validate(report, strict(published.schema()), jsonschema.Draft202012Validator)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no kind": lambda report: report.pop("kind"),
    "another version": lambda report: report.update(schema=SCHEMA + 1),
    "no groups": lambda report: report.pop("groups"),
    "text for a number": lambda report: report["before"].update(macs="many"),
    "a reason without its form": lambda report: report["pinned"][0].update(reasons=[{"code": "x"}]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_report_is_not_valid(reports: dict[str, Any], what: str) -> None:
    report = copy.deepcopy(reports["account"])
    WRONG[what](report)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, published.schema(), jsonschema.Draft202012Validator)
