"""The charts of a report, drawn with matplotlib: channels along the depth, sensitivity curves, latency.

Each chart is drawn twice, for a wide window and for a phone; the style sheet shows one of them.

Text from the model (names, reasons) is never drawn in a figure, where matplotlib might parse it as mathematics; it is
in the tooltips of the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from onnxmerge.report import units
from onnxmerge.report.model import Account, GroupEntry, PinnedEntry
from onnxmerge.report.svg import DEPTHS, INKS, drawing, to_svg
from onnxmerge.report.wording import how
from onnxmerge.runtime.latency import Comparison

__all__ = ["depth_chart", "depth_key", "harm_chart", "latency_chart", "latency_range"]

_HEIGHT = 3.1
"""Inches, of 72 units of the drawing each."""
_BINS, _ROUNDS = 40, 400
_LEAST_HARM = 1e-9
"""Lower values are drawn here: a logarithmic scale has no zero."""
_BELOW_CHOICES = 10.0
"""The sensitivity axis ends this far below the lowest chosen value; lower values are irrelevant."""
_SLOWEST = 99
"""Percentile of the times at which the axes of the latency end."""
_MEDIANS = 3.0
"""They end at this multiple of the larger median if that is less: on a busy machine 5 % of the runs may take 40 times
as long as the rest, which would be a single bar."""


class _Form(NamedTuple):
    """A form of a chart: the end of its id, its width in inches, labels along its axis, and axes beside each other."""

    suffix: str
    width: float
    ticks: int
    columns: int


_FORMS = (_Form("", 9.6, 16, 2), _Form("-narrow", 4.6, 7, 1))


def _drawn(draw: Callable[[_Form], str]) -> str:
    return "\n".join(draw(form) for form in _FORMS)


def depth_chart(account: Account) -> str:
    """Channels of every group and of every pinned producer in the order of the nodes that make them."""
    return _drawn(lambda form: _depth(account, form))


def _depth(account: Account, form: _Form) -> str:
    found: list[GroupEntry | PinnedEntry] = [*account.groups, *account.pinned]
    entries = sorted(found, key=lambda entry: entry.place)
    marks = {}
    with drawing(f"depth{form.suffix}") as figure_of:
        figure = figure_of(figsize=(form.width, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(entries))
        sizes = [entry.size for entry in entries]
        kept = [entry.kept if isinstance(entry, GroupEntry) else 0 for entry in entries]
        pinned = [entry.size if isinstance(entry, PinnedEntry) else 0 for entry in entries]
        width = 0.8 if len(entries) > 12 else 0.6
        axes.bar(places, sizes, width, color=INKS["faint"])
        axes.bar(places, pinned, width, color=INKS["pinned"])
        axes.bar(places, kept, width, color=INKS["after"])
        for place, entry in enumerate(entries):
            # An invisible bar of full height receives the pointer: some bars are too low to hit.
            hit = axes.bar([place], [max(sizes)], 1.0, facecolor="none", edgecolor="none")[0]
            hit.set_gid(f"mark-depth{place}")
            marks[f"depth{place}"] = _depth_words(entry, account.nodes)
        shown = places[:: max(1, -(-len(entries) // form.ticks))]
        axes.set_xticks(shown, [str(entries[place].place) for place in shown])
        axes.set(xlabel="node that produces the channels", ylabel="channels")
        axes.set_xlim(-0.7, len(entries) - 0.3)
        return to_svg(figure, f"depth{form.suffix}", "Channels kept along the depth of the network", marks)


def _depth_words(entry: GroupEntry | PinnedEntry, nodes: int) -> str:
    lines = [entry.name, f"node {entry.place} of {nodes}"]
    if isinstance(entry, PinnedEntry):
        return "\n".join([*lines, f"{entry.size} of {entry.total} channels pinned", *entry.words[:3]])
    kept = f"{entry.kept} of {entry.size} channels kept ({units.percent(entry.kept / entry.size)})"
    lines += [kept, f"{units.share(entry.macs_share)} of the MACs"]
    if entry.kept < entry.size:
        lines.append(f"method: {how(entry)}")
    if entry.harm is not None:
        lines.append(f"predicted error: {units.small(entry.harm)}")
    return "\n".join([*lines, *([entry.note] if entry.note else [])])


def depth_key(groups: Sequence[GroupEntry]) -> list[tuple[str, int, int]]:
    """The colours of the curves: name, first and last node, from the input to the output of the network."""
    places = sorted(group.place for group in groups)
    parts = min(len(DEPTHS), len(places))
    ends = [part * len(places) // parts for part in range(parts + 1)]
    inks = [DEPTHS[part * (len(DEPTHS) - 1) // max(parts - 1, 1)] for part in range(parts)]
    key = [(ink, places[low], places[high - 1]) for ink, (low, high) in zip(inks, pairwise(ends), strict=True)]
    # A node that produces several groups has one colour.
    return [each for number, each in enumerate(key) if number == 0 or each[2] > key[number - 1][2]]


def harm_chart(groups: Sequence[GroupEntry]) -> str:
    """Predicted error of each group by the fraction of its channels kept; a point marks the choice."""
    return _drawn(lambda form: _harm(groups, form))


def _harm(groups: Sequence[GroupEntry], form: _Form) -> str:
    marks = {}
    key = depth_key(groups)
    colours = [INKS[next(ink for ink, _, last in key if group.place <= last)] for group in groups]
    with drawing(f"harm{form.suffix}") as figure_of:
        figure = figure_of(figsize=(form.width, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, (group, colour) in enumerate(zip(groups, colours, strict=True)):
            counts, harms = (np.array(values, dtype=np.float64) for values in zip(*group.curve, strict=True))
            inside = counts < group.size
            line = 100 * counts[inside] / group.size, np.maximum(harms[inside], _LEAST_HARM)
            axes.plot(*line, lw=1.4, color=colour)
            # An invisible wide line receives the pointer.
            axes.plot(*line, lw=9, alpha=0, color=INKS["after"])[0].set_gid(f"mark-curve{number}")
            marks[f"curve{number}"] = _harm_words(group)
        for number, (group, colour) in enumerate(zip(groups, colours, strict=True)):
            if group.kept == group.size or group.harm is None:
                continue
            point = [100 * group.kept / group.size], [max(group.harm, _LEAST_HARM)]
            dot = axes.plot(*point, "o", ms=6.5, mew=1.3, color=colour, mec=INKS["ink"], zorder=3)[0]
            dot.set_gid(f"mark-choice{number}")
            marks[f"choice{number}"] = _harm_words(group)
        axes.set_yscale("log")
        axes.set_ylim(*_harm_range(groups))
        axes.minorticks_off()
        axes.set_xlim(102, -2)
        axes.set(xlabel="channels kept, % of the group", ylabel="predicted error")
        title = "Predicted error by channels kept, one line for each group"
        return to_svg(figure, f"harm{form.suffix}", title, marks)


def _harm_range(groups: Sequence[GroupEntry]) -> tuple[float, float]:
    chosen = [group.harm for group in groups if group.harm and group.kept < group.size]
    highest = max((harm for group in groups for _, harm in group.curve), default=1.0)
    lowest = min(chosen, default=highest / 1e4) / _BELOW_CHOICES
    return max(lowest, _LEAST_HARM), max(2 * highest, 10 * _LEAST_HARM)


def _harm_words(group: GroupEntry) -> str:
    harm = "–" if group.harm is None else units.small(group.harm)
    return (
        f"{group.name}\nnode {group.place}\n{group.kept} of {group.size} channels kept\npredicted error there: {harm}"
    )


def latency_range(latency: Comparison) -> tuple[float, float]:
    """Where the axes of the latency end, in milliseconds, and the fraction of the runs that took longer."""
    times = np.concatenate([latency.dense.times_ms, latency.compressed.times_ms])
    medians = latency.dense.median_ms, latency.compressed.median_ms
    end = max(min(float(np.percentile(times, _SLOWEST)), _MEDIANS * max(medians)), *medians)
    end = end if end > times.min() else float(times.min()) + 1e-3
    return end, float(np.mean(times > end))


def latency_chart(latency: Comparison) -> str:
    """Distribution of the latency of both models, and each round in order."""
    return _drawn(lambda form: _latency(latency, form))


def _latency(latency: Comparison, form: _Form) -> str:
    both = {"before": latency.dense, "after": latency.compressed}
    marks = {}
    rows = 2 // form.columns
    with drawing(f"latency{form.suffix}") as figure_of:
        figure = figure_of(figsize=(form.width, _HEIGHT * (1 if rows == 1 else 1.6)), layout="constrained")
        spread, rounds = figure.subplots(rows, form.columns)
        most, _ = latency_range(latency)
        edges = np.linspace(min(float(np.min(each.times_ms)) for each in both.values()), most, _BINS + 1)
        for key, each in both.items():
            heights, _ = np.histogram(each.times_ms, edges)
            bars = spread.stairs(heights, edges, fill=True, color=INKS[key], alpha=0.55)
            bars.set_gid(f"mark-latency-{key}")
            marks[f"latency-{key}"] = (
                f"{key}\nmedian {units.milliseconds(each.median_ms)}\n95th percentile "
                f"{units.milliseconds(each.p95_ms)}\n{each.runs} runs"
            )
            spread.axvline(each.median_ms, color=INKS[key], lw=1.6)
            step = max(1, -(-len(each.times_ms) // _ROUNDS))
            thinned = np.minimum(each.times_ms[::step], most)
            rounds.plot(np.arange(len(thinned)) * step + 1, thinned, lw=0.8, color=INKS[key])
        spread.set(xlabel="time of one run, ms (lines: medians)", ylabel="runs")
        rounds.set(xlabel="round", ylabel="time of one run, ms", ylim=(0, most * 1.03))
        return to_svg(figure, f"latency{form.suffix}", "Times of single runs of both models", marks)
