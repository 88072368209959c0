from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from onnxmerge.channels.reasons import Reason
from onnxmerge.report.model import Account, GroupEntry, Inspection, PinnedEntry, Point, SideBySide, Tradeoff
from onnxmerge.report.terminal import ROWS, show_account, show_inspection, show_side_by_side, show_tradeoff
from onnxmerge.report.text import advice
from onnxmerge.runtime.fidelity import Fidelity, OutputFidelity


def shown(show: Callable[..., None], result: object, width: int = 80, verbose: bool = False, **settings: Any) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width, highlight=False, **settings), result, verbose=verbose)
    return stream.getvalue()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def many(account: Account, n: int) -> Account:
    """Group i costs the more the nearer it is to the end."""
    groups = tuple(GroupEntry(f"g{i:03}", 8, 4, (f"g{i}",), ("c",), i / 1000, "l2", "merge") for i in range(n))
    return replace(account, groups=groups)


def test_figures_of_an_account(account: Account) -> None:
    text = shown(show_account, account)
    assert text.startswith("50.1 % of the MACs removed")
    lines = rows(text)
    assert ["conv1", "32", "/", "64", "75.0", "%", "l2", "+", "merge"] in lines
    assert ["conv2", "32", "/", "32", "25.0", "%", "left", "alone", "1"] in lines
    assert "1: matches --skip conv2" in text
    assert ["Parameters", "11.2", "M", "5.6", "M", "-50.0", "%"] in lines
    assert ["MACs", "125.8", "M", "62.8", "M", "-50.1", "%"] in lines
    assert ["File", "44.8", "MB", "22.4", "MB", "-50.0", "%"] in lines
    assert ["Top-1", "accuracy", "91.9", "%", "90.4", "%", "-1.5", "pp"] in lines
    assert ["Latency,", "median", "17.2", "ms", "10", "ms", "-41.9", "%"] in lines
    assert ["Latency,", "p95", "18.9", "ms", "11", "ms", "–"] in lines
    assert ["logits", "0.99871", "0.0512", "0.75", "98.2", "%", "2000"] in lines
    assert "Latency: 1.72x faster (95 % interval 1.65-1.80); 100 runs each, alternately," in text
    assert "2 threads" in text
    assert "Measured at x 1x3x224x224." in text
    assert "Note: float64 cast to float32" in text
    assert "Stage" not in text
    assert ["measuring", "3.5", "s"] in rows(shown(show_account, account, verbose=True))


def test_errors_of_other_kinds_of_samples_are_told_apart(account: Account) -> None:
    made = replace(account, predicted=0.0033, measured=0.189, settings={"calib": None})
    for given, words in (
        (made, "0.0033 predicted on synthetic samples, 0.189 measured."),
        (replace(made, synthetic=True), "0.0033 predicted, 0.189 measured."),
        (replace(made, settings={"calib": "samples.npz"}), "0.0033 predicted, 0.189 measured."),
    ):
        assert words in shown(show_account, given, 200)


def test_pins_are_grouped_by_reason(account: Account) -> None:
    fix = advice(Reason("graph_output"))
    lines = [" ".join(line) for line in rows(shown(show_account, account, 200))]
    assert "LRN mixes neighbouring channels 12 / 32 norm1, norm2" in lines
    assert f"graph output: {fix} 10 / 10 fc" in lines
    lines = [" ".join(line) for line in rows(shown(show_account, account, 200, verbose=True))]
    assert "norm1: LRN mixes neighbouring channels 8 / 16 norm1" in lines
    assert f"graph output logits: {fix} 10 / 10 fc" in lines


def test_words_are_explained_where_they_are_used(account: Account) -> None:
    fitted = replace(account, groups=(replace(account.groups[0], select="obs", compensate="refit"),))
    text = " ".join(shown(show_account, fitted).split())
    assert "obs: channels are selected by backward elimination" in text
    assert "refit: the weights that read removed channels are solved anew" in text
    assert "Pinned channels must be kept" in text
    assert "obs:" not in shown(show_account, account)
    assert "Pinned:" not in shown(show_account, replace(account, pinned=()))


