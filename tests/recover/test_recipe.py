"""How long weights are trained."""

from __future__ import annotations

import pytest

from onnxmerge.recover.recipe import Recipe, recipe_for


@pytest.mark.parametrize(("macs", "steps"), [(0, 1600), (10**6, 1600), (10**9, 400), (10**12, 400)])
def test_steps_have_bounds(macs: int, steps: int) -> None:
    assert recipe_for(macs).steps == steps


def test_networks_of_half_the_macs_take_twice_the_steps() -> None:
    one, two = (recipe_for(macs) for macs in (126_000_000, 252_000_000))
    assert one.steps == pytest.approx(2 * two.steps, abs=1)
    assert recipe_for(125_000_000).steps == 1250
    assert one.batch == Recipe().batch


def test_rates_fall() -> None:
    rates = recipe_for(10**9).rates
    assert list(rates) == sorted(rates, reverse=True)
    assert rates[0] == Recipe().rate
