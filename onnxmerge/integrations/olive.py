"""onnxmerge as a pass of Olive: channels of an ONNX model are removed and merged, without training.

``python -m onnxmerge.integrations.olive packages.json`` writes the list of Olive's own passes with this one added, for
``olive run --package-config packages.json``.

1. Samples come from ``data_config``, as for Olive's quantization passes, or from a path in any form of ``--calib``.
2. What latency and fidelity are measured on is the accelerator of the workflow: its provider, CUDA or the CPU.
3. A gate that fails, and a model in which nothing can be cut, fail this point of a search, not the search.
4. The report lies beside the model as ``onnxmerge_report.json``, and goes along with it as an additional file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxmerge.suggestions import installing

try:
    from olive.common.config_utils import ParamCategory, validate_config
    from olive.data.config import DataConfig
    from olive.exception import OlivePassError
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.pass_config import BasePassConfig, PassConfigParam
    from olive.search.search_parameter import Categorical
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"onnxmerge: error: Olive cannot be imported ({error}); try: {installing('olive')}")

from onnxmerge.errors import GateError, NothingToCutError, UsageError
from onnxmerge.graph import external_files
from onnxmerge.pipeline import Request, Sampling, compress_file
from onnxmerge.plan.options import ALLOCATIONS, BUDGETS, EFFORT_NAMES, METHODS, Options
from onnxmerge.report.data import to_json
from onnxmerge.verify import Verification
from onnxmerge.writing import write_text

__all__ = ["OnnxMerge", "write_packages"]

REPORT = "onnxmerge_report.json"
_RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""What a search tries unless it is told."""
_FILES = "additional_files"


class OnnxMerge(Pass):
    """Remove a fraction of the cost of an ONNX model."""

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: AcceleratorSpec) -> bool:
        """Which widths are fast, and so where channels are removed, depends on the accelerator."""
        return False

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        """Options of `onnxmerge.compress` that a workflow may set; the ratio is what a search varies."""

        def option(kind: Any, words: str, default: object = None, **more: Any) -> PassConfigParam:  # noqa: ANN401
            return PassConfigParam(type_=kind, default_value=default, description=words, **more)

        return {
            "ratio": option(float, "Fraction of `of` to remove, 0 <= ratio < 1.", 0.5,
                            search_defaults=Categorical(list(_RATIOS))),
            "of": option(Literal[BUDGETS], "The cost that the ratio refers to.", Options.of),
            "method": option(Literal[tuple(METHODS)], "A preset of selection and compensation.", Options.method),
            "allocate": option(Literal[ALLOCATIONS], "How the budget is spread over groups.", Options.allocate),
            "effort": option(Literal[EFFORT_NAMES], "How many passes over the samples planning makes.", Options.effort),
            "round_to": option(int, "Channel counts are multiples of this; by default of 8 or 4."),
            "only": option(list[str], "Globs of node names; only groups with a match are cut."),
            "skip": option(list[str], "Globs of node names; groups with a match are left alone."),
            "best_effort": option(bool, "Accept a result that reaches less than half of the ratio.", False),
            "seed": option(int, "For synthetic inputs and intervals.", 0),
            "data_config": option(DataConfig | dict, "Calibration samples; labels are not used."),
            "calibration": option(str, "Path of calibration samples, in place of data_config.",
                                  category=ParamCategory.DATA),
            "calib_size": option(int, "Maximum number of calibration samples.", 512),
            "data": option(str, "Path of held-out samples for verification.", category=ParamCategory.DATA),
            "min_cosine": option(float, "Gate: the pass fails below this cosine similarity of any output."),
            "max_drop": option(float, "Gate: the pass fails if more points of accuracy are lost."),
            "threads": option(int, "Threads for timing on the CPU."),
            "save_as_external_data": option(bool, "Weights in a file beside the model; automatic above 2 GB.", False),
        }  # fmt: skip

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        given: Any = config
        target = Path(resolve_onnx_path(output_model_path))
        target.parent.mkdir(parents=True, exist_ok=True)
        provider = "cuda" if "CUDA" in str(self.accelerator_spec.execution_provider) else "cpu"
        request = Request(
            model.model_path,
            _options(given),
            Sampling(_calibration(given, model), given.calib_size, given.data),
            verification=Verification(True, provider, given.min_cosine, given.max_drop, given.threads),  # type: ignore[arg-type]
        )
        try:
            report = compress_file(request, target, external_data=given.save_as_external_data)
        except (GateError, NothingToCutError) as error:
            raise OlivePassError(str(error)) from error
        write_text(target.with_name(REPORT), to_json(report))
        return _handler(model, target)


def _options(given: Any) -> Options:  # noqa: ANN401 - Olive's generated class
    return Options(
        ratio=given.ratio,
        of=given.of,
        method=given.method,
        allocate=given.allocate,
        effort=given.effort,
        round_to=given.round_to,
        only=tuple(given.only or ()),
        skip=tuple(given.skip or ()),
        best_effort=given.best_effort,
        seed=given.seed,
    )


def _calibration(given: Any, model: ONNXModelHandler) -> str | Mapping[str, NDArray[Any]] | None:  # noqa: ANN401
    """A path, or the batches of Olive's loader: of any size where the batch axis is free, else one feed after another.

    Raises:
        UsageError: Samples are given twice, or there are none.
    """
    if given.data_config is None:
        return None if given.calibration is None else str(given.calibration)
    if given.calibration is not None:
        raise UsageError("data_config and calibration both give samples; leave one of them out")
    container = validate_config(given.data_config, DataConfig).to_data_container()
    reader = container.create_calibration_dataloader(model_path=model.model_path, io_config=model.io_config)
    feeds = list(islice(iter(reader.get_next, None), given.calib_size))
    if not feeds:
        raise UsageError("the data_config of the pass gives no samples")
    shapes = model.io_config["input_shapes"]
    join = np.stack if all(shape and isinstance(shape[0], int) for shape in shapes) else np.concatenate
    return {name: join([np.asarray(feed[name]) for feed in feeds]) for name in feeds[0]}


def _handler(model: ONNXModelHandler, target: Path) -> ONNXModelHandler:
    """The result with the attributes of the input and the report as an additional file."""
    attributes = dict(model.model_attributes or {})
    attributes[_FILES] = sorted({*attributes.get(_FILES, ()), str(target.with_name(REPORT))})
    apart = bool(external_files(target))
    return ONNXModelHandler(
        model_path=str(target.parent if apart else target),
        onnx_file_name=target.name if apart else None,
        inference_settings=model.inference_settings,
        model_attributes=attributes,
    )


def write_packages(target: Path) -> None:
    """Write Olive's own list of passes with this one added, as a file for ``olive run --package-config``.

    Raises:
        UsageError: The file cannot be written.
    """
    packages = OlivePackageConfig.load_default_config()
    ours = {"module_path": f"onnxmerge.integrations.olive.{OnnxMerge.__name__}", "dataset": "dataset_optional"}
    ours.update({f"supported_{what}": ["*"] for what in ("providers", "accelerators", "precisions")})  # type: ignore[misc]
    known = OlivePackageConfig.model_validate({"passes": {OnnxMerge.__name__: ours}})
    packages.passes.update(known.passes)
    write_text(target, packages.model_dump_json(indent=2) + "\n")


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m onnxmerge.integrations.olive packages.json\n")
        return UsageError.exit_status
    try:
        write_packages(Path(arguments[0]))
    except UsageError as error:
        sys.stderr.write(f"onnxmerge: error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