def test_one_figure_says_how_fast_it_is(account: Account) -> None:
    """The verdict, the line below the table and a table's cell: slower is slower everywhere, by the same factor."""
    assert account.latency is not None
    slower = replace(account, latency=replace(account.latency, speedup=0.96, low=0.94, high=0.98))
    text = " ".join(shown(show_account, slower).split())
    assert text.count("1.04x slower (95 % interval 1.02-1.06") == 2
    assert "0.96" not in text


def test_a_pin_says_what_can_be_done(account: Account) -> None:
    pinned = (PinnedEntry("fc", 10, 10, (Reason("batch_first", "GRU", where="r"),)), account.pinned[1])
    lines = [" ".join(line) for line in rows(shown(show_account, replace(account, pinned=pinned), 200))]
    assert "GRU has the batch axis first: export with layout 0, (sequence, batch, input) 10 / 10 fc" in lines
    assert "LRN mixes neighbouring channels 8 / 16 norm1" in lines


def test_kept_whole_is_not_left_alone(account: Account) -> None:
    groups = (account.groups[1], replace(account.groups[1], name="conv3", note=""))
    lines = rows(shown(show_account, replace(account, groups=groups)))
    assert ["conv2", "32", "/", "32", "25.0", "%", "left", "alone", "1"] in lines
    assert ["conv3", "32", "/", "32", "25.0", "%", "kept", "whole"] in lines


def test_long_lists_keep_what_costs_most_in_graph_order(account: Account) -> None:
    account = many(account, ROWS + 31)
    text = shown(show_account, account)
    names = [line[0] for line in rows(text) if line and line[0].startswith("g0")]
    assert names == [f"g{i:03}" for i in range(31, ROWS + 31)]
    assert "… and 31 more groups (-v shows all)" in text
    text = shown(show_account, account, verbose=True)
    assert "g000" in text
    assert "-v shows all" not in text


def test_one_more_is_not_more_groups(account: Account) -> None:
    assert "… and 1 more group (-v shows all)" in shown(show_account, many(account, ROWS + 1))
    assert "-v shows all" not in shown(show_account, many(account, ROWS))


def test_many_pins_of_one_reason_are_counted(account: Account) -> None:
    pinned = tuple(PinnedEntry(f"p{i}", 1, 2, (Reason("mixes_all", "Softmax", where=f"n{i}"),)) for i in range(9))
    text = shown(show_account, replace(account, pinned=pinned))
    assert "p0, p1, p2 and 6 more" in text
    assert "p8" in shown(show_account, replace(account, pinned=pinned), verbose=True)


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("verbose", [False, True])
def test_narrow_terminals_hold_long_names(account: Account, verbose: bool, width: int) -> None:
    name = "/model/" + "/".join(f"layers.{i}" for i in range(12)) + "/attention/self/query/MatMul"
    account = replace(
        many(account, 40),
        source="a" * 100 + ".onnx",
        groups=(replace(account.groups[0], name=name, note="n" * 300),),
        pinned=(PinnedEntry(name, 10, 10, (Reason("mixes_all", "Softmax", where=name),)),),
        fidelity=Fidelity((OutputFidelity(name, 0.5, 1e-7, 1e30, 0.5, None, 10**9),)),
        notes=("w" * 200,),
        seconds={name: 1.0},
    )
    text = shown(show_account, account, width, verbose=verbose)
    assert max(map(len, text.splitlines())) <= width
    in_full = name in "".join(line.split()[0] for line in text.splitlines() if line.strip())
    assert (in_full, "…" in text) == (verbose, not verbose)
    inspection = Inspection("m.onnx", 17, "", 9, account.before, 1.0, {}, account.groups, account.pinned)
    text = shown(show_inspection, inspection, width, verbose=verbose)
    assert max(map(len, text.splitlines())) <= width
    in_full = name in "".join(line.split()[0] for line in text.splitlines() if line.strip())
    assert (in_full, "…" in text) == (verbose, not verbose)


