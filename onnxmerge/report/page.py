"""The report as a self-contained page for offline use: first the result, then the reasons, then all details.

Style, script and pictures are inside the file. The template escapes all text from the model; a content security policy
allows only the page's own script and no loading of resources. Without the script the page is the same, except for
sorting and filtering.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.report import units
from onnxmerge.report.charts import depth_chart, depth_key, harm_chart, latency_chart, latency_range
from onnxmerge.report.model import Account
from onnxmerge.report.speed import clocked, remarks, speed
from onnxmerge.report.verdict import account_verdict, outcome
from onnxmerge.report.wording import how, printable, reasons_of, titled_groups, titled_pins
from onnxmerge.runtime.differences import Confusion, Disagreement
from onnxmerge.samples.thumbnails import Picture
from onnxmerge.suggestions import installing
from onnxmerge.writing import check_writable, write_text

__all__ = ["check_page", "render", "write_report"]

_MOST_CLASSES, _MOST_MOVES = 20, 25
"""Maximum number of classes for a table of all pairs, and number of pairs listed beyond it."""


def check_page(target: Path, option: str = "a page") -> None:
    """Check in advance that a page can be written.

    Raises:
        RuntimeMissingError: Jinja2 or matplotlib is not installed.
        UsageError: The file cannot be written, or its name is not that of a page.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option} {target}: expected a name that ends in .html")
    check_writable(target)
    _templates(option)


def write_report(account: Account, target: Path) -> Path:
    """Write the report of a compression as a page.

    Raises:
        RuntimeMissingError: Jinja2 or matplotlib is not installed.
        UsageError: The file cannot be written.
    """
    check_page(target)
    write_text(target, render("report.html", **_shown(account)))
    return target


def render(template: str, **shown: object) -> str:
    """A page with its style and its script in it."""
    templates = _templates()
    loader = templates.loader
    style, script = (_compact(loader.get_source(templates, name)[0]) for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = templates.get_template(template).render(style=style, script=script, digest=digest, **shown)
    return _compact(page) + "\n"


def _compact(text: str) -> str:
    """Without blank lines, such as tags of a template leave behind."""
    return "\n".join(line.rstrip() for line in text.split("\n") if line.strip())


def _templates(option: str = "a page") -> Any:  # noqa: ANN401 - an extra that need not be there
    try:
        import jinja2  # noqa: PLC0415 - an extra
        import matplotlib.figure  # noqa: F401, PLC0415
    except ImportError as error:
        raise RuntimeMissingError(f"{option} needs Jinja2 and matplotlib; try: {installing('report')}") from error
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_plain,
    )  # fmt: skip
    templates.filters.update(
        count=units.count, bytes=units.bytes_of, percent=units.percent, share=units.share, ms=units.milliseconds,
        seconds=units.seconds, cosine=units.cosine, small=units.small, value=_value,
    )  # fmt: skip
    return templates


def _plain(value: object) -> object:
    """Text without control characters; our own markup is unchanged."""
    return printable(value) if type(value) is str else value


def _value(value: object) -> str:
    """The value of an option, as text."""
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return ", ".join(value) or "–"
    if value is None or value == {}:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _shown(account: Account) -> dict[str, object]:
    account = replace(
        account,
        groups=titled_groups(account.groups, account.titles),
        pinned=titled_pins(account.pinned, account.titles),
    )
    curves = [group for group in account.groups if len(group.curve) > 1]
    differences = account.differences
    end, beyond = latency_range(account.latency) if account.latency is not None else (0.0, 0.0)
    pictures, missing = _pictures(differences.worst if differences is not None else ())
    return {
        "title": Path(account.source).name,
        "account": account,
        # The terminal's arrow, for a page that has a better one; no name of a file is in this sentence.
        "verdict": account_verdict(account).replace("->", "→"),
        "outcome": outcome(account),
        "cards": _cards(account),
        "depth": depth_chart(account) if account.groups or account.pinned else "",
        "harm": harm_chart(curves) if curves else "",
        "depth_key": depth_key(curves) if curves else [],
        "harm_measured": any(group.probed for group in curves),
        "speed": speed(account.latency) if account.latency is not None else "",
        "remarks": remarks(account.latency) if account.latency is not None else [],
        "latency": latency_chart(account.latency) if account.latency is not None else "",
        "latency_end": end,
        "beyond": beyond,
        "confusion": _confusion(differences.confusion) if differences and differences.confusion else None,
        "worst": list(zip(differences.worst, pictures, strict=True)) if differences is not None else [],
        "without_pictures": missing,
        "groups": [(group, how(group)) for group in account.groups],
        "noted": any(group.note for group in account.groups),
        "reasons": reasons_of(account.pinned),
        "pinned_share": _pinned_share(account),
    }


