"""How large pages are and how long a browser takes to open them.

python benchmarks/report_pages.py PAGE.html [PAGE.html …]

Needs Playwright's Python package and a Chromium or Chrome on the path. Each page is opened five times in a new window;
given are the size, the number of elements, and the median and longest time until the load event has ended.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMES = 5


def main() -> None:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    print(f"{'page':40} {'MB':>6} {'elements':>9} {'median ms':>10} {'longest ms':>11}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for file in map(Path, sys.argv[1:]):
            took = []
            for _ in range(TIMES):
                page = browser.new_page()
                page.goto(file.resolve().as_uri())
                took.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
                elements = page.evaluate("document.querySelectorAll('*').length")
                page.close()
            size = file.stat().st_size / 1e6
            print(f"{file.name:40} {size:6.2f} {elements:9} {statistics.median(took):10.0f} {max(took):11.0f}")
        browser.close()


if __name__ == "__main__":
    main()
