"""Settings for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from onnxmerge.pipeline import timing
from onnxmerge.runtime.latency import compare_latency, compare_several, measure
from onnxmerge.verify import measure as measuring
from onnxmerge.verify import several
from tests.timers import each_with_first, faster, measured_once, timer

# Definitions and scripts that need torch; their results are stored and tested.
collect_ignore = ["architectures.py", "data"]

# How long a draw takes depends on what else the machine does, and no test is about that.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(scope="session", autouse=True)
def _no_clock() -> Iterator[None]:
    """No test waits for a clock, or depends on one, unless it asks for `real_clock`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (measuring, timing):
            patch.setattr(module, "compare_latency", timer(faster))
        patch.setattr(timing, "measure", measured_once)
        patch.setattr(several, "compare_several", each_with_first)
        yield


@pytest.fixture
def real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are timed as they are for a user."""
    for module in (measuring, timing):
        monkeypatch.setattr(module, "compare_latency", compare_latency)
    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(several, "compare_several", compare_several)
