"""What is said of a speed-up is said alike in the terminal, on the page and at a prompt, and the data have it all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from onnxmerge.report import summary
from onnxmerge.report.data import to_json
from onnxmerge.report.model import Account, Raised
from onnxmerge.report.speed import clocked, remarks, speed
from onnxmerge.report.terminal import show_account
from onnxmerge.report.verdict import account_verdict
from onnxmerge.runtime.latency import Comparison, Latency, Speedup
from onnxmerge.runtime.load import Load


def one(median: float, cpu: float) -> Latency:
    return Latency(
        median, 2 * median, 100, "CPUExecutionProvider", None, 1, (median,) * 3, 0.9 * median, cpu, 1.2 * cpu
    )


BUSY = Comparison(
    one(40.0, 3.0), one(50.0, 2.0), 1.5, 1.45, 1.55, "cpu", Speedup(0.8, 0.5, 1.3), Speedup(1.5, 1.45, 1.55), 1.4, 16,
    Load(2, 1.83, 13.3, busy=True),
)  # fmt: skip
QUIET = replace(BUSY, speedup=0.8, low=0.79, high=0.81, clock="wall", load=Load(2, 0.05, 1.0, busy=False))


def test_a_busy_machine_is_told_with_the_clock_that_was_taken() -> None:
    assert speed(BUSY, "CPU") == (
        "1.50x faster (95 % interval 1.45-1.55, processor time, as the machine was busy, CPU)"
    )
    assert clocked(BUSY) == (3.0, 2.0)
    assert remarks(BUSY) == [
        "The machine was busy: other programs used 1.8 of 2 cores, a run took 13.3 times as long as it computed. "
        "By the wall clock: not measurably faster or slower (0.80x, 95 % interval 0.50-1.30)."
    ]
    by_wall = replace(BUSY, clock="wall")
    assert "too short to be interrupted" in remarks(by_wall)[0]
    assert remarks(replace(by_wall, cpu=None))[0].endswith("as it computed.")


def test_a_quiet_machine_needs_no_remark() -> None:
    assert (speed(QUIET), clocked(QUIET), remarks(QUIET)) == (
        "1.25x slower (95 % interval 1.23-1.27)",
        (40.0, 50.0),
        [],
    )


def test_a_doubt_is_told_with_the_figures_that_disagree() -> None:
    doubtful = replace(QUIET, doubts=("work", "spread"), work=1.3, speedup=4.0, low=3.9, high=4.1)
    assert "doubtful" in speed(doubtful)
    by_work, by_spread = remarks(doubtful)
    assert "1.30 times the MACs" in by_work
    assert "4.00x" in by_work
    assert "medians give 4.00x, 95th percentiles 0.80x, the shortest runs 1.40x" in by_spread
    assert "95th percentiles 1.50x" in remarks(replace(BUSY, doubts=("spread",)))[1]


@pytest.fixture
def busy(account: Account) -> Account:
    return replace(account, latency=replace(BUSY, doubts=("spread",)))


def test_terminal_prompt_and_data_agree(busy: Account) -> None:
    assert busy.latency is not None
    console = Console(record=True, width=400)
    show_account(console, busy)
    printed = console.export_text()
    for words in (*remarks(busy.latency), "Latency, minimum", "Processor time", "16 blocks", speed(busy.latency)):
        assert words in printed
    assert "processor time" in summary.text(busy)
    data = json.loads(to_json(busy))["latency"]
    assert (data["clock"], data["blocks"], data["doubts"], data["measured"]) == ("cpu", 16, ["spread"], 1)
    assert data["load"] == {"cores": 2, "others": 1.83, "waited": 13.3, "busy": True}
    assert data["wall"] == {"ratio": 0.8, "low": 0.5, "high": 1.3}
    assert data["cpu"]["ratio"] == data["speedup"] == 1.5
    assert (data["dense"]["min_ms"], data["dense"]["cpu_ms"]) == (36.0, 3.0)


def test_the_page_agrees(busy: Account) -> None:
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    from onnxmerge.report.page import _shown, render

    assert busy.latency is not None
    page = render("report.html", **_shown(busy))
    for words in (*remarks(busy.latency), "Processor time", "in 16 blocks", "doubtful"):
        assert words in page


def test_what_stays_slower_is_said_first_with_the_command_that_plans_by_time(account: Account) -> None:
    slower = replace(account, latency=QUIET, settings={"calib": "my samples.npz", "data": None})
    command = "onnxmerge in.onnx out.onnx --of latency --ratio 0.5 --calib 'my samples.npz'"
    assert account_verdict(slower).endswith(f". To remove time instead: {command}")
    raised = replace(slower, raised=(Raised(8, 8, 0.4, 0.9, 0.8, 0.95, taken=False),))
    assert "Wider layers did not help. To remove time" in account_verdict(raised)
    assert "(--of latency)" in account_verdict(replace(slower, target=None))
    for other in (replace(slower, of="latency"), replace(slower, latency=BUSY), account):
        assert "To remove time" not in account_verdict(other)
