"""The functions of the pipeline with flat keywords, as most tests call them: each makes the request from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxmerge import pipeline
from onnxmerge.pipeline import Compression, Request, Sampling
from onnxmerge.plan.options import Options
from onnxmerge.report.model import Account, SideBySide, Tradeoff
from onnxmerge.verify import Progress, Verification, quiet

__all__ = ["compare", "compress", "compress_file", "request", "tradeoff"]

_SAMPLES = ("calibration", "calib_size", "data", "images", "text")


def request(source: Any, options: Options, **given: Any) -> Request:
    """A request from flat keywords: those of `Sampling`, and of `Request`."""
    samples = {name: given.pop(name) for name in _SAMPLES if name in given}
    return Request(source, options, Sampling(**samples), **given)


def compress(source: Any, options: Options, *, progress: Progress = quiet, **given: Any) -> Compression:
    return pipeline.compress(request(source, options, **given), progress)


def compress_file(source: Path | str, target: Path | str | None, options: Options, **given: Any) -> Account:
    names = ("overwrite", "external_data", "dry_run", "save_plan", "progress")
    output = {name: given.pop(name) for name in names if name in given}
    return pipeline.compress_file(request(source, options, **given), target, **output)


def tradeoff(
    source: Any, options: Options, ratios: Sequence[float], *, progress: Progress = quiet, **given: Any
) -> Tradeoff:
    return pipeline.tradeoff(request(source, options, **given), ratios, progress)


def compare(first: Any, second: Any, *, provider: Any = "auto", threads: int | None = None, **given: Any) -> SideBySide:
    names = ("data_size", "batches", "progress")
    how = {name: given.pop(name) for name in names if name in given}
    options = Options(ratio=0.0, seed=given.pop("seed", 0))
    verification = Verification(provider=provider, threads=threads)
    return pipeline.compare(request(first, options, verification=verification, **given), second, **how)
