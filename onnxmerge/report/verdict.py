"""The verdict: one sentence that summarises the result, based only on known figures.

1. Size: the fraction of the cost that was removed, and the request if it differs by at least one percent.
2. Speed: a factor if the interval excludes 1, otherwise that no difference was measurable.
3. Quality: accuracy where there are labels; else agreement of the top class, else the cosine.
   On synthetic inputs neither says how good the outputs are, and the sentence says so.
"""

from __future__ import annotations

import shlex

from onnxmerge.report import units
from onnxmerge.report.model import Account, Inspection, Point, SideBySide, Sizes, Tradeoff
from onnxmerge.report.quantization import Quantization
from onnxmerge.report.speed import speed
from onnxmerge.runtime.fidelity import Fidelity
from onnxmerge.runtime.latency import Comparison

__all__ = [
    "account_verdict",
    "inspection_verdict",
    "outcome",
    "quantization_verdict",
    "side_by_side_verdict",
    "times_variance",
    "tradeoff_verdict",
]

NAMES = {"macs": "MACs", "params": "parameters", "channels": "channels", "latency": "time"}
_ERROR_SHOWN = 0.1
"""Squared error, in units of the outputs' variance, from which the first line names it beside the cosine, which outputs
that are much the same for all samples keep high: a palm detector with a cosine of 0.956 and an error of 0.49 found 3 of
56 palms again, a segmentation network with 0.980 and 0.14 overlapped by 93 %.
"""
_ENDLESS = 1e300
"""An error of this size stands for one that is not finite."""
CAUTION = "fidelity measured on synthetic inputs: it shows how far the outputs moved, not how good they are"


def account_verdict(account: Account) -> str:
    """The sentence for a compression."""
    asked = f" ({units.percent(account.asked)} asked)" if abs(account.reached - account.asked) >= 0.01 else ""
    parts = [f"{units.percent(account.reached)} of the {NAMES.get(account.of, account.of)} removed{asked}"]
    if account.latency is not None:
        parts.append(_speed(account.latency))
    accuracies = (account.accuracy_before, account.accuracy_after)
    parts += _quality(account.fidelity, account.synthetic, accuracies, account.measured)
    if account.fidelity is None and account.latency is None:
        parts.append("not verified")
    return ", ".join(parts) + "." + _instead(account)


def _instead(account: Account) -> str:
    """The command that plans by time, if the result is slower; with a word on wider layers, if they did not help."""
    if account.latency is None or not account.latency.slower or account.of == "latency":
        return ""
    given_up = account.raised and not any(each.taken for each in account.raised)
    tried = " Wider layers did not help." if given_up else ""
    if account.target is None:
        return f'{tried} To remove time instead: of="latency" (--of latency).'
    files = {f"--{name}": account.settings.get(name) for name in ("calib", "data")}
    given = [word for name, value in files.items() if isinstance(value, str) for word in (name, value)]
    words = ["onnxmerge", account.source, account.target, "--of", "latency", "--ratio", f"{account.asked:g}", *given]
    return f"{tried} To remove time instead: {shlex.join(words)}"


def outcome(account: Account) -> str:
    """The sentence on the written file."""
    if account.target is None:
        return f"{account.source}: nothing was written."
    return f"{account.source} -> {account.target}"


def inspection_verdict(inspection: Inspection) -> str:
    """The sentence for an inspection."""
    if not inspection.groups:
        return f"Nothing in {inspection.source} can be cut; the reasons are below."
    shrinking, half = sum(not group.note for group in inspection.groups), inspection.most_macs_share >= 0.5
    return (
        f"{units.percent(inspection.cuttable_macs_share)} of the MACs lie in nodes that "
        f"{shrinking} channel {'group' if shrinking == 1 else 'groups'} can shrink; "
        f"{'half' if half else f'at most {units.percent(inspection.most_macs_share)}'} of the MACs can be removed."
    )