def test_a_pipe_gets_no_escape_sequences(account: Account) -> None:
    assert "\x1b" not in shown(show_account, account)
    assert "\x1b[1m" in shown(show_account, account, force_terminal=True, color_system="standard")


def test_a_stream_that_is_not_unicode_gets_plain_lines(account: Account) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="replace")
    show_account(Console(file=stream, width=80, highlight=False), account)
    stream.flush()
    assert b"-------" in raw.getvalue()
    assert b"??" not in raw.getvalue()


def test_text_of_the_model_is_neither_markup_nor_control_characters(account: Account) -> None:
    name = "[bold red]conv[/] :smile: \x1b[31m\x07\n"
    account = replace(account, groups=(replace(account.groups[0], name=name),))
    text = shown(show_account, account, width=200)
    assert "[bold red]conv[/] :smile: " in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_nothing_known_is_no_failure(account: Account) -> None:
    bare = replace(
        account, target=None, groups=(), pinned=(), fidelity=None, latency=None, accuracy_before=None, notes=()
    )
    text = shown(show_account, replace(bare, after=replace(bare.after, file_bytes=None)))
    assert "nothing was written" in text
    assert "Latency" not in text
    assert "accuracy" not in text
    assert ["File", "44.8", "MB", "–", "–"] in rows(text)


def looked_at(account: Account, groups: tuple[GroupEntry, ...]) -> Inspection:
    return Inspection("m.onnx", 17, "pytorch 2", 9, account.before, 1.0, {}, groups, account.pinned, ("odd",), 0.75)


def blocks(n: int) -> tuple[GroupEntry, ...]:
    """A residual stream with n blocks."""
    stream = ("stem", *(f"b{i}.out" for i in range(n)))
    readers = (*(f"b{i}.in" for i in range(n)), "fc")
    inside = (
        GroupEntry(f"b{i}.in", 4, 4, (f"b{i}.in",), (f"b{i}.out",), 0.02, saving=0.02, half=3, half_saving=0.01)
        for i in range(n)
    )
    return (GroupEntry("stem", 16, 16, stream, readers, 0.5, saving=0.4), *inside)


