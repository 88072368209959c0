"""Photographs the pages for docs/report.md: ``python docs/screenshots.py``.

The pages are those of a bundled model with its own samples, in Chromium at the widths of a desktop and of a phone.
Needs the extras ``report``, ``images`` and ``browser``, and a Chromium or Chrome on the path. ``--pages FOLDER``
keeps the pages there and takes those that it finds.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from playwright.sync_api import sync_playwright

from onnxmerge.cli import main

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "images"
MODEL = "resnet.onnx"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DESKTOP, PHONE = (1120, 900), (390, 844)


class Shot(NamedTuple):
    """A picture: its file, the page, the window and the colour scheme.

    Attributes:
        part: The selector of the element to photograph; "" for the window.
        top: The selector of the element at the top of the window; "" for the top of the page.
        pointed: The selector of the element under the pointer; "" for none.
    """

    file: str
    page: str
    size: tuple[int, int]
    scheme: str
    part: str = ""
    top: str = ""
    pointed: str = ""


SHOTS = (
    Shot("report.png", "report.html", DESKTOP, "light"),
    Shot("channels.png", "report.html", DESKTOP, "light", "section:has(#h-depth)", pointed=".wide [data-key='depth5']"),
    Shot("curves-phone.png", "report.html", PHONE, "light", top="#h-harm"),
    Shot("groups-phone.png", "report.html", PHONE, "dark", top="#h-groups"),
    Shot("network.png", "network.html", DESKTOP, "dark", top="#h-net"),
    Shot("network-phone.png", "network.html", PHONE, "light", top="#net"),
)


def pages(folder: Path) -> None:
    """Writes the report of a compression and the drawing of its network, as the command line does."""
    data, test = "cifar10_calibration.npz", "cifar10_test.npz"
    for name in (MODEL, data, test):
        shutil.copy(ROOT / "sample_models" / name, folder)
    os.chdir(folder)  # the page shows the names of files as they were given
    command = f"{MODEL} smaller.onnx --ratio 0.3 --calib {data} --data {test} --threads 1 --report report.html"
    if main(command.split()) or main(["inspect", MODEL, "--html", "network.html"]):
        raise SystemExit("no pages")


def photograph(browser: Any, folder: Path, shot: Shot) -> None:  # noqa: ANN401 - an extra
    """Takes one picture, in 128 colours."""
    width, height = shot.size
    window = browser.new_context(viewport={"width": width, "height": height}, color_scheme=shot.scheme)
    page = window.new_page()
    page.goto((folder / shot.page).as_uri())
    if shot.top:
        page.evaluate("(at) => scrollTo(0, document.querySelector(at).getBoundingClientRect().top - 16)", shot.top)
        page.wait_for_timeout(800)  # scrolling is smooth
    if shot.pointed:
        page.locator(shot.pointed).first.hover(force=True)
    taken = (page.locator(shot.part) if shot.part else page).screenshot()
    window.close()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(128).save(TARGET / shot.file, optimize=True)


def take() -> None:
    """Makes the pages and takes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=Path, help="a folder of pages to use, or to write them to")
    kept = parser.parse_args().pages
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "network.html").exists():
            pages(folder)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for shot in SHOTS:
            photograph(browser, folder, shot)
        browser.close()


if __name__ == "__main__":
    take()
