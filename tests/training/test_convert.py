"""Bounded norms into a model and out again: what stays equal, what is skipped, and that the account is true."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch; pip install 'onnxmerge[train]'")

from torch import nn  # noqa: E402

from onnxmerge import training  # noqa: E402
from onnxmerge.errors import UsageError  # noqa: E402


def network(low: float = 0.02, high: float = 0.95) -> nn.Module:
    """A trained-looking network: scales within a range, offsets, statistics of its own; in eval mode."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Sequential(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU()), nn.Flatten(),
        nn.Linear(64, 6), nn.BatchNorm1d(6, eps=1e-3), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.uniform_(low, high)
                norm.bias.normal_()
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return model.eval()


X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(2))


def outputs(model: nn.Module) -> Any:
    with torch.no_grad():
        return model(X)


def test_eval_outputs_stay_where_no_scale_is_clipped() -> None:
    model = network()
    before = outputs(model)
    result = training.bounded(model)
    torch.testing.assert_close(outputs(result.model), before)
    assert [(c.name, c.channels, c.clipped, c.offsets) for c in result.converted] == [
        ("1", 5, 0, 5), ("3.1", 4, 0, 4), ("6", 6, 0, 6),
    ]  # fmt: skip
    assert result.skipped == ()
    with torch.no_grad():
        result.model[3][1].running_mean.mul_(1.01)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(outputs(result.model), before)


def test_plain_gives_the_same_outputs_from_ordinary_norms() -> None:
    result = training.bounded(network()).model
    back = training.plain(result)
    torch.testing.assert_close(outputs(back), outputs(result), rtol=1e-6, atol=1e-6)
    assert [type(m) for m in back.modules()] == [type(m) for m in network().modules()]
    assert back[6].eps == 1e-3
    assert back[3][1].momentum is None
    assert float(back[1].bias.detach().abs().max()) == 0
    torch.testing.assert_close(back[1].weight, result[1].weight)
    assert any(True for _ in training.bounded_norms(result))  # the model itself stays bounded
    assert not any(True for _ in training.bounded_norms(back))


def test_training_forgets_offsets_and_keeps_scales() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(2, momentum=None))
    with torch.no_grad():
        norm[0].weight.copy_(torch.tensor([0.25, 0.5]))
        norm[0].bias.copy_(torch.tensor([1.0, -2.0]))
    new = training.bounded(norm).model
    x = torch.randn(32, 2)
    torch.testing.assert_close(new(x), norm(x) - norm[0].bias)


def test_with_offsets_training_outputs_stay_as_well() -> None:
    model = network().train()
    new = training.bounded(model, offset=True).model
    with torch.no_grad():
        torch.testing.assert_close(new(X), model(X))
        torch.testing.assert_close(new.eval()(X), model.eval()(X))
        torch.testing.assert_close(training.plain(new)(X), model(X))
    assert training.bounded(nn.BatchNorm2d(3), offset=True).model.delta.tolist() == [0, 0, 0]


def test_what_was_frozen_stays_frozen() -> None:
    for frozen in ("weight", "bias"):
        norm = nn.BatchNorm2d(3)
        getattr(norm, frozen).requires_grad_(False)
        new = training.bounded(norm, offset=True).model
        assert (new.gamma.requires_grad, new.delta.requires_grad) == (frozen == "bias", frozen == "weight")


def test_bounded_already_without_offset_is_said() -> None:
    model = training.bounded(nn.Sequential(nn.BatchNorm2d(3))).model
    (skipped,) = training.bounded(model, offset=True).skipped
    assert (skipped.name, "without an offset" in skipped.reason) == ("0", True)
    assert training.bounded(training.bounded(nn.BatchNorm2d(3), offset=True).model, offset=True).skipped == ()


def test_clipped_scales_are_counted() -> None:
    model = nn.Sequential(nn.BatchNorm2d(6))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([-0.5, 0.0, 0.3, 0.9, 1.0, 7.0]))
    result = training.bounded(model)
    assert result.converted[0].clipped == 4
    assert result.converted[0].offsets == 0
    assert training.scales(result.model)["0"].tolist() == pytest.approx([0.01, 0.01, 0.3, 0.9, 0.99, 0.99], rel=1e-5)


