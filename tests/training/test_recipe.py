"""The penalty against its formula and its gradient against finite differences; what an optimizer is given."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch; pip install 'onnxmerge[train]'")

from torch import nn  # noqa: E402

from onnxmerge import training  # noqa: E402
from onnxmerge.errors import UsageError  # noqa: E402

GAMMAS = (-9.0, -3.5, -1.0, 0.0, 0.4, 2.0, 8.0)


def network(dtype: Any = None) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), training.BoundedBatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3), training.BoundedBatchNorm1d(3), nn.Linear(3, 2),
    ).to(dtype or torch.float64)  # fmt: skip
    with torch.no_grad():
        model[1].gamma.copy_(torch.tensor(GAMMAS[:4], dtype=torch.float64))
        model[5].gamma.copy_(torch.tensor(GAMMAS[4:], dtype=torch.float64))
    return model


def by_hand(gammas: tuple[float, ...], strength: float, shift: float) -> float:
    scales = [1 / (1 + math.exp(-(gamma + shift))) for gamma in gammas]
    return strength * math.fsum(s * (1 - math.log(s)) for s in scales)


@pytest.mark.parametrize("shift", [0.0, 3.0, -1.5])
def test_the_penalty_is_its_formula(shift: float) -> None:
    value = float(training.penalty(network(), 0.01, shift).detach())
    assert value == pytest.approx(by_hand(GAMMAS, 0.01, shift), rel=1e-12)
    assert value != pytest.approx(1.01 * by_hand(GAMMAS, 0.01, shift), rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_its_gradient_is_that_of_finite_differences(shift: float) -> None:
    model = network()
    training.penalty(model, 0.5, shift).backward()
    found = torch.cat([norm.gamma.grad for _, norm in training.bounded_norms(model)]).tolist()
    step = 1e-5
    for at, slope in enumerate(found):
        higher, lower = ([g + sign * step * (k == at) for k, g in enumerate(GAMMAS)] for sign in (1, -1))
        expected = (by_hand(tuple(higher), 0.5, shift) - by_hand(tuple(lower), 0.5, shift)) / (2 * step)
        # The second difference quotient's rounding is 1e-16/1e-5, its truncation 1e-10.
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert slope > 0  # scales only ever recede
    rest = [p.grad for name, p in model.named_parameters() if "gamma" not in name]
    assert all(gradient is None for gradient in rest)


def test_it_pulls_in_the_middle_and_leaves_both_ends_alone() -> None:
    model = network()
    training.penalty(model, 1.0).backward()
    lowest, _, middle, _ = model[1].gamma.grad.tolist()
    highest = float(model[5].gamma.grad[-1])
    assert middle > 100 * highest
    assert middle > 100 * lowest


def test_extreme_scales_stay_finite_in_half_precision() -> None:
    model = nn.Sequential(training.BoundedBatchNorm1d(3).to(torch.bfloat16))
    with torch.no_grad():
        model[0].gamma.copy_(torch.tensor([-500.0, 0.0, 500.0]))
    value = training.penalty(model, 1.0)
    value.backward()
    # s(1 − log s) is 0 at s = 0, (1 + log 2)/2 at one half and 1 at 1.
    assert float(value.detach()) == pytest.approx(0.5 * (1 + math.log(2)) + 1, rel=1e-6)
    assert bool(torch.isfinite(model[0].gamma.grad).all())


def test_a_shared_norm_counts_once() -> None:
    norm = training.BoundedBatchNorm1d(3)
    once, twice = nn.Sequential(norm), nn.Sequential(norm, norm)
    assert float(training.penalty(once, 1.0).detach()) == float(training.penalty(twice, 1.0).detach())


def test_misuse_is_said() -> None:
    with pytest.raises(UsageError, match="no bounded BatchNorm"):
        training.penalty(nn.Sequential(nn.BatchNorm1d(3)), 1.0)
    with pytest.raises(UsageError, match="at least 0"):
        training.penalty(network(), -1.0)


def test_groups_hold_every_parameter_once() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    rest, scales = training.parameter_groups(model, lr=0.1, weight_decay=5e-4)
    assert [id(p) for p in scales["params"]] == [id(model[1].gamma), id(model[5].gamma)]
    assert scales["lr"] == pytest.approx(1.0)
    assert scales["weight_decay"] == 0
    assert (rest["lr"], rest["weight_decay"]) == (0.1, 5e-4)
    both = [id(p) for p in (*rest["params"], *scales["params"])]
    assert sorted(both) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_scales_are_looked_at_without_gradient() -> None:
    found = training.scales(network())
    assert list(found) == ["1", "5"]
    assert found["1"].tolist() == pytest.approx([1 / (1 + math.exp(-g)) for g in GAMMAS[:4]])
    assert not found["1"].requires_grad


def trained(seed: int, strength: float) -> nn.Module:
    """A layer of eight channels of which the labels need two, trained for a moment."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(training.BoundedBatchNorm1d(8), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(0.5)
    optimizer = torch.optim.SGD(training.parameter_groups(model, lr=0.05), momentum=0.9)
    for _ in range(150):
        x = torch.randn(64, 8, generator=generator)
        loss = nn.functional.mse_loss(model(x), x[:, :1] - x[:, 1:2])
        optimizer.zero_grad()
        (loss + training.penalty(model, strength)).backward()
        optimizer.step()
    return model.eval()


