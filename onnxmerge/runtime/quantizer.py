"""ONNX Runtime's own quantizer, called with our samples; nothing here quantizes by itself.

1. `quant_pre_process` infers shapes and folds BatchNormalization into convolutions.
2. `quantize_static` writes QuantizeLinear and DequantizeLinear nodes (QDQ), with ranges measured on samples, or
   `quantize_dynamic` quantizes weights only and measures activations at run time.

Importing the quantizer configures Python's root logger, and some of its methods print; both are undone or hidden here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from onnxmerge.errors import ModelError, RuntimeMissingError, UsageError

__all__ = ["CALIBRATIONS", "EIGHT_BITS", "Calibration", "EightBits", "Recipe", "quantize_model"]

EightBits = Literal["uint8", "int8"]
EIGHT_BITS: tuple[EightBits, ...] = get_args(EightBits)
Calibration = Literal["minmax", "entropy", "percentile"]
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)

_NAMES = {"uint8": "QUInt8", "int8": "QInt8", "minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


@dataclass(frozen=True)
class Recipe:
    """How to quantize.

    Attributes:
        dynamic: Measure the ranges of activations at run time, for the operators that support it.
        per_channel: One scale for each output channel of a weight, instead of one for all of it.
        activations: Type of activations; static only.
        weights: Type of weights.
        ranges: How the range of an activation follows from the samples; static only.
        reduce_range: Use 7 of the 8 bits of a weight, for x86 processors without VNNI, whose sums may saturate.
        ops: Types of operators to quantize; () for all that the quantizer knows.
        skip: Names of nodes to leave in float.
    """

    dynamic: bool = False
    per_channel: bool = True
    activations: EightBits = "uint8"
    weights: EightBits = "int8"
    ranges: Calibration = "minmax"
    reduce_range: bool = False
    ops: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: A value is none of those allowed.
        """
        for name, known in (("activations", EIGHT_BITS), ("weights", EIGHT_BITS), ("ranges", CALIBRATIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}, expected {' or '.join(known)}")


def quantize_model(source: Path, target: Path, recipe: Recipe, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Quantize a model file with ONNX Runtime's quantizer.

    Args:
        source: The model, with its weights inside.
        target: The file to write. Intermediate files are written beside it, under names that begin with its own.
        recipe: How.
        feeds: Inputs to measure the ranges of activations on; not used if `recipe.dynamic`.

    Raises:
        RuntimeMissingError: ONNX Runtime, or its quantizer, cannot be imported.
        ModelError: The quantizer fails on the model.
    """
    with _quiet():
        quantization = _import()
        prepared = target.with_name(f"{target.name}.prepared")
        try:
            quantization.shape_inference.quant_pre_process(
                str(source), str(prepared), skip_symbolic_shape=importlib.util.find_spec("sympy") is None
            )
            common = {
                "per_channel": recipe.per_channel,
                "reduce_range": recipe.reduce_range,
                "weight_type": getattr(quantization.QuantType, _NAMES[recipe.weights]),
                "op_types_to_quantize": list(recipe.ops) or None,
                "nodes_to_exclude": list(recipe.skip),
            }
            if recipe.dynamic:
                quantization.quantize_dynamic(str(prepared), str(target), **common)
            else:
                quantization.quantize_static(
                    str(prepared), str(target), _reader(quantization, feeds),
                    quant_format=quantization.QuantFormat.QDQ,
                    activation_type=getattr(quantization.QuantType, _NAMES[recipe.activations]),
                    calibrate_method=getattr(quantization.CalibrationMethod, _NAMES[recipe.ranges]),
                    **common,
                )  # fmt: skip
        except Exception as error:  # the quantizer raises whatever it meets
            words = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"{source.name}: ONNX Runtime's quantizer fails: {words}") from error
        finally:
            prepared.unlink(missing_ok=True)


def _reader(quantization: Any, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> Any:  # noqa: ANN401 - untyped module
    """The feeds in the form that the quantizer reads: one a call, then None."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc] # the class exists after the import only
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

    return Reader()


def _import() -> Any:  # noqa: ANN401 - the module has no types
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import onnxruntime.quantization  # noqa: PLC0415 - slow, and only needed here
        import onnxruntime.quantization.shape_inference  # noqa: PLC0415
    except ImportError as error:
        raise RuntimeMissingError(
            f"ONNX Runtime's quantizer cannot be imported ({error}); try: pip install --upgrade onnxruntime"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return onnxruntime.quantization


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the quantizer prints and logs."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
