"""Comparisons of models in the terminal: a report, two models, a trade-off curve."""

from __future__ import annotations

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.importance_histogram import modes_lines
from onnxmerge.report.model import Account, SideBySide, Tradeoff
from onnxmerge.report.speed import remarks
from onnxmerge.report.terminal.groups import groups_of, pinned_of
from onnxmerge.report.terminal.lines import if_known, line, notes_of, print_table, sentence, shapes_of, table_of
from onnxmerge.report.terminal.measured import batches_of, divergence_of, fidelity_of, measures, stage_times
from onnxmerge.report.verdict import account_verdict, outcome, side_by_side_verdict, tradeoff_verdict
from onnxmerge.report.wording import titled_groups, titled_pins, with_names

__all__ = ["show_account", "show_side_by_side", "show_tradeoff"]


def show_account(console: Console, account: Account, *, verbose: bool = False) -> None:
    """Print the report of a compression.

    Args:
        console: Where to.
        account: What to.
        verbose: All groups and pins, and the time of each stage.
    """
    sentence(console, account_verdict(account))
    line(console, outcome(account))
    titles = with_names(account.titles) if verbose else account.titles
    groups_of(console, titled_groups(account.groups, titles), verbose=verbose)
    pinned_of(console, titled_pins(account.pinned, titles), verbose=verbose)
    if account.importances is not None:
        console.print()
        for words in modes_lines(account.importances):
            line(console, words)
    accuracies = (account.accuracy_before, account.accuracy_after)
    measures(console, (account.before, account.after), accuracies, account.latency)
    shapes_of(console, account.shapes)
    fidelity_of(console, account.fidelity, account.samples, verbose=verbose)
    divergence_of(console, account)
    notes_of(console, account.notes)
    if verbose and account.seconds:
        stage_times(console, account.seconds, account.passes)


def show_side_by_side(console: Console, result: SideBySide, *, verbose: bool = False) -> None:
    """Prints two models side by side.

    Args:
        console: Where to.
        result: What to.
        verbose: All outputs.
    """
    sentence(console, side_by_side_verdict(result))
    line(console, f"A is {result.first}")
    line(console, f"B is {result.second}")
    accuracies = (result.accuracy_before, result.accuracy_after)
    measures(console, (result.before, result.after), accuracies, result.latency, heads=("A", "B"))
    batches_of(console, result.batches)
    fidelity_of(console, result.fidelity, result.samples, verbose=verbose)
    notes_of(console, result.notes)


def show_tradeoff(console: Console, result: Tradeoff, *, verbose: bool = False) -> None:
    """Prints a trade-off curve as a table.

    Args:
        console: Where to.
        result: What to.
        verbose: Also the time of each stage.
    """
    sentence(console, tradeoff_verdict(result))
    points, before = result.points, result.before
    latencies = [point.latency for point in points]
    columns = (
        (">MACs", [units.change(before.macs, point.after.macs) for point in points]),
        (">Params", [units.change(before.parameters, point.after.parameters) for point in points]),
        (
            ">Speed",
            ["–" if each is None else units.speed_alone(each.speedup, each.low, each.high) for each in latencies],
        ),
        (">Top-1", ["" if point.accuracy is None else units.percent(point.accuracy / 100) for point in points]),
        (">Same", ["" if point.agreement is None else units.percent(point.agreement / 100) for point in points]),
        (">Cosine", [if_known(units.cosine, point.cosine) for point in points]),
    )
    filled = [(head, values) for head, values in columns if any(values)]
    table = table_of(">Ratio", *(head for head, _ in filled), "")
    for place, point in enumerate(points):
        marks = [word for word, at in (("knee", result.knee), ("holds", result.largest)) if at == place]
        table.add_row(f"{point.ratio:g}", *(values[place] for _, values in filled), ", ".join(marks))
    print_table(console, table)
    if result.accuracy_before is not None:
        line(console, f"Top-1 accuracy of the original: {units.percent(result.accuracy_before / 100)}.")
    timed = next((each for each in latencies if each is not None), None)
    if timed is not None:
        line(console, f"Timed alternately with the original, batch {timed.dense.batch}, {timed.dense.provider}.")
    if any(each is not None and each.clock == "cpu" for each in latencies):
        line(console, "The machine was busy: speed-ups are those of processor time.")
    for point in points:
        for words in remarks(point.latency) if point.latency is not None and point.latency.doubts else ():
            line(console, f"{point.ratio:g}: {words}")
    line(console, f"Same: samples whose top class is unchanged. Measured on {result.samples}.")
    notes_of(console, result.notes)
    if verbose:
        stage_times(console, result.seconds)