def _cards(account: Account) -> list[dict[str, object]]:
    """The key figures: name, before, after, change, and the remaining fraction of a bar."""
    before, after, timing = account.before, account.after, account.latency
    cards: list[dict[str, object]] = []
    if account.accuracy_before is not None and account.accuracy_after is not None:
        accuracies = account.accuracy_before, account.accuracy_after
        one, two = (units.percent(each / 100) for each in accuracies)
        cards.append(_card("Top-1 accuracy", one, two, units.points(accuracies[0], accuracies[1]), accuracies[1] / 100))
    elif account.fidelity is not None:
        agreements = [each.top1_agreement for each in account.fidelity.outputs if each.top1_agreement is not None]
        if agreements:
            cards.append(_card("Same top class", "", units.percent(min(agreements)), "of the samples", min(agreements)))
        elif account.fidelity.cosine is not None:
            cosine = account.fidelity.cosine
            cards.append(_card("Cosine of the outputs", "", units.cosine(cosine), "1 means equal", max(cosine, 0.0)))
    for name, old, new, form in (
        ("MACs", before.macs, after.macs, units.count),
        ("Parameters", before.parameters, after.parameters, units.count),
        ("File", before.file_bytes, after.file_bytes, units.bytes_of),
    ):
        if old is not None and new is not None:
            cards.append(_card(name, form(old), form(new), units.change(old, new), new / old if old else 1.0))
    if timing is not None:
        before_ms, after_ms = clocked(timing)
        was, now = map(units.milliseconds, (before_ms, after_ms))
        name = "Latency" if timing.clock == "wall" else "Processor time"
        cards.append(_card(name, was, now, speed(timing), after_ms / max(before_ms, 1e-9)))
    return cards


def _card(name: str, before: str, after: str, change: str, left: float) -> dict[str, object]:
    bar = round(100 * min(max(left, 0.0), 1.0), 1)
    return {"name": name, "before": before, "after": after, "change": change, "bar": bar}


def _confusion(confusion: Confusion) -> dict[str, object]:
    """A table of all pairs if there are few classes, else the most frequent changes."""
    total = sum(count for _, _, count in confusion.moves)
    moved = [move for move in confusion.moves if move[0] != move[1]]
    rows = None
    if confusion.classes <= _MOST_CLASSES:
        rows = [[0] * confusion.classes for _ in range(confusion.classes)]
        for old, new, count in confusion.moves:
            rows[old][new] = count
    listed = sorted(moved, key=lambda move: (-move[2], move))[:_MOST_MOVES]
    changed = sum(count for _, _, count in moved)
    most = max((count for _, _, count in moved), default=1)
    return {
        "output": confusion.output, "rows": rows, "listed": listed, "more": len(moved) - len(listed), "most": most,
        "changed": changed, "total": total, "right": confusion.right,
    }  # fmt: skip


def _pictures(worst: tuple[Disagreement, ...]) -> tuple[list[list[str]], bool]:
    """Pictures of each sample as data addresses, and whether there are some that could not be made."""
    try:
        return [[_png(picture) for picture in entry.pictures] for entry in worst], False
    except ImportError:
        return [[] for _ in worst], any(entry.pictures for entry in worst)


def _png(picture: Picture) -> str:
    from PIL import Image  # noqa: PLC0415 - an extra

    size = (picture.width, picture.height)
    image = Image.frombytes("L" if picture.channels == 1 else "RGB", size, picture.pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _pinned_share(account: Account) -> tuple[int, int]:
    """Channels that are pinned, and all of the model."""
    pinned = sum(entry.size for entry in account.pinned)
    return pinned, pinned + account.before.channels