def test_unneeded_channels_recede_and_needed_ones_stay() -> None:
    scales = training.scales(trained(0, 0.02))["0"]
    assert float(scales[:2].min()) > 0.5
    without = training.scales(trained(0, 0.0))["0"]
    assert float(scales[2:].max()) < 0.5 * float(without[2:].min())


def test_training_is_deterministic() -> None:
    first, again, other = (trained(seed, 0.02).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.gamma"], other["0.gamma"])


def chain(dtype: Any = None) -> nn.Module:
    """Two convolutions, each normalised: the second undoes any common scale of the first."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), training.BoundedBatchNorm2d(4, eps=1e-14), nn.ReLU(),
        nn.Conv2d(4, 3, 3, bias=False), training.BoundedBatchNorm2d(3, eps=1e-14),
    ).to(dtype or torch.float64)  # fmt: skip
    with torch.no_grad():
        model[1].gamma.copy_(torch.tensor([-2.0, -3.0, -6.0, -20.0]))
    return model


def test_an_anchored_layer_computes_the_same_and_keeps_its_proportions() -> None:
    model = chain()
    x = torch.randn(8, 1, 9, 9, dtype=torch.float64)
    before, scales = model(x), training.scales(model)["1"]
    training.anchor(model, channels=2)
    after = training.scales(model)["1"]
    held = 0.5 / float(scales[1])
    assert float(after[1]) == pytest.approx(0.5, rel=1e-12)
    assert after[[2, 3]].tolist() == pytest.approx((held * scales[[2, 3]]).tolist(), rel=1e-12)
    assert float(after[0]) == pytest.approx(0.99)  # 1.26 of one half would be beyond every bound
    training.anchor(again := chain(), channels=1)
    torch.testing.assert_close(again(x), before, rtol=1e-9, atol=1e-9)
    assert training.scales(again)["1"].tolist() == pytest.approx((0.5 / float(scales[0]) * scales).tolist(), rel=1e-12)


def test_what_is_not_homogeneous_changes() -> None:
    """The condition that the docstring names is needed: with another activation the factor shows."""
    model = chain()
    model[2] = nn.SiLU()
    x = torch.randn(8, 1, 9, 9, dtype=torch.float64)
    before = model(x)
    training.anchor(model, channels=1)
    assert float((model(x) - before).detach().abs().max()) > 0.01


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_every_layer_is_held_from_above_as_well(dtype: Any, precision: float) -> None:
    model = network(dtype)
    training.anchor(model, channels=1)  # the second layer's largest is beyond 0.99
    before = [1 / (1 + math.exp(-gamma)) for gamma in GAMMAS[4:]]
    expected = [0.5 / before[2] * s for s in before]
    assert training.scales(model)["5"].tolist() == pytest.approx(expected, rel=precision)
    training.anchor(model, channels=3)  # all of the second layer: its smallest is held
    assert float(training.scales(model)["5"].min()) == pytest.approx(0.5, rel=precision)


def test_anchoring_again_changes_nothing() -> None:
    training.anchor(once := network(), channels=2)
    before = training.scales(once)
    training.anchor(once, channels=2)
    assert all(torch.allclose(scale, before[name], rtol=1e-12) for name, scale in training.scales(once).items())


@pytest.mark.parametrize("flush", [False, True])
def test_scales_of_nothing_keep_their_proportions(flush: bool) -> None:
    model = nn.Sequential(training.BoundedBatchNorm1d(3))
    with torch.no_grad():
        model[0].gamma.copy_(torch.tensor([1.0, -1e4, -2e4]))
    torch.set_flush_denormal(flush)
    try:
        training.anchor(model, channels=1)
        training.penalty(model, 1.0).backward()
    finally:
        torch.set_flush_denormal(False)
    factor = math.log(0.5) - math.log(1 / (1 + math.exp(-1.0)))
    assert model[0].gamma.tolist() == pytest.approx([0.0, -1e4 + factor, -2e4 + factor], rel=1e-6, abs=1e-6)
    assert bool(torch.isfinite(model[0].gamma.grad).all())


def test_frozen_scales_are_left_alone() -> None:
    model = network()
    model[1].gamma.requires_grad_(False)
    before = training.scales(model)["1"]
    training.anchor(model, channels=1)
    assert torch.equal(training.scales(model)["1"], before)
    assert float(training.scales(model)["5"].max()) == pytest.approx(0.5)


def test_anchored_scales_part_and_others_sink_together() -> None:
    def receded(channels: int | None) -> Any:
        torch.manual_seed(0)
        model = training.bounded(nn.Sequential(nn.BatchNorm1d(16)), start=0.5, spread=0.5).model
        optimizer = torch.optim.SGD(training.parameter_groups(model, lr=0.1), momentum=0.9)
        for step in range(400):
            optimizer.zero_grad()
            training.penalty(model, 0.05, training.shift_at(step / 400, between=(0.4, 0.6))).backward()
            optimizer.step()
            if channels:
                training.anchor(model, channels)
        return training.scales(model)["0"].sort(descending=True).values

    assert float(receded(None).max()) < 0.01
    held = receded(3)
    assert float(held[2]) == pytest.approx(0.5)
    assert float(held[3:].max()) < 0.01


def test_the_shift_rises_between_two_moments() -> None:
    at = [training.shift_at(progress, 0.0, 3.0, (0.25, 0.75)) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert at == [0.0, 0.0, 1.5, 3.0, 3.0]


def test_misuse_of_the_anchor_and_the_shift_is_said() -> None:
    with pytest.raises(UsageError, match="no bounded BatchNorm"):
        training.anchor(nn.Sequential(nn.BatchNorm1d(3)), 1)
    for channels in (0, 2.5):
        with pytest.raises(UsageError, match="whole number"):
            training.anchor(network(), channels)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the widest layer has 4: nothing would recede"):
        training.anchor(network(), 4)
    for scale in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="above 0"):
            training.anchor(network(), 1, scale=scale)
    for between in ((0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (0.1, 0.2, 0.3)):
        with pytest.raises(UsageError, match="rising fractions"):
            training.shift_at(0.5, between=between)
    for progress in (3, -0.1, float("nan")):
        with pytest.raises(UsageError, match="steps by all steps"):
            training.shift_at(progress)
