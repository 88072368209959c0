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