def test_inspection(account: Account) -> None:
    groups = tuple(
        replace(group, kept=group.size, saving=0.9, half=group.size // 2, half_saving=0.5, note="")
        for group in account.groups
    )
    text = shown(show_inspection, looked_at(account, groups))
    assert "2 channel groups can shrink; half of the MACs can be removed." in " ".join(text.split())
    assert "m.onnx: opset 17, made by pytorch 2; 9 nodes, 11.2 M parameters, 125.8 M MACs" in text
    assert ["conv1", "32", "/", "64", "75.0", "%", "50.0", "%", "conv2"] in rows(text)
    assert "graph output" in text
    assert "Note: odd" in text
    text = shown(show_inspection, replace(looked_at(account, groups), most_macs_share=0.4))
    assert "can shrink; at most 40.0 % of the MACs can be removed." in " ".join(text.split())


def test_nodes_are_called_by_their_modules(account: Account) -> None:
    titles = {"conv1": "stem.0", "fc": "head"}
    text = shown(show_account, replace(account, titles=titles))
    assert ["stem.0", "32", "/", "64", "75.0", "%", "l2", "+", "merge"] in rows(text)
    assert "10 / 10 head" in " ".join(text.split())
    text = shown(show_account, replace(account, titles=titles), width=200, verbose=True)
    assert "stem.0 (conv1)" in text
    assert "head (fc)" in text
    inspection = replace(looked_at(account, blocks(2)), titles={"b0.out": "one", "stem": "two"})
    lines = [" ".join(line) for line in rows(shown(show_inspection, inspection))]
    assert "+ one" in lines
    assert any(line.startswith("two ") for line in lines)


def test_inspection_shows_a_tree(account: Account) -> None:
    lines = shown(show_inspection, looked_at(account, blocks(2))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stem"))
    assert [line.split("  ")[0] for line in lines[start : start + 5]] == [
        "stem", "+ b0.out", "+ b1.out", "├ b0.in", "└ b1.in",
    ]  # fmt: skip
    assert lines[start].rstrip().endswith("3 nodes")


def test_long_networks_fold_what_is_alike(account: Account) -> None:
    inspection = looked_at(account, blocks(ROWS))
    text = shown(show_inspection, inspection)
    lines = [" ".join(line) for line in rows(text)]
    assert "└ b0.in 3 / 4 2.0 % 1.0 % b0.out" in lines
    assert f"and {ROWS - 1} alike" in lines
    assert f"+ {ROWS - 2} more" in lines
    assert "more group" not in text
    text = shown(show_inspection, inspection, verbose=True)
    assert "alike" not in text
    assert f"└ b{ROWS - 1}.in" in text
    assert f"+ b{ROWS - 1}.out" in text


def test_of_long_networks_without_likeness_what_saves_most_is_shown(account: Account) -> None:
    groups = tuple(GroupEntry("x" * (i + 1), 8, 8, ("x" * (i + 1),), ("c",), 0.1, saving=i) for i in range(ROWS + 3))
    text = shown(show_inspection, looked_at(account, groups))
    assert "… and 3 more groups (-v shows all)" in text
    assert not any(line[:1] == ["xxx"] for line in rows(text))
    assert any(line[:1] == ["xxxx"] for line in rows(text))


def test_a_tree_without_unicode(account: Account) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    groups = blocks(2)
    show_inspection(
        Console(file=stream, width=60, highlight=False),
        looked_at(account, (replace(groups[0], name="n" * 90), *groups[1:])),
    )
    stream.flush()
    assert b"` b1.in" in raw.getvalue()
    assert b"nn..nn" in raw.getvalue()


def test_side_by_side(account: Account) -> None:
    result = SideBySide(
        "a.onnx", "b.onnx", "16 synthetic samples: normal (seed 0)", account.before, account.after,
        account.fidelity, None, None, account.latency, synthetic=True,
    )  # fmt: skip
    text = shown(show_side_by_side, result)
    assert "A is a.onnx" in text
    assert "B is b.onnx" in text
    assert ["A", "B", "Change"] in rows(text)
    assert "not how good they are" in " ".join(text.split())


@pytest.mark.parametrize("accuracy", [None, 91.9])
def test_a_curve_shows_what_its_accuracies_are_held_against(account: Account, accuracy: float | None) -> None:
    point = Point(0.5, 0.5, None, account.after, None if accuracy is None else 90.4, 0.99, 98.2, None, holds=False)
    curve = Tradeoff("in.onnx", "macs", account.before, accuracy, (point,), None, None, True, "held_out.npz")
    text = shown(show_tradeoff, curve)
    assert ("Top-1 accuracy of the original: 91.9 %." in text) is (accuracy is not None)


def test_many_outputs_keep_the_farthest(account: Account) -> None:
    outputs = tuple(OutputFidelity(f"o{i:02}", 1 - i / 100, 0.1, 0.1, None, None, 4) for i in range(ROWS + 2))
    text = shown(show_account, replace(account, fidelity=Fidelity(outputs)))
    assert "o00" not in text
    assert "o02" in text
    assert "… and 2 more outputs (-v shows all)" in text


def test_outputs_of_all_kinds_share_a_table(account: Account) -> None:
    outputs = (
        OutputFidelity("scores", 0.5, float("inf"), 0.25, None, None, 4),
        OutputFidelity("class", None, None, None, None, 0.75, 4),
    )
    lines = rows(shown(show_account, replace(account, fidelity=Fidelity(outputs))))
    assert ["Output", "Cosine", "Rel.", "L2", "Max.", "diff.", "Equal", "n"] in lines
    assert ["scores", "0.50000", "infinite", "0.25", "–", "4"] in lines
    assert ["class", "–", "–", "–", "75.0", "%", "4"] in lines