def test_start_sets_every_scale() -> None:
    result = training.bounded(network(), start=0.5)
    assert all(bool((scale == 0.5).all()) for scale in training.scales(result.model).values())
    assert [c.clipped for c in result.converted] == [0, 0, 0]
    with pytest.raises(UsageError, match="between 0 and 1"):
        training.bounded(network(), start=1.0)


def test_spread_scatters_the_start_as_the_seed_says() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2000))
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(training.bounded(model, start=0.3, spread=2).model[0].gamma.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    # Quantiles of the normal distribution, so that only their coarseness keeps mean and deviation from being exact.
    assert float(found[0].mean()) == pytest.approx(float(torch.logit(torch.tensor(0.3))), abs=1e-4)
    assert float(found[0].std()) == pytest.approx(2, rel=2e-3)
    with pytest.raises(UsageError, match="at least 0"):
        training.bounded(model, start=0.3, spread=-1)


def test_a_copy_leaves_the_model_alone_and_in_place_does_not() -> None:
    model = network()
    before = outputs(model)
    copied = training.bounded(model)
    assert copied.model is not model
    assert isinstance(model[1], nn.BatchNorm2d)
    assert not any(True for _ in training.bounded_norms(model))
    copied.model[1].running_mean.fill_(9)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=0)
    assert training.bounded(model, inplace=True).model is model
    assert isinstance(model[3][1], training.BoundedBatchNorm2d)
    assert training.plain(model, inplace=True) is model
    assert not any(True for _ in training.bounded_norms(model))


def test_a_model_that_is_a_norm_itself() -> None:
    result = training.bounded(nn.BatchNorm3d(2), start=0.4, inplace=True)
    assert isinstance(result.model, training.BoundedBatchNorm3d)
    assert isinstance(training.plain(result.model), nn.BatchNorm3d)


def test_kept_with_the_module() -> None:
    norm = nn.BatchNorm2d(3, dtype=torch.float64).train()
    norm.weight.requires_grad_(False)
    new = training.bounded(nn.Sequential(norm)).model[0]
    assert new.training
    assert new.gamma.dtype == torch.float64
    assert not new.gamma.requires_grad


class _Own(nn.BatchNorm2d):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1


def skipped_cases() -> list[tuple[str, nn.Module, str]]:
    shared, tied, hooked = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    twin = nn.BatchNorm2d(3)
    twin.weight = tied.weight
    hooked.register_forward_hook(lambda *_: None)
    return [
        ("affine", nn.Sequential(nn.BatchNorm2d(3, affine=False)), "no scale"),
        ("shared", nn.Sequential(shared, nn.ReLU(), shared), "2 places"),
        ("tied", nn.Sequential(tied, twin), "tied"),
        ("derived", nn.Sequential(_Own(3)), "_Own"),
        ("sync", nn.Sequential(nn.SyncBatchNorm(3)), "SyncBatchNorm"),
        ("hooked", nn.Sequential(hooked), "hooks"),
    ]


@pytest.mark.parametrize(
    ("model", "reason"), [case[1:] for case in skipped_cases()], ids=[c[0] for c in skipped_cases()]
)
def test_what_is_skipped_is_left_alone_and_said(model: nn.Module, reason: str) -> None:
    with pytest.raises(UsageError, match=f"no BatchNorm that can be bounded.*{reason}"):
        training.bounded(model)
    both = nn.Sequential(model, nn.BatchNorm2d(3))
    result = training.bounded(both, start=0.5)
    assert [c.name for c in result.converted] == ["1"]
    assert result.skipped
    assert all(reason in entry.reason for entry in result.skipped)
    assert [type(m) for m in result.model[0].modules()] == [type(m) for m in model.modules()]


def test_a_shared_bounded_norm_stays_shared() -> None:
    norm = training.BoundedBatchNorm2d(3)
    back = training.plain(nn.Sequential(norm, nn.ReLU(), norm))
    assert isinstance(back[0], nn.BatchNorm2d)
    assert back[0] is back[2]


def test_bounding_twice_changes_nothing() -> None:
    once = training.bounded(network()).model
    twice = training.bounded(once)
    assert (twice.converted, twice.skipped) == ((), ())
    torch.testing.assert_close(outputs(twice.model), outputs(once), rtol=0, atol=0)
    with pytest.raises(UsageError, match="no BatchNorm"):
        training.bounded(nn.Sequential(nn.Linear(2, 2)))
