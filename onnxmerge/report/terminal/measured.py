"""Measurements: sizes before and after, fidelity of outputs, latency, the time of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.model import Account, Sizes
from onnxmerge.report.speed import clocked, remarks, speed
from onnxmerge.report.terminal.lines import if_known, line, most, plain, print_table, rest, several, table_of
from onnxmerge.report.terminal.names import Name
from onnxmerge.runtime.fidelity import Fidelity, OutputFidelity
from onnxmerge.runtime.latency import Comparison
from onnxmerge.verify import BatchTiming

__all__ = ["batches_of", "divergence_of", "fidelity_of", "measures", "stage_times"]

NO_PASSES: Mapping[str, float] = MappingProxyType({})


def measures(
    console: Console,
    sizes: tuple[Sizes, Sizes],
    accuracies: tuple[float | None, float | None],
    latency: Comparison | None,
    heads: tuple[str, str] = ("Before", "After"),
) -> None:
    """Prints sizes, accuracy and latency, before and after."""
    table = table_of("", *(f">{head}" for head in heads), ">Change")
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
        table.add_row("Top-1 accuracy", *shown, units.points(accuracies[0], accuracies[1]))
    if latency is not None:
        dense, compressed = latency.dense, latency.compressed
        medians, tails = (dense.median_ms, compressed.median_ms), (dense.p95_ms, compressed.p95_ms)
        # No change is shown for times that are caused by interruptions of the machine, not by the model.
        changed = units.change(*medians) if latency.clock == "wall" else "–"
        table.add_row("Latency, median", *map(units.milliseconds, medians), changed)
        if dense.min_ms is not None and compressed.min_ms is not None:
            table.add_row("Latency, minimum", *map(units.milliseconds, (dense.min_ms, compressed.min_ms)), "–")
        table.add_row("Latency, p95", *map(units.milliseconds, tails), "–")
        if dense.cpu_ms is not None and compressed.cpu_ms is not None:
            used = dense.cpu_ms, compressed.cpu_ms
            table.add_row("Processor time", *map(units.milliseconds, used), units.change(*used))
    print_table(console, table)
    if latency is not None:
        line(console, _latency_words(latency))
        for words in remarks(latency):
            line(console, words)


def _latency_words(latency: Comparison) -> str:
    dense, compressed = latency.dense, latency.compressed
    providers = list(dict.fromkeys((dense.provider, compressed.provider)))
    threads = "threads chosen by ONNX Runtime" if dense.threads is None else several(dense.threads, "thread")
    blocks = f" in {several(latency.blocks, 'block')}" if latency.blocks else ""
    turns = f"{several(dense.runs, 'run')} each, alternately{blocks}, batch {dense.batch}"
    return f"Latency: {speed(latency)}; {turns}, {' against '.join(providers)}, {threads}."


def fidelity_of(console: Console, fidelity: Fidelity | None, samples: str, *, verbose: bool) -> None:
    """Print the fidelity of outputs."""
    if fidelity is None:
        return
    shown = most(fidelity.outputs, [-_nearness(output) for output in fidelity.outputs], verbose=verbose)
    columns = (
        (">Cosine", [if_known(units.cosine, each.cosine) for each in shown]),
        (">Rel. L2", [if_known(units.small, each.relative_l2) for each in shown]),
        (">Max. diff.", [if_known(units.small, each.max_abs) for each in shown]),
        (">Same top-1", [if_known(units.percent, each.top1_agreement) for each in shown]),
        (">Equal", [if_known(units.percent, each.equal_fraction) for each in shown]),
        (">n", [str(each.samples) for each in shown]),
    )
    filled = [(head, values) for head, values in columns if any(values)]
    table = table_of("Output", *(head for head, _ in filled))
    for row, output in enumerate(shown):
        table.add_row(Name(output.name, full=verbose), *(values[row] or "–" for _, values in filled))
    if shown:
        print_table(console, table)
    rest(console, len(fidelity.outputs) - len(shown), "output")
    if samples:
        line(console, f"Fidelity on {samples}.")


def divergence_of(console: Console, account: Account) -> None:
    """Print the predicted divergence beside the measured one, and whether they are of samples of another kind."""
    if account.predicted is not None:
        guess = "" if account.settings.get("calib") or account.synthetic else " on synthetic samples"
        found = "" if account.measured is None else f", {units.small(account.measured)} measured"
        several = 0 if account.fidelity is None else len(account.fidelity.outputs)
        total = f" (the sum of {several} outputs)" if several > 1 else ""
        words = f"{units.small(account.predicted)} predicted{guess}{found}{total}"
        line(console, f"Squared error of the outputs relative to their variance: {words}.")


def _nearness(output: OutputFidelity) -> float:
    values = (output.cosine, output.equal_fraction)
    return min((value for value in values if value is not None), default=1.0)


def batches_of(console: Console, batches: Sequence[BatchTiming]) -> None:
    """Medians by batch size; on a device a second row each, without the copies to it."""
    if not batches:
        return
    table = table_of(">Batch", "Arrays", ">A", ">B", ">Speed", ">95 % interval", "Clock")
    for entry in batches:
        for where, timing in (("host", entry.host), ("device", entry.device)):
            if timing is not None:
                low, high = timing.low, timing.high
                table.add_row(
                    str(entry.batch), where, *map(units.milliseconds, clocked(timing)),
                    units.speed_alone(timing.speedup, low, high),
                    "–" if low is None or high is None else units.interval(low, high),
                    "wall" if timing.clock == "wall" else "processor",
                )  # fmt: skip
    print_table(console, table)


def stage_times(console: Console, seconds: Mapping[str, float], passes: Mapping[str, float] = NO_PASSES) -> None:
    """Prints the time of each stage, and how often it ran the network over all calibration samples."""
    table = table_of("Stage", ">Time", *([">Dense passes"] if passes else []))
    for stage, time in seconds.items():
        counted = [f"{passes[stage]:.1f}" if stage in passes else ""] if passes else []
        table.add_row(plain(stage), units.seconds(time), *counted)
    print_table(console, table)
