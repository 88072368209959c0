"""A matplotlib figure as SVG that belongs to a page: its colours and font, and marks that say what they are.

1. Colours are those of the page's style sheet, so that a picture follows light and dark. matplotlib knows only fixed
   colours; each of ``INKS`` stands for one of the page's and is replaced in what matplotlib writes.
2. Text stays text and takes the page's font.
3. An artist with the id ``mark-KEY`` (``set_gid``) becomes a mark: it has the words given for KEY as a title for the
   pointer and as a label for screen readers. Only the first mark is a stop of the tab key; the arrow keys do the rest.
4. The same figure gives the same text: ids hang on the picture's name, and no date is written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from onnxmerge.report.wording import printable

__all__ = ["DEPTHS", "INKS", "drawing", "to_svg"]

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DEPTHS = ("depth0", "depth1", "depth2", "depth3", "depth4")
"""Colours from the input to the output of a network."""
INKS: Mapping[str, str] = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "before": "#040404",
    "after": "#050505",
    "faint": "#060606",
    "pinned": "#070707",
    **{name: f"#08080{number}" for number, name in enumerate(DEPTHS)},
}
"""The page's colours, and the placeholder of each in a figure."""
_MARK = "mark-"


@contextmanager
def drawing(name: str) -> Iterator[Any]:
    """Matplotlib's ``Figure`` under settings that do not hang on the user's own."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": name,
                "font.size": 11,
                "text.color": INKS["ink"],
                "axes.labelcolor": INKS["muted"],
                "axes.edgecolor": INKS["line"],
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "axes.grid": True,
                "axes.grid.axis": "y",
                "grid.color": INKS["line"],
                "grid.linewidth": 0.6,
                "xtick.color": INKS["line"],
                "ytick.color": INKS["line"],
                "xtick.labelcolor": INKS["muted"],
                "ytick.labelcolor": INKS["muted"],
                "xtick.major.size": 3,
                "ytick.major.size": 0,
            }
        )
        yield Figure


def to_svg(figure: Any, name: str, title: str, marks: Mapping[str, str]) -> str:  # noqa: ANN401 - no types
    """The figure as an ``svg`` element.

    Args:
        figure: A matplotlib figure, made inside ``drawing(name)``.
        name: Of the picture; unique on its page. Its first word is a class, and so is "narrow" or "wide".
        title: What the picture shows, for readers who cannot see it.
        marks: Words for each mark, by its key.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    for unwanted in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
        for parent in list(root.iter()):
            for child in parent.findall(unwanted):
                parent.remove(child)
    first = True
    for element in root.iter():
        # Here and not in the finished text: the words of a mark may look like a colour.
        if "style" in element.attrib:
            element.set("style", _coloured(element.get("style", "")))
        identity = element.get("id", "")
        if identity.startswith(_MARK):
            _mark(element, identity.removeprefix(_MARK), marks[identity.removeprefix(_MARK)], first=first)
            first = False
        elif element.tag == f"{{{SVG}}}g":
            element.attrib.pop("id", None)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    what, _, form = name.partition("-")
    root.attrib.update({"id": name, "class": f"chart {what} {form or 'wide'}", "role": "group", "aria-label": title})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _mark(element: ElementTree.Element, key: str, words: str, *, first: bool) -> None:
    element.attrib.pop("id")
    plain = printable(words, keep="\n")
    label = plain.replace("\n", "; ")
    element.attrib.update(
        {"class": "mark", "role": "img", "aria-label": label, "data-key": key, "tabindex": "0" if first else "-1"}
    )
    title = ElementTree.Element(f"{{{SVG}}}title")
    title.text = plain
    element.insert(0, title)


def _coloured(style: str) -> str:
    for ink, stand_in in INKS.items():
        style = style.replace(stand_in, f"var(--{ink})")
    # The page says which font; sizes and anchors stay.
    return re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", re.sub(r"font-family: [^;]*;?\s*", "", style))
