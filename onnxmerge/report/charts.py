"""The charts of a report, drawn with matplotlib: channels along the depth, sensitivity curves, latency.

Text from the model (names, reasons) is never drawn in a figure, where matplotlib might parse it as mathematics; it is
in the tooltips of the marks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.report import units
from onnxmerge.report.model import Account, GroupEntry, PinnedEntry
from onnxmerge.report.svg import INKS, drawing, to_svg
from onnxmerge.report.wording import how
from onnxmerge.runtime.latency import Comparison

__all__ = ["depth_chart", "harm_chart", "latency_chart"]

_WIDTH, _HEIGHT = 9.6, 3.1
"""Inches, of 72 units of the drawing each."""
_TICKS, _BINS, _ROUNDS = 16, 40, 400
_LEAST_HARM = 1e-9
"""Lower values are drawn here: a logarithmic scale has no zero."""
_BELOW_CHOICES = 10.0
"""The sensitivity axis ends this far below the lowest chosen value; lower values are irrelevant."""


def depth_chart(account: Account) -> str:
    """Channels of every group and of every pinned producer in the order of the nodes that make them."""
    found: list[GroupEntry | PinnedEntry] = [*account.groups, *account.pinned]
    entries = sorted(found, key=lambda entry: entry.place)
    marks = {}
    with drawing("depth") as figure_of:
        figure = figure_of(figsize=(_WIDTH, _HEIGHT), layout="constrained")
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
        shown = places[:: max(1, -(-len(entries) // _TICKS))]
        axes.set_xticks(shown, [str(entries[place].place) for place in shown])
        axes.set(xlabel="number of the node that makes the channels", ylabel="channels")
        axes.set_xlim(-0.7, len(entries) - 0.3)
        return to_svg(figure, "depth", "Channels kept along the depth of the network", marks)


def _depth_words(entry: GroupEntry | PinnedEntry, nodes: int) -> str:
    lines = [entry.name, f"node {entry.place} of {nodes}"]
    if isinstance(entry, PinnedEntry):
        return "\n".join([*lines, f"{entry.size} of {entry.total} channels pinned", *entry.words[:3]])
    kept = f"{entry.kept} of {entry.size} channels kept ({units.percent(entry.kept / entry.size)})"
    lines += [kept, f"{units.share(entry.macs_share)} of the MACs"]
    if entry.kept < entry.size:
        lines.append(f"method: {how(entry)}")
    if entry.harm is not None:
        lines.append(f"predicted harm: {units.small(entry.harm)}")
    return "\n".join([*lines, *([entry.note] if entry.note else [])])


def harm_chart(groups: Sequence[GroupEntry]) -> str:
    """Predicted sensitivity of each group by the fraction of its channels kept; a point marks the choice."""
    marks = {}
    with drawing("harm") as figure_of:
        figure = figure_of(figsize=(_WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, group in enumerate(groups):
            counts, harms = (np.array(values, dtype=np.float64) for values in zip(*group.curve, strict=True))
            inside = counts < group.size
            line = 100 * counts[inside] / group.size, np.maximum(harms[inside], _LEAST_HARM)
            axes.plot(*line, lw=1.2, color=INKS["before"])
            # An invisible wide line receives the pointer.
            axes.plot(*line, lw=9, alpha=0, color=INKS["after"])[0].set_gid(f"mark-curve{number}")
            marks[f"curve{number}"] = _harm_words(group)
        for number, group in enumerate(groups):
            if group.kept == group.size or group.harm is None:
                continue
            dot = axes.plot(
                [100 * group.kept / group.size], [max(group.harm, _LEAST_HARM)], "o", ms=6, color=INKS["after"]
            )[0]
            dot.set_gid(f"mark-choice{number}")
            marks[f"choice{number}"] = _harm_words(group)
        chosen = [group.harm for group in groups if group.harm and group.kept < group.size]
        highest = max((harm for group in groups for _, harm in group.curve), default=1.0)
        lowest = min(chosen, default=highest / 1e4) / _BELOW_CHOICES
        axes.set_yscale("log")
        axes.set_ylim(max(lowest, _LEAST_HARM), max(2 * highest, 10 * _LEAST_HARM))
        axes.minorticks_off()
        axes.set_xlim(102, -2)
        axes.set(xlabel="channels kept, percent of the group", ylabel="predicted harm")
        return to_svg(figure, "harm", "Predicted harm by channels kept, one line for each group", marks)


def _harm_words(group: GroupEntry) -> str:
    harm = "–" if group.harm is None else units.small(group.harm)
    return f"{group.name}\n{group.kept} of {group.size} channels kept\npredicted harm there: {harm}"


def latency_chart(latency: Comparison) -> str:
    """Distribution of the latency of both models, and each round in order."""
    both = {"before": latency.dense, "after": latency.compressed}
    marks = {}
    with drawing("latency") as figure_of:
        figure = figure_of(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        spread, rounds = figure.subplots(1, 2)
        times = np.concatenate([each.times_ms for each in both.values()])
        # The slowest hundredth is noise of the machine and would compress the rest.
        most = max(float(np.percentile(times, 99)), *(each.median_ms for each in both.values()))
        edges = np.linspace(float(times.min()), most if most > times.min() else float(times.min()) + 1e-3, _BINS + 1)
        for key, each in both.items():
            heights, _ = np.histogram(np.clip(each.times_ms, None, edges[-1]), edges)
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
        rounds.set(xlabel="round, in the order in which they ran", ylabel="ms", ylim=(0, None))
        return to_svg(figure, "latency", "Times of single runs of both models", marks)
