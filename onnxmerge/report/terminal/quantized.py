"""A quantization in the terminal: float models and the quantized one, side by side."""

from __future__ import annotations

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.quantization import Quantization, QuantizedEntry
from onnxmerge.report.terminal.lines import if_known, line, notes_of, print_table, sentence, several, table_of
from onnxmerge.report.terminal.measured import stage_times
from onnxmerge.report.verdict import quantization_verdict

__all__ = ["show_quantization"]

_ROLES = {"original": "Original", "input": "Input", "quantized": "Quantized"}


def show_quantization(console: Console, result: Quantization, *, verbose: bool = False) -> None:
    """Print a quantization as a table.

    Args:
        console: Where to.
        result: What to.
        verbose: Also the time of each stage.
    """
    sentence(console, quantization_verdict(result))
    line(console, f"{result.source} -> {result.target or 'nothing was written'}")
    models, first = result.models, result.models[0]
    rows = (
        ("MACs", [units.count(each.macs) for each in models]),
        ("File", [units.bytes_of(each.file_bytes) for each in models]),
        ("Top-1 accuracy", ["" if each.accuracy is None else units.percent(each.accuracy / 100) for each in models]),
        ("Cosine", [_cosine(each) for each in models]),
        ("Same top-1", [_agreement(each) for each in models]),
        ("Latency, median", [_median(each, models) for each in models]),
        ("Speed", [_speed(each) for each in models]),
    )
    table = table_of("", *(f">{_ROLES[each.role]}" for each in models))
    for name, cells in rows:
        if any(cells):
            table.add_row(name, *cells)
    print_table(console, table)
    timing = next((each.latency for each in models if each.latency is not None), None)
    compared = f"compared with the {first.role}"
    if timing is not None:
        dense = timing.dense
        threads = "ONNX Runtime's choice of threads" if dense.threads is None else several(dense.threads, "thread")
        turns = f"timed in turns, {several(dense.runs, 'run')} each, batch {dense.batch}"
        line(console, f"All are {compared}; {turns}, {timing.compressed.provider}, {threads}.")
    if result.calibration:
        line(console, f"Ranges from {result.calibration}.")
    line(console, f"Fidelity on {result.samples}.")
    notes_of(console, result.notes)
    if verbose:
        stage_times(console, result.seconds)


def _cosine(entry: QuantizedEntry) -> str:
    return "" if entry.fidelity is None else if_known(units.cosine, entry.fidelity.cosine)


def _agreement(entry: QuantizedEntry) -> str:
    outputs = entry.fidelity.outputs if entry.fidelity is not None else ()
    known = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    return units.percent(min(known)) if known else ""


def _median(entry: QuantizedEntry, models: tuple[QuantizedEntry, ...]) -> str:
    if entry.latency is not None:
        return units.milliseconds(entry.latency.compressed.median_ms)
    timed = next((each.latency for each in models if each.latency is not None), None)
    return "" if timed is None else units.milliseconds(timed.dense.median_ms)


def _speed(entry: QuantizedEntry) -> str:
    timing = entry.latency
    return "" if timing is None else units.speed_alone(timing.speedup, timing.low, timing.high)
