"""The bounded BatchNorm: its formula, and that all else is torch's."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch; pip install 'onnxmerge[train]'")

from torch import nn  # noqa: E402

from onnxmerge import training  # noqa: E402
from onnxmerge.errors import UsageError  # noqa: E402

RANKS = [
    (training.BoundedBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (training.BoundedBatchNorm1d, nn.BatchNorm1d, (6, 3, 5)),
    (training.BoundedBatchNorm2d, nn.BatchNorm2d, (6, 3, 4, 5)),
    (training.BoundedBatchNorm3d, nn.BatchNorm3d, (6, 3, 2, 4, 3)),
]


def pair(kind: Any, ordinary: Any, **options: Any) -> tuple[Any, Any]:
    """A bounded norm with scales of its own, and an ordinary one with the same scales as weight and no offset."""
    new, old = kind(3, **options), ordinary(3, **options)
    with torch.no_grad():
        new.gamma.copy_(torch.tensor([-2.0, 0.3, 4.0]))
        old.weight.copy_(torch.sigmoid(new.gamma))
    return new, old


def batches(shape: tuple[int, ...], count: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(shape, generator=generator) + k for k in range(count)]


OPTIONS = [{}, {"momentum": None}, {"momentum": 0.3, "eps": 0.01}, {"track_running_stats": False}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("kind", "ordinary", "shape"), RANKS)
def test_equals_an_ordinary_norm_with_sigmoid_scales(
    kind: Any, ordinary: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    new, old = pair(kind, ordinary, **options)
    for x in batches(shape):
        torch.testing.assert_close(new(x), old(x))
    new.eval(), old.eval()
    x = batches(shape)[0]
    torch.testing.assert_close(new(x), old(x))
    assert [b.tolist() for b in new.buffers()] == [b.tolist() for b in old.buffers()]
    with torch.no_grad():
        old.weight.mul_(1.01)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(new(x), old(x))


def test_the_formula_by_hand() -> None:
    norm = training.BoundedBatchNorm1d(1, eps=1e-12)
    with torch.no_grad():
        norm.gamma.fill_(torch.log(torch.tensor(3.0)))  # sigmoid(log 3) = 3/4
    assert norm(torch.tensor([[1.0], [5.0]])).flatten().tolist() == pytest.approx([-0.75, 0.75])


def test_the_scale_is_bounded_and_starts_where_it_is_told() -> None:
    norm = training.BoundedBatchNorm2d(4, start=0.2)
    assert norm.weight.tolist() == pytest.approx([0.2] * 4)
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([-80.0, -1.0, 1.0, 16.0]))
    assert bool((norm.weight > 0).all())
    assert bool((norm.weight < 1).all())
    assert norm.bias is None
    for start in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            training.BoundedBatchNorm2d(4, start=start)


def test_reset_goes_back_to_the_start() -> None:
    norm = training.BoundedBatchNorm2d(2, start=0.3)
    norm(torch.randn(4, 2, 3, 3))
    with torch.no_grad():
        norm.gamma.fill_(7)
    norm.reset_parameters()
    assert norm.weight.tolist() == pytest.approx([0.3, 0.3])
    assert norm.running_mean.tolist() == [0, 0]
    assert int(norm.num_batches_tracked) == 0


@pytest.mark.parametrize(("kind", "ordinary", "shape"), RANKS)
def test_the_gradient_goes_to_gamma_through_the_sigmoid(kind: Any, ordinary: Any, shape: tuple[int, ...]) -> None:
    new, old = pair(kind, ordinary)
    x = batches(shape)[0]
    for norm in (new, old):
        norm(x).pow(3).sum().backward()
    scale = old.weight.detach()
    torch.testing.assert_close(new.gamma.grad, old.weight.grad * scale * (1 - scale))


def test_the_state_goes_there_and_back() -> None:
    new, _ = pair(training.BoundedBatchNorm2d, nn.BatchNorm2d)
    new(torch.randn(4, 3, 2, 2))
    assert list(new.state_dict()) == ["gamma", "running_mean", "running_var", "num_batches_tracked"]
    stored = io.BytesIO()
    torch.save(new.state_dict(), stored)
    stored.seek(0)
    other = training.BoundedBatchNorm2d(3)
    other.load_state_dict(torch.load(stored, weights_only=True))
    x = torch.randn(4, 3, 2, 2)
    for module in (other, copy.deepcopy(new)):
        torch.testing.assert_close(module.eval()(x), new.eval()(x), rtol=0, atol=0)


def test_an_ordinary_state_is_not_taken_for_a_bounded_one() -> None:
    with pytest.raises(RuntimeError, match="gamma"):
        training.BoundedBatchNorm2d(3).load_state_dict(nn.BatchNorm2d(3).state_dict())


def test_a_wrong_rank_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="4D"):
        training.BoundedBatchNorm2d(3)(torch.randn(4, 3))


@pytest.mark.parametrize(("kind", "ordinary", "shape"), RANKS)
def test_with_an_offset_it_recedes_with_the_scale(kind: Any, ordinary: Any, shape: tuple[int, ...]) -> None:
    new, old = kind(3, offset=True), ordinary(3)
    with torch.no_grad():
        new.gamma.copy_(torch.tensor([-30.0, 0.3, 4.0]))
        new.delta.copy_(torch.tensor([5.0, -1.0, 2.0]))
        old.weight.copy_(torch.sigmoid(new.gamma))
        old.bias.copy_(torch.sigmoid(new.gamma) * new.delta)
    x = batches(shape)[0]
    torch.testing.assert_close(new(x), old(x))
    assert float(new(x)[:, 0].detach().abs().max()) < 1e-11
    for norm in (new, old):
        norm(x).pow(3).sum().backward()
    scale = old.weight.detach()
    torch.testing.assert_close(new.delta.grad, old.bias.grad * scale)
    torch.testing.assert_close(
        new.gamma.grad, (old.weight.grad + new.delta.detach() * old.bias.grad) * scale * (1 - scale)
    )
    assert list(new.state_dict())[:2] == ["gamma", "delta"]
    new.reset_parameters()
    assert new.delta.tolist() == [0, 0, 0]
