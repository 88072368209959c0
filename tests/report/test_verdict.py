from __future__ import annotations

from dataclasses import replace

import pytest

from onnxmerge.report.model import Account, Inspection, SideBySide, Sizes
from onnxmerge.report.verdict import CAUTION, account_verdict, inspection_verdict, outcome, side_by_side_verdict
from onnxmerge.runtime.fidelity import Fidelity, OutputFidelity


def test_everything_known_is_in_the_sentence(account: Account) -> None:
    assert account_verdict(account) == (
        "50.1 % of the MACs removed, 1.72x faster (95 % interval 1.65-1.80, CPUExecutionProvider), "
        "top-1 91.9 % -> 90.4 %."
    )
    assert outcome(account) == "in.onnx -> out.onnx"


def test_what_was_asked_is_said_where_it_was_not_reached(account: Account) -> None:
    assert "removed (90.0 % asked)," in account_verdict(replace(account, asked=0.9))


@pytest.mark.parametrize(("of", "word"), [("macs", "MACs"), ("params", "parameters"), ("channels", "channels")])
def test_the_budget_is_named(account: Account, of: str, word: str) -> None:
    assert f"50.1 % of the {word} removed" in account_verdict(replace(account, of=of))


@pytest.mark.parametrize(
    ("speedup", "low", "high", "words"),
    [
        (0.5, 0.4, 0.8, "2.00x slower (95 % interval 1.25-2.50, CPUExecutionProvider)"),
        (1.08, 0.98, 1.12, "not measurably faster or slower (1.08x, 95 % interval 0.98-1.12, CPUExecutionProvider)"),
        (1.5, None, None, "1.50x faster (too few runs for an interval, CPUExecutionProvider)"),
    ],
)
def test_speed_is_claimed_only_where_the_interval_does(
    account: Account, speedup: float, low: float | None, high: float | None, words: str
) -> None:
    assert account.latency is not None
    latency = replace(account.latency, speedup=speedup, low=low, high=high)
    assert words in account_verdict(replace(account, latency=latency))


def test_without_labels_agreement_and_without_classes_cosine(account: Account) -> None:
    account = replace(account, accuracy_before=None, accuracy_after=None)
    assert account_verdict(account).endswith(
        "same top-1 class for 98.2 % of the samples, cosine of the outputs 0.99871."
    )
    image = Fidelity((OutputFidelity("y", 0.9987, 0.1, 0.1, None, None, 8),))
    assert account_verdict(replace(account, fidelity=image)).endswith("cosine of the outputs 0.99870.")
    tokens = Fidelity((OutputFidelity("y", None, None, None, None, 0.5, 8),))
    assert account_verdict(replace(account, fidelity=tokens)).endswith("50.0 % of the output entries equal.")


def test_an_error_that_a_cosine_does_not_show_is_said(account: Account) -> None:
    account = replace(account, accuracy_before=None, accuracy_after=None)
    assert "squared error" not in account_verdict(replace(account, measured=0.5))  # top-1 agreement says it better
    image = replace(account, fidelity=Fidelity((OutputFidelity("y", 0.956, 0.29, 0.1, None, None, 8),)))
    assert "squared error" not in account_verdict(replace(image, measured=0.09))
    assert "squared error" not in account_verdict(replace(image, measured=0.5, synthetic=True))
    words = "cosine of the outputs 0.95600, squared error 0.49 times their variance."
    assert account_verdict(replace(image, measured=0.49)).endswith(words)


def test_synthetic_inputs_are_said(account: Account) -> None:
    account = replace(account, accuracy_before=None, accuracy_after=None)
    assert CAUTION in account_verdict(replace(account, synthetic=True))
    assert CAUTION not in account_verdict(replace(account, samples="16 synthetic samples"))


def test_unverified_is_said(account: Account) -> None:
    bare = replace(account, target=None, fidelity=None, latency=None, accuracy_before=None, accuracy_after=None)
    assert account_verdict(bare) == "50.1 % of the MACs removed, not verified."
    assert outcome(bare) == "in.onnx: nothing was written."


def test_of_an_inspection(account: Account) -> None:
    inspection = Inspection("m.onnx", 17, "", 9, account.before, 0.42, {}, account.groups, account.pinned)
    assert inspection_verdict(inspection).startswith("42.0 % of the MACs lie in nodes that 1 channel group can")
    assert inspection_verdict(replace(inspection, groups=())) == "Nothing in m.onnx can be cut; the reasons are below."


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(200, 100, "50.0 % fewer MACs than A"), (100, 150, "50.0 % more MACs than A"), (0, 0, "as many MACs as A")],
)
def test_of_two_models(account: Account, before: int, after: int, words: str) -> None:
    result = SideBySide(
        "a", "b", "", Sizes(1, before, 1), Sizes(1, after, 1), account.fidelity, None, None, account.latency
    )
    assert side_by_side_verdict(result) == (
        f"B has {words}, is 1.72x faster (95 % interval 1.65-1.80, CPUExecutionProvider), "
        "same top-1 class for 98.2 % of the samples, cosine of the outputs 0.99871."
    )