def side_by_side_verdict(result: SideBySide) -> str:
    """The sentence for two models."""
    parts = [f"B has {_macs(result.before, result.after)}"]
    if result.latency is not None:
        parts.append(f"is {_speed(result.latency)}")
    return ", ".join([*parts, *_quality(result.fidelity, result.synthetic, _accuracies(result))]) + "."


def quantization_verdict(result: Quantization) -> str:
    """The sentence for a quantization: the quantized model against the first of the float models."""
    first, last = result.models[0], result.models[-1]
    parts = []
    if first.file_bytes and last.file_bytes:
        parts.append(f"{units.percent(last.file_bytes / first.file_bytes)} of the {first.role}'s size")
    if last.latency is not None:
        parts.append(_speed(last.latency))
    parts += _quality(last.fidelity, result.synthetic, (first.accuracy, last.accuracy))
    return f"Quantized: {', '.join(parts)}."


def tradeoff_verdict(result: Tradeoff) -> str:
    """The sentence for a trade-off curve: what its marks mean."""
    name = NAMES.get(result.of, result.of)
    first, last = result.points[0], result.points[-1]
    words = [
        f"{len(result.points)} cuts of {units.percent(first.reached)} to {units.percent(last.reached)} of the {name}"
    ]
    if result.gated and result.largest is None:
        words.append("none passes the gate")
    elif result.largest is not None:
        words.append(f"the largest that passes the gate is {_cut(result.points[result.largest])}")
    if result.knee is not None:
        words.append(f"the knee is at {_cut(result.points[result.knee])}")
    return ", ".join(words) + "."


def _cut(point: Point) -> str:
    timing = point.latency
    speed = "" if timing is None else f", {units.speed_alone(timing.speedup, timing.low, timing.high)}"
    quality = "" if point.accuracy is None else f", {units.percent(point.accuracy / 100)} top-1"
    return f"{point.ratio:g} ({units.percent(point.reached)} removed{speed}{quality})"


def _accuracies(result: SideBySide) -> tuple[float | None, float | None]:
    return result.accuracy_before, result.accuracy_after


def _macs(before: Sizes, after: Sizes) -> str:
    if before.macs == after.macs or not before.macs:
        return "as many MACs as A" if before.macs == after.macs else f"{units.count(after.macs)} MACs more than A"
    fewer = (before.macs - after.macs) / before.macs
    return f"{units.percent(abs(fewer))} {'fewer' if fewer > 0 else 'more'} MACs than A"


def times_variance(error: float) -> str:
    """A squared error in units of the outputs' variance; of several outputs, their mean."""
    return f"{units.small(error)} times their variance" if error < _ENDLESS else "not finite"


def _speed(latency: Comparison) -> str:
    return speed(latency, latency.compressed.provider)


def _quality(
    fidelity: Fidelity | None,
    synthetic: bool,
    accuracies: tuple[float | None, float | None],
    error: float | None = None,
) -> list[str]:
    before, after = accuracies
    if before is not None and after is not None:
        return [f"top-1 {units.percent(before / 100)} -> {units.percent(after / 100)}"]
    if fidelity is None:
        return []
    if not fidelity.outputs:
        return ["no output could be compared"]
    agreements = [output.top1_agreement for output in fidelity.outputs if output.top1_agreement is not None]
    equal = [output.equal_fraction for output in fidelity.outputs if output.equal_fraction is not None]
    parts: list[str] = []
    if agreements:
        parts.append(f"same top-1 class for {units.percent(min(agreements))} of the samples")
    if fidelity.cosine is not None:  # beside the classes, too: a row of numbers may be an embedding
        parts.append(f"cosine of the outputs {units.cosine(fidelity.cosine)}")
        each = None if error is None else fidelity.mean_over_outputs(error)
        if each is not None and each >= _ERROR_SHOWN and not synthetic and not agreements:
            parts.append(f"squared error {times_variance(each)}")
    elif equal and not agreements:
        parts.append(f"{units.percent(min(equal))} of the output entries equal")
    return [*parts, CAUTION] if synthetic else parts
