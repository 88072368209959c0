"""Effort: what probing may cost is kept to, and what it buys is spread well."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.plan.effort import EFFORTS, probing_for
from onnxmerge.plan.options import EFFORT_NAMES, Options
from onnxmerge.signals.batches import Batches


def _batches(samples: int, size: int = 4) -> Batches:
    count = samples // size
    return Batches(tuple({"x": np.zeros((size, 1))} for _ in range(count)), (size,) * count, 4)


@pytest.mark.parametrize("name", EFFORT_NAMES)
@pytest.mark.parametrize("groups", [2, 30, 120])
def test_probing_keeps_to_its_passes(name: str, groups: int) -> None:
    effort, batches = EFFORTS[name], _batches(512)
    behind = np.linspace(1.0, 0.0, groups).tolist()
    probing = probing_for(effort, behind, 0.0, batches)
    samples = sum(batches.sizes[batch] for batch in probing.batches)
    passes = samples / batches.count * (1 + sum(behind) * len(probing.levels))
    # The last batch may be begun, and every fold, or three of them at fast, has one at least.
    covered = 3 if name == "fast" else 4
    assert passes <= effort.passes * (1 + 4 / samples) + 1e-9 or len(probing.batches) == covered
    assert {batches.fold(batch) for batch in probing.batches} >= set(range(covered))
    assert list(probing.levels) == sorted(probing.levels, reverse=True)


def test_more_effort_looks_at_more() -> None:
    behind, batches = [0.5] * 20, _batches(512)
    chosen = [probing_for(EFFORTS[name], behind, 0.0, batches) for name in EFFORT_NAMES]
    looks = [len(each.levels) * len(each.batches) for each in chosen]
    assert looks[0] < looks[1] < looks[2]


def test_levels_are_given_up_before_samples_are_too_few() -> None:
    probing = probing_for(EFFORTS["balanced"], [0.5] * 200, 0.0, _batches(512))
    assert len(probing.levels) == 2


def test_every_name_has_an_effort() -> None:
    assert tuple(EFFORTS) == EFFORT_NAMES
    assert Options().effort in EFFORTS
