"""The trade-off curve as a plot, if matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.report.model import Point, Tradeoff
from onnxmerge.suggestions import installing
from onnxmerge.writing import check_writable

__all__ = ["check_plot", "draw_tradeoff"]

_KINDS = (".png", ".svg", ".pdf")


def check_plot(target: Path) -> None:
    """Check in advance that a plot can be written.

    Raises:
        RuntimeMissingError: matplotlib is not installed.
        UsageError: The file's kind is unknown, or it cannot be written.
    """
    if target.suffix.lower() not in _KINDS:
        raise UsageError(f"--plot {target}: expected a name that ends in {', '.join(_KINDS)}")
    check_writable(target)
    _figure_class()


def draw_tradeoff(result: Tradeoff, target: Path) -> None:
    """Draw quality against the remaining MACs, parameters and latency.

    Args:
        result: The curve.
        target: A .png, .svg or .pdf.

    Raises:
        RuntimeMissingError: matplotlib is not installed.
        UsageError: The file cannot be written.
    """
    figure_class = _figure_class()
    name, values = _quality(result)
    figure = figure_class(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, left in _shares(result).items():
        known = [(share, value) for share, value in zip(left, values, strict=True) if share is not None]
        axes.plot(*zip(*known, strict=True), marker="o", label=label)
    for word, place in (("knee", result.knee), ("largest within the limit", result.largest)):
        if place is not None:
            share = _shares(result)["MACs"][place + 1]
            axes.annotate(
                word, (share, values[place + 1]), xytext=(0, -22), textcoords="offset points", ha="center",
                arrowprops={"arrowstyle": "-"},
            )  # fmt: skip
    axes.invert_xaxis()
    axes.set(xlabel="remaining, % of the original", ylabel=name, title=Path(result.source).name)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(target, dpi=150)
    except OSError as error:
        raise UsageError(f"--plot {target} cannot be written: {error.strerror or error}") from error


def _quality(result: Tradeoff) -> tuple[str, list[float]]:
    """The quantity of the curve, and its values, starting with the original."""
    points = result.points
    if result.accuracy_before is not None and all(point.accuracy is not None for point in points):
        return "top-1 accuracy, %", [result.accuracy_before, *(point.accuracy or 0.0 for point in points)]
    if all(point.agreement is not None for point in points):
        return "same top-1 class, %", [100.0, *(point.agreement or 0.0 for point in points)]
    return "lowest cosine of an output", [1.0, *(point.cosine or 0.0 for point in points)]


def _shares(result: Tradeoff) -> dict[str, list[float | None]]:
    """Remaining percentage of the original, starting with the original."""
    before = result.before

    def time(point: Point) -> float | None:
        return None if point.latency is None else 100.0 / point.latency.speedup

    points = result.points
    return {
        "MACs": [100.0, *(100.0 * point.after.macs / max(before.macs, 1) for point in points)],
        "parameters": [100.0, *(100.0 * point.after.parameters / max(before.parameters, 1) for point in points)],
        "latency": [100.0, *(time(point) for point in points)],
    }


def _figure_class() -> Any:  # noqa: ANN401 - an extra that need not be there
    """Matplotlib's ``Figure``; without pyplot, which would choose a backend for the whole process."""
    try:
        from matplotlib import figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RuntimeMissingError(f"--plot needs matplotlib; try: {installing('report')}") from error
    return figure.Figure
