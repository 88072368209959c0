"""Training towards the outputs of the original: it helps where weights are off, and is dropped where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

from onnxmerge.graph import Draft, Model, load  # noqa: E402
from onnxmerge.recover import distillation  # noqa: E402
from onnxmerge.recover.distillation import Distilled, check_recoverable, distil  # noqa: E402
from onnxmerge.recover.inputs import Inputs  # noqa: E402
from onnxmerge.recover.network import TorchNetwork  # noqa: E402
from onnxmerge.recover.recipe import Recipe  # noqa: E402
from onnxmerge.samples.feeds import Samples  # noqa: E402
from tests.recover.networks import images, residual, samples  # noqa: E402

SHORT = Recipe(steps=60, rising=5, memory=10, every=20)


def disturbed(model: Model) -> Model:
    """The model with noise on the weights of every convolution."""
    draft, rng = Draft(model), np.random.default_rng(4)
    for node in model.nodes:
        if node.op == "Conv":
            old = model.weights[node.inputs[1]]
            noise = 0.3 * old.std() * rng.standard_normal(old.shape)
            draft.set_weight(node.inputs[1], (old + noise).astype(np.float32))
    return draft.finish()


def trained(seed: int = 0, *, batchable: bool = True) -> Distilled:
    model = load(residual("n" if batchable else 1))
    fitting, judging = samples(64, 1, batchable=batchable), samples(24, 2, batchable=batchable)
    return distil(model, disturbed(model), {}, fitting, judging, seed, SHORT)


def test_the_error_falls_on_other_samples() -> None:
    done = trained()
    assert done.after < 0.5 * done.before
    assert done.steps in {20, 40, 60}


def test_it_repeats_for_a_seed() -> None:
    one, two, other = trained(), trained(), trained(1)
    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert any(not np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_networks_that_take_one_sample_at_a_time_are_trained_alike() -> None:
    many, single = trained(), trained(batchable=False)
    assert single.after == pytest.approx(many.after, rel=1e-2)


def test_weights_that_get_worse_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(residual())
    monkeypatch.setattr(Recipe, "rates", property(lambda recipe: (recipe.rate,)))
    done = distil(model, disturbed(model), {}, samples(32, 1), samples(16, 2), 0, replace(SHORT, rate=50.0))
    assert done.before > 0
    assert (done.weights, done.steps) == ({}, 0)
    assert done.after == done.before


def test_large_batches_are_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained()
    monkeypatch.setattr(distillation, "_ELEMENTS", 5 * 40 * 8 * 8 * 3)
    parts = trained()
    assert any(not np.array_equal(parts.weights[name], whole.weights[name]) for name in whole.weights)  # rounding
    assert parts.after == pytest.approx(whole.after, rel=5e-2)


def test_a_rate_that_is_too_high_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty, model = replace(SHORT, rate=2.0), load(residual())
    lowered = distil(model, disturbed(model), {}, samples(64, 1), samples(24, 2), 0, hasty)
    monkeypatch.setattr(Recipe, "rates", property(lambda recipe: (recipe.rate,)))
    assert distil(model, disturbed(model), {}, samples(64, 1), samples(24, 2), 0, hasty).weights == {}
    assert lowered.after < lowered.before


def test_weights_are_restored_after_an_error() -> None:
    weights = {"w": torch.ones(2)}
    with pytest.raises(ZeroDivisionError), distillation._restored(weights):
        weights["w"].zero_()
        raise ZeroDivisionError
    assert torch.equal(weights["w"], torch.ones(2))


@pytest.mark.parametrize("batchable", [False, True])
def test_feeds_of_several_rows_are_computed_whole(batchable: bool) -> None:
    feeds = tuple({"x": images(4, seed)} for seed in range(3))
    given = Samples(feeds, None, "test data", False, 1, batchable)
    model = load(residual("n" if batchable else 4))
    found = check_recoverable(model, given)
    assert [len(each) for each in found.values()] == [4]


def test_the_limit_of_elements_is_that_of_one_sample() -> None:
    model, given = load(residual()), Samples(({"x": images(4)},) * 2, None, "test data", False, 1, True)
    network = TorchNetwork(model, trained=False)
    one, four = (distillation._most(network, model, Inputs.of(each, 1)) for each in (samples(1), given))
    assert one == four
