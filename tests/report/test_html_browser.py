"""The pages as a browser shows them: no errors, details under pointer and focus, sorting, phones, dark mode.

Needs Playwright's Python package and a Chromium or Chrome on the path; without one of them it is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxmerge import pipeline
from onnxmerge.report.results import Report
from tests.builders import Net
from tests.pages import SEEN, full_account

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
sync = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (values) => {
    const [r, g, b] = values.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
    return chain.reduce((under, colour) => rgb(colour, under), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest("script, .unseen, [hidden]")) continue;
    const style = getComputedStyle(element), under = behind(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(rgb(ink, under)), light(under)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), `${element.tagName}.${element.getAttribute("class")}`, element.textContent]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium or Chrome on the path")
    with sync.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def report(account: Report, tmp_path: Path) -> Path:
    return full_account(account).html(tmp_path / "report.html")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A residual block whose one convolution is made for itself, and a classifier."""
    net = Net(opset=17)
    stem = net.add("Relu", net.conv(net.input("N", 3, 8, 8), 3, 8))
    inner = net.conv(net.add("Relu", net.conv(stem, 8, 6)), 6, 8)
    joined = net.add("Relu", net.add("Add", stem, inner))
    net.output(net.conv(joined, 8, 4))
    return pipeline.inspect(net.model()).html(tmp_path / "network.html")


def opened(
    browser: Any, path: Path, *, size: dict[str, int] = DESKTOP, scheme: str = "light", script: bool = True
) -> Any:
    context = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=script)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("name", ["report", "network"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_without_errors_fit_and_can_be_read(
    browser: Any, request: pytest.FixtureRequest, name: str, size: dict[str, int], scheme: str
) -> None:
    page = opened(browser, request.getfixturevalue(name), size=size, scheme=scheme)
    assert page.problems == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    # WCAG AA asks 4.5 of text of this size.
    seen = page.evaluate(CONTRAST)
    assert len(seen) > 30
    assert [entry for entry in seen if entry[0] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


OVER = """() => [...document.querySelectorAll("main *")]
  .filter((each) => each.getClientRects().length && each.getBoundingClientRect().right > innerWidth + 0.5)
  .map((each) => `${each.tagName}.${each.getAttribute("class")} ${each.textContent.slice(0, 40)}`)"""


@pytest.mark.parametrize("name", ["report", "network"])
def test_nothing_runs_over_on_a_phone(browser: Any, request: pytest.FixtureRequest, name: str) -> None:
    page = opened(browser, request.getfixturevalue(name), size=PHONE)
    assert page.evaluate(OVER) == []
    assert page.evaluate("[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)") == []
    # A long name of a file would make any table run over: the check sees it.
    page.evaluate("document.querySelector('main p').style.minWidth = '400px'")
    assert page.evaluate(OVER) != []


def test_a_reason_has_room_on_a_phone(browser: Any, report: Path) -> None:
    page = opened(browser, report, size=PHONE)
    widths = page.evaluate("[...document.querySelectorAll('#pins .reason')].map((e) => e.clientWidth)")
    assert len(widths) > 1
    assert min(widths) > 300


def test_a_phone_shows_the_narrow_form_of_each_chart(browser: Any, report: Path) -> None:
    for size, shown, other in ((PHONE, "narrow", "wide"), (DESKTOP, "wide", "narrow")):
        page = opened(browser, report, size=size)
        assert page.locator(f".chart.{shown}:visible").count() == 3
        assert page.locator(f".chart.{other}:visible").count() == 0


def test_the_pointer_shows_details(browser: Any, report: Path) -> None:
    page = opened(browser, report)
    tip = page.locator("#tip")
    assert not tip.is_visible()
    page.locator("#depth .mark").first.hover()
    assert tip.is_visible()
    assert SEEN in tip.inner_text()
    assert "32 of 64 channels kept" in tip.inner_text()
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_the_keyboard_reaches_every_mark(browser: Any, report: Path) -> None:
    page = opened(browser, report)
    page.locator("#depth .mark").first.focus()
    told = [page.locator("#tip").inner_text()]
    for _ in range(2):
        page.keyboard.press("ArrowRight")
        told.append(page.locator("#tip").inner_text())
    assert len(set(told)) == 3
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.key") == "depth5"
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    # The tab key leaves the picture instead of visiting each bar.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#depth')") is None


def test_headings_sort(browser: Any, report: Path) -> None:
    page = opened(browser, report)

    def column() -> list[str]:
        return [text.strip() for text in page.locator("#groups tbody tr td:nth-child(4)").all_inner_texts()]

    head = page.locator("#groups thead th").nth(3)
    assert column() == ["64", "32"]
    assert head.get_attribute("aria-sort") == "none"
    button = head.locator("button")
    button.focus()
    page.keyboard.press("Enter")
    assert (column(), head.get_attribute("aria-sort")) == (["32", "64"], "ascending")
    button.click()
    assert (column(), head.get_attribute("aria-sort")) == (["64", "32"], "descending")
    # What is not known stays at the end, either way round.
    harm = page.locator("#groups thead th").nth(6).locator("button")
    for _ in range(2):
        harm.click()
        assert column() == ["64", "32"]


def test_the_filter_hides_rows(browser: Any, report: Path) -> None:
    page = opened(browser, report)
    page.locator("#groups-filter").fill("left alone")
    assert page.locator("#groups tbody tr:visible").count() == 1
    assert page.locator("output[for=groups-filter]").inner_text() == "1 of 2"


def test_without_script_all_is_there_to_read(browser: Any, report: Path, network: Path) -> None:
    page = opened(browser, report, script=False)
    assert page.locator("#groups tbody tr:visible").count() == 2
    assert page.locator("#depth .mark title").count() == 6
    assert not page.locator("#groups-filter").is_visible()
    page = opened(browser, network, script=False)
    page.locator("#net summary").nth(1).click()
    assert page.locator("#net .inside").nth(1).is_visible()


def test_hostile_words_run_nothing(browser: Any, report: Path) -> None:
    page = opened(browser, report)
    dialogs: list[str] = []

    def shown(dialog: Any) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", shown)
    page.reload()
    assert SEEN.rpartition("/")[2] in page.locator("h1").inner_text()  # a title is a file without its folder
    assert dialogs == []
    assert page.locator("script").count() == 1


def test_a_group_shows_all_its_rows(browser: Any, network: Path) -> None:
    page = opened(browser, network)
    chip = page.locator("#net .chip").first
    group = chip.get_attribute("data-group")
    chip.click()
    touched = page.locator(f'#net .block[data-groups~="{group}"]').count()
    assert touched > 1
    assert page.locator("#net .block.in").count() == touched
    assert f"touches {touched} rows" in page.locator("#chosen").inner_text()
    page.locator("#chosen button").click()
    assert page.locator("#net .block.in").count() == 0
    assert not page.locator("#chosen").is_visible()


def test_rows_open_by_keyboard_and_tell_their_nodes(browser: Any, network: Path) -> None:
    page = opened(browser, network)
    row = page.locator("#net .block").nth(1)
    row.locator("summary").focus()
    page.keyboard.press("Enter")
    inside = row.locator(".inside").inner_text()
    assert "Conv" in inside
    assert "Relu" in inside
    assert "8×3×1×1" in inside
    page.locator("[data-open]").click()
    assert page.locator("#net details:not([open])").count() == 0
    page.locator("[data-close]").click()
    assert page.locator("#net details[open]").count() == 0
