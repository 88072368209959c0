"""The account as a person reads it in a terminal, or in a file that a terminal's output went to.

1. First one sentence with the verdict; whoever reads no further has not been misled.
2. Then groups, then what is pinned and why, then what was measured, before and after; then notes.
3. Of long lists only the groups that cost most are shown, in graph order, and how many are not; ``verbose`` shows all.
   Names are folded, never cut: they are what ``--only`` and ``--skip`` are given.
4. Notes that many groups share are numbered and written once.
5. Text of the model is shown as it is, never read as markup, and its control characters never reach the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxmerge.report import units
from onnxmerge.report.account import Account, GroupEntry, Inspection, PinnedEntry, SideBySide, Sizes, Tradeoff
from onnxmerge.report.modes import modes_lines
from onnxmerge.report.verdict import (
    account_verdict,
    inspection_verdict,
    outcome,
    side_by_side_verdict,
    tradeoff_verdict,
)
from onnxmerge.runtime.fidelity import Fidelity, OutputFidelity
from onnxmerge.runtime.latency import Comparison
from onnxmerge.verify import BatchTiming

__all__ = ["show_account", "show_inspection", "show_side_by_side", "show_tradeoff"]

ROWS = 25
REASONS = 10
NAMES = 3

Item = TypeVar("Item")


def show_account(console: Console, account: Account, *, verbose: bool = False) -> None:
    """Prints the account of a compression.

    Args:
        console: Where to.
        account: What to.
        verbose: All groups and pins, and the time of each stage.
    """
    _sentence(console, account_verdict(account))
    _line(console, outcome(account))
    _groups(console, account.groups, verbose=verbose, cut=True)
    _pinned(console, account.pinned, verbose=verbose)
    if account.importances is not None:
        console.print()
        for line in modes_lines(account.importances):
            _line(console, line)
    accuracies = (account.accuracy_before, account.accuracy_after)
    _measures(console, (account.before, account.after), accuracies, account.latency)
    _shapes(console, account.shapes)
    _fidelity(console, account.fidelity, account.samples, verbose=verbose)
    _notes(console, account.notes)
    if verbose and account.seconds:
        _stage_times(console, account.seconds)


def show_inspection(console: Console, inspection: Inspection, *, verbose: bool = False) -> None:
    """Prints what could go from a model, and why the rest cannot.

    Args:
        console: Where to.
        inspection: What to.
        verbose: All groups and pins.
    """
    _sentence(console, inspection_verdict(inspection))
    sizes = inspection.sizes
    made_by = f", made by {inspection.producer}" if inspection.producer else ""
    _line(
        console,
        f"{inspection.source}: opset {inspection.opset}{made_by}; {inspection.nodes} nodes, "
        f"{units.count(sizes.parameters)} parameters, {units.count(sizes.macs)} MACs, "
        f"{units.bytes_of(sizes.file_bytes) + ', ' if sizes.file_bytes is not None else ''}"
        f"{sizes.channels} channels that can go",
    )
    _shapes(console, inspection.shapes)
    _groups(console, inspection.groups, verbose=verbose, cut=False)
    _pinned(console, inspection.pinned, verbose=verbose)
    _notes(console, inspection.notes)


def show_side_by_side(console: Console, result: SideBySide, *, verbose: bool = False) -> None:
    """Prints two models side by side.

    Args:
        console: Where to.
        result: What to.
        verbose: All outputs.
    """
    _sentence(console, side_by_side_verdict(result))
    _line(console, f"A is {result.first}")
    _line(console, f"B is {result.second}")
    accuracies = (result.accuracy_before, result.accuracy_after)
    _measures(console, (result.before, result.after), accuracies, result.latency, heads=("A", "B"))
    _batches(console, result.batches)
    _fidelity(console, result.fidelity, result.samples, verbose=verbose)
    _notes(console, result.notes)


def show_tradeoff(console: Console, result: Tradeoff, *, verbose: bool = False) -> None:
    """Prints a trade-off curve as a table.

    Args:
        console: Where to.
        result: What to.
        verbose: Also the time of each stage.
    """
    _sentence(console, tradeoff_verdict(result))
    points, before = result.points, result.before
    latencies = [point.latency for point in points]
    columns = (
        (">MACs", [units.change(before.macs, point.after.macs) for point in points]),
        (">Params", [units.change(before.parameters, point.after.parameters) for point in points]),
        (">Speed-up", ["–" if each is None else f"{each.speedup:.2f}x" for each in latencies]),
        (">Top-1", ["" if point.accuracy is None else units.percent(point.accuracy / 100) for point in points]),
        (">Same", ["" if point.agreement is None else units.percent(point.agreement / 100) for point in points]),
        (">Cosine", [_if_known(units.cosine, point.cosine) for point in points]),
    )
    filled = [(head, values) for head, values in columns if any(values)]
    table = _table(">To go", *(head for head, _ in filled), "")
    for place, point in enumerate(points):
        marks = [word for word, at in (("knee", result.knee), ("holds", result.largest)) if at == place]
        table.add_row(f"{point.ratio:g}", *(values[place] for _, values in filled), ", ".join(marks))
    _print(console, table)
    timed = next((each for each in latencies if each is not None), None)
    if timed is not None:
        _line(console, f"Timed in turns with the original, batch {timed.dense.batch}, {timed.dense.provider}.")
    _line(console, f"Same: top-1 decisions that stayed. Measured on {result.samples}.")
    _notes(console, result.notes)
    if verbose:
        _stage_times(console, result.seconds)


def _batches(console: Console, batches: Sequence[BatchTiming]) -> None:
    """Medians by batch size; on a device a second row each, without the copies to it."""
    if not batches:
        return
    table = _table(">Batch", "Arrays", ">A", ">B", ">Speed-up", ">95 % interval")
    for entry in batches:
        for where, timing in (("host", entry.host), ("device", entry.device)):
            if timing is not None:
                known = timing.low is not None and timing.high is not None
                table.add_row(
                    str(entry.batch), where, units.milliseconds(timing.dense.median_ms),
                    units.milliseconds(timing.compressed.median_ms), f"{timing.speedup:.2f}x",
                    f"{timing.low:.2f}-{timing.high:.2f}" if known else "–",
                )  # fmt: skip
    _print(console, table)


def _stage_times(console: Console, seconds: Mapping[str, float]) -> None:
    table = _table("Stage", ">Time")
    for stage, time in seconds.items():
        table.add_row(_plain(stage), units.seconds(time))
    _print(console, table)


def _measures(
    console: Console,
    sizes: tuple[Sizes, Sizes],
    accuracies: tuple[float | None, float | None],
    latency: Comparison | None,
    heads: tuple[str, str] = ("Before", "After"),
) -> None:
    table = _table("", *(f">{head}" for head in heads), ">Change")
    before, after = sizes
    for name, one, two, form in (
        ("Parameters", before.parameters, after.parameters, units.count),
        ("MACs", before.macs, after.macs, units.count),
        ("Channels", before.channels, after.channels, str),
    ):
        table.add_row(name, form(one), form(two), units.change(one, two))
    if before.file_bytes is not None or after.file_bytes is not None:
        known = before.file_bytes is not None and after.file_bytes is not None
        relative = units.change(before.file_bytes or 0, after.file_bytes or 0) if known else "–"
        table.add_row("File", units.bytes_of(before.file_bytes), units.bytes_of(after.file_bytes), relative)
    if accuracies[0] is not None and accuracies[1] is not None:
        shown = [units.percent(each / 100) for each in accuracies if each is not None]
        table.add_row("Top-1 accuracy", *shown, units.points(accuracies[1] - accuracies[0]))
    if latency is not None:
        dense, compressed = latency.dense, latency.compressed
        medians, tails = (dense.median_ms, compressed.median_ms), (dense.p95_ms, compressed.p95_ms)
        table.add_row("Latency, median", *map(units.milliseconds, medians), units.change(*medians))
        # No change for these: interruptions of the machine make it, not the model.
        table.add_row("Latency, p95", *map(units.milliseconds, tails), "")
    _print(console, table)
    if latency is not None:
        _line(console, _latency_words(latency))


def _latency_words(latency: Comparison) -> str:
    dense, compressed = latency.dense, latency.compressed
    interval = "no interval, too few runs"
    if latency.low is not None and latency.high is not None:
        interval = f"95 % interval {latency.low:.2f}-{latency.high:.2f}"
    providers = list(dict.fromkeys((dense.provider, compressed.provider)))
    threads = "ONNX Runtime's choice of threads" if dense.threads is None else _several(dense.threads, "thread")
    return (
        f"Speed-up {latency.speedup:.2f}x ({interval}): {_several(dense.runs, 'run')} each in turns, "
        f"batch {dense.batch}, {' against '.join(providers)}, {threads}."
    )


def _fidelity(console: Console, fidelity: Fidelity | None, samples: str, *, verbose: bool) -> None:
    if fidelity is None:
        return
    shown = _most(fidelity.outputs, [-_nearness(output) for output in fidelity.outputs], verbose=verbose)
    columns = (
        (">Cosine", [_if_known(units.cosine, each.cosine) for each in shown]),
        (">Rel. L2", [_if_known(units.small, each.relative_l2) for each in shown]),
        (">Max. diff.", [_if_known(units.small, each.max_abs) for each in shown]),
        (">Same top-1", [_if_known(units.percent, each.top1_agreement) for each in shown]),
        (">Equal", [_if_known(units.percent, each.equal_fraction) for each in shown]),
        (">n", [str(each.samples) for each in shown]),
    )
    filled = [(head, values) for head, values in columns if any(values)]
    table = _table("Output", *(head for head, _ in filled))
    for row, output in enumerate(shown):
        table.add_row(_plain(output.name), *(values[row] or "–" for _, values in filled))
    if shown:
        _print(console, table)
    _rest(console, len(fidelity.outputs) - len(shown), "output")
    if samples:
        _line(console, f"Fidelity on {samples}.")


def _if_known(form: Callable[[float], str], value: float | None) -> str:
    return "" if value is None else form(value)


def _nearness(output: OutputFidelity) -> float:
    values = (output.cosine, output.equal_fraction)
    return min((value for value in values if value is not None), default=1.0)


def _groups(console: Console, groups: Sequence[GroupEntry], *, verbose: bool, cut: bool) -> None:
    if not groups:
        return
    shown = _most(groups, [group.macs_share for group in groups], verbose=verbose)
    notes = list(dict.fromkeys(group.note for group in shown if group.note))
    head = (">Kept / of", ">MACs", "How") if cut else (">Channels", ">MACs", "Nodes")
    table = _table("Group", *head, *([">Note"] if notes else []))
    for group in shown:
        size = f"{group.kept} / {group.size}" if cut else str(group.size)
        how = _how(group) if cut else f"{len(group.producers)} in, {len(group.consumers)} out"
        note = [str(notes.index(group.note) + 1) if group.note else ""] if notes else []
        table.add_row(_plain(group.name), size, units.share(group.macs_share), how, *note)
    _print(console, table)
    for number, note_text in enumerate(notes, 1):
        _line(console, f"{number}: {note_text}")
    _rest(console, len(groups) - len(shown), "group")


def _how(group: GroupEntry) -> str:
    if group.kept == group.size:
        return "left alone"
    return " + ".join(each for each in (group.select, group.compensate) if each and each != "none") or "–"


def _pinned(console: Console, pinned: Sequence[PinnedEntry], *, verbose: bool) -> None:
    """Pins by reason. A reason reads "node: why"; without ``verbose`` all nodes with the same why share a row."""
    if not pinned:
        return
    by_reason: dict[str, list[PinnedEntry]] = {}
    for entry in pinned:
        reasons = entry.reasons or ("not said why",)
        for reason in dict.fromkeys(each if verbose else each.rpartition(": ")[2] for each in reasons):
            by_reason.setdefault(reason, []).append(entry)
    shown = list(by_reason.items())[: None if verbose else REASONS]
    table = _table("Pinned because", ">Channels", "Of")
    for reason, entries in shown:
        names = [entry.name for entry in entries]
        most = len(names) if verbose else NAMES
        more = f" and {len(names) - most} more" if len(names) > most else ""
        channels = f"{sum(entry.size for entry in entries)} / {sum(entry.total for entry in entries)}"
        table.add_row(_plain(reason), channels, _plain(", ".join(names[:most]) + more))
    _print(console, table)
    _rest(console, len(by_reason) - len(shown), "reason")


def _notes(console: Console, notes: Iterable[str]) -> None:
    distinct = list(dict.fromkeys(notes))
    if distinct:
        console.print()
    for note in distinct:
        _line(console, f"Note: {note}")


def _shapes(console: Console, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if shapes:
        shown = ", ".join(f"{name} {'x'.join(map(str, dims)) or 'scalar'}" for name, dims in shapes.items())
        _line(console, f"Measured at {shown}.")


def _most(items: Sequence[Item], weights: Sequence[float], *, verbose: bool) -> list[Item]:
    """At most ``ROWS`` items, those of the largest weights, in their own order; of equals the first."""
    if verbose or len(items) <= ROWS:
        return list(items)
    heaviest = sorted(range(len(items)), key=lambda i: -weights[i])[:ROWS]
    return [items[i] for i in sorted(heaviest)]


def _rest(console: Console, left: int, thing: str) -> None:
    if left > 0:
        _line(console, f"… and {_several(left, f'more {thing}')} (-v shows all)")


def _several(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _table(*heads: str) -> Table:
    """An empty table; a head that starts with ">" is that of a column of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for head in heads:
        number = head.startswith(">")
        table.add_column(
            Text(head.removeprefix(">")), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table


def _print(console: Console, table: Table) -> None:
    console.print()
    console.print(table)


def _sentence(console: Console, words: str) -> None:
    console.print(_plain(words), style="bold")


def _line(console: Console, words: str) -> None:
    console.print(_plain(words))


def _plain(words: str) -> Text:
    return Text("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words), overflow="fold")
