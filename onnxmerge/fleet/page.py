"""The results of a fleet as one page: table, fronts, and a link to each report beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from onnxmerge.fleet.outcome import Fleet, Outcome, pareto
from onnxmerge.fleet.store import PAGE, REPORT
from onnxmerge.report.page import check_page, render
from onnxmerge.report.svg import INKS, drawing, to_svg
from onnxmerge.writing import write_text

__all__ = ["write_fleet"]

_DRAWN = 60
"""Maximum number of models in the chart; more lines cannot be told apart."""
_WIDTH, _HEIGHT = 9.6, 4.2


@dataclass(frozen=True)
class _Row:
    outcome: Outcome
    label: str
    front: bool
    link: str


def write_fleet(fleet: Fleet, folder: Path, target: Path) -> Path:
    """Write the page; links in it are relative, so that it can be moved together with the results.

    Args:
        fleet: The results.
        folder: Where they are kept.
        target: The page, in the same folder.

    Raises:
        RuntimeMissingError: Jinja2 or matplotlib is not installed.
        UsageError: The file cannot be written.
    """
    check_page(target)
    by_model = {model: list(found) for model, found in groupby(sorted(fleet.outcomes, key=_model), key=_model)}
    fronts = {model: pareto(found) for model, found in by_model.items()}
    labels = _labels(list(by_model))
    rows = [
        _Row(each, labels[each.model], each in fronts[each.model], _link(folder, each.name)) for each in fleet.outcomes
    ]
    drawn = sorted((front for front in fronts.values() if front), key=lambda front: front[-1].quality or 0.0)[:_DRAWN]
    page = render(
        "fleet.html",
        title=f"{len(by_model)} models",
        verdict=verdict(fleet),
        fleet=fleet,
        rows=rows,
        chart=_chart(drawn, labels) if drawn else "",
        quality=_quality(drawn),
        drawn=len(drawn),
        models=sum(bool(front) for front in fronts.values()),
        timed=any("faster" in each.numbers for each in fleet.outcomes),
    )
    write_text(target, page)
    return target


def verdict(fleet: Fleet) -> str:
    """One sentence on all results."""
    done, refused, failed = (fleet.count(state) for state in ("done", "refused", "failed"))
    reused = sum(each.reused for each in fleet.outcomes)
    parts = [f"{done} of {len(fleet.outcomes)} results are there"]
    parts += [f"{reused} were there already"] if reused else []
    parts += [f"{refused} were refused"] if refused else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join(parts)


def _model(outcome: Outcome) -> str:
    return outcome.model


def _labels(models: Sequence[str]) -> dict[str, str]:
    """File names, with the folder where two have the same."""
    names = [Path(model).name for model in models]
    return {model: name if names.count(name) == 1 else model for model, name in zip(models, names, strict=True)}


def _link(folder: Path, name: str) -> str:
    """Path of a result's report relative to the folder: the page if there is one, else the data; "" if none."""
    files = (Path(name) / file for file in (PAGE, REPORT)) if name else ()
    return next((quote(file.as_posix()) for file in files if (folder / file).is_file()), "")


def _quality(fronts: Sequence[Sequence[Outcome]]) -> str:
    """What the vertical axis shows; several measures may share it."""
    names = {"accuracy": "accuracy", "agreement": "share of same decisions", "cosine": "cosine"}
    first = {next(name for name in names if name in each.numbers) for front in fronts for each in front}
    return " or ".join(words for name, words in names.items() if name in first)


def _chart(fronts: Sequence[Sequence[Outcome]], labels: dict[str, str]) -> str:
    marks = {}
    with drawing("fronts") as figure_of:
        figure = figure_of(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        for number, front in enumerate(fronts):
            left = [100 * each.numbers["macs"] / max(each.numbers["macs_before"], 1.0) for each in front]
            heights = [each.quality for each in front]
            axes.plot(left, heights, lw=1.2, color=INKS["before"])
            for place, (x, y, each) in enumerate(zip(left, heights, front, strict=True)):
                key = f"front{number}-{place}"
                axes.plot([x], [y], "o", ms=5, color=INKS["after"])[0].set_gid(f"mark-{key}")
                marks[key] = (
                    f"{labels[each.model]}\n{each.method}, ratio {each.ratio:g}\n{x:.1f} % of the MACs, {y:.2f}"
                )
        axes.invert_xaxis()
        axes.set(xlabel="MACs left, percent of the original", ylabel=f"{_quality(fronts)}, percent")
        return to_svg(figure, "fronts", "Fidelity against MACs, a line for each model", marks)
