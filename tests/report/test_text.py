"""Every reason that the package gives has words, and its words name just what the reason carries."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from onnxmerge.channels.reasons import CODES, Code, Reason
from onnxmerge.channels.rules.refused import REFUSED
from onnxmerge.report.text import TEXTS, advice, kind, nothing_to_cut, sentence

PACKAGE = Path(__file__).resolve().parents[2] / "onnxmerge"


class Given(NamedTuple):
    """A place of the source that makes a reason."""

    place: str
    code: str
    operator: bool
    axis: bool
    details: int


def given() -> Iterator[Given]:
    """All calls of `Reason` whose code stands there."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "Reason"):
                continue
            (code, *others), named = node.args, {each.arg: each.value for each in node.keywords}
            place = f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
            assert isinstance(code, ast.Constant), f"{place}: the code has to be written where the reason is made"
            assert isinstance(code.value, str)
            detail = named.get("detail")
            assert detail is None or isinstance(detail, ast.Tuple), f"{place}: so is its detail, item by item"
            yield Given(place, code.value, bool(others), "axis" in named, len(detail.elts) if detail else 0)


GIVEN = tuple(given())


def fields_of(words: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(words) if name is not None}


def test_the_table_has_the_codes_that_there_are() -> None:
    assert set(TEXTS) == set(CODES)
    assert len(set(CODES)) == len(CODES) == len(get_args(Code))


def test_every_code_is_given_somewhere() -> None:
    assert {each.code for each in GIVEN} == set(CODES)


@pytest.mark.parametrize("each", GIVEN, ids=lambda each: each.place)
def test_words_name_what_a_reason_carries(each: Given) -> None:
    carried = {str(number) for number in range(each.details)}
    carried |= {"op"} if each.operator else set()
    carried |= {"axis"} if each.axis else set()
    assert fields_of(TEXTS[each.code].words) == carried  # type: ignore[index]


@pytest.mark.parametrize("code", CODES)
def test_words_are_a_part_of_a_sentence(code: Code) -> None:
    for words in TEXTS[code]:
        assert words == words.strip(" .;:")
        assert "\n" not in words
    assert TEXTS[code].words


def test_refused_operators_are_named() -> None:
    assert all(reason.operator == op and op in sentence(reason).split() for (_, op), reason in REFUSED.items())


SENTENCES = (
    (Reason("graph_output", detail=("logits",)), "graph output logits"),
    (Reason("graph_input", detail=("x",)), "graph input x"),
    (Reason("read_by_subgraph", detail=("h",)), "h is read by a subgraph"),
    (Reason("has_subgraph", "If", where="if_1"), "if_1: If has a subgraph"),
    (Reason("no_fixed_length", axis=2, detail=("h",)), "axis 2 of h has no fixed length"),
    (Reason("shapes_unknown", "MatMul", where="m"), "m: the shapes around MatMul could not be inferred"),
    (Reason("old_opset", "Conv", detail=(1,)), "Conv of opset 1 has no rule"),
    (Reason("no_rule", "custom.Thing"), "custom.Thing has no rule"),
    (Reason("not_a_layer", "ai.onnx.ml.TreeEnsemble"),
     "ai.onnx.ml.TreeEnsemble is not a layer of a neural network: it has no channels"),
    (Reason("computed_axis", "CumSum"), "the axis of CumSum is computed at run time"),
    (Reason("computed_bounds", "Slice"), "the bounds of Slice are computed at run time"),
    (Reason("heads_uneven", "Attention", detail=(8, 3)), "Attention has 8 query heads for 3 key heads"),
    (Reason("einsum_sum", "Einsum", detail=("ij->i",)), "Einsum 'ij->i' sums over an axis of a single operand"),
    (Reason("unequal_elements", "Reshape", detail=((2, 3), ())),
     "Reshape from 2x3 to a scalar, which differ in their number of elements"),
    (Reason("mixes_axes", "Reshape", detail=((2, 6), (12,)), where="r"),
     "r: Reshape mixes this axis with others (2x6 to 12)"),
    (Reason("grouped_convolution", detail=(4,), where="h"), "h: convolution with 4 groups"),
    (Reason("steps", "Slice", detail=(-2,)), "Slice has step -2 along the channels"),
    (Reason("made_together", detail=(3,)), "produced by 3 nodes together (--no-coupled)"),
    (Reason("no_rule", "{0}", where="a: {op} %s"), "a: {op} %s: {0} has no rule"),
)  # fmt: skip


@pytest.mark.parametrize(("reason", "words"), SENTENCES)
def test_sentences(reason: Reason, words: str) -> None:
    assert sentence(reason) == words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason("graph_output", detail=("logits",)), "graph output"),
        (Reason("graph_input", detail=("x",)), "graph input"),
        (Reason("mixes_all", "Softmax", where="a: b"), "Softmax mixes all channels"),
        (Reason("steps", "Slice", detail=(2,), where="s"), "Slice has step 2 along the channels"),
    ],
)
def test_kinds_name_no_node(reason: Reason, words: str) -> None:
    assert kind(reason) == words


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("mixes_free_length", "--shape NAME:"),
        ("no_fixed_length", "--shape NAME:"),
        ("shapes_unknown", "fold constants (onnxsim)"),
        ("computed_positions", "fold constants (onnxsim)"),
        ("shapes_contradict", "export it again"),
        ("has_subgraph", "without If, Loop or Scan"),
        ("graph_output", "export both as one"),
        ("no_rule", "docs/adding-an-operator.md"),
        ("old_opset", "newer opset"),
        ("scale_a_block", "then quantize"),
        ("packed_in_attributes", "without fused operators"),
        ("heads_packed", "a separate axis for heads"),
        ("attention_cache", "without the cache"),
        ("graph_cache", "without the cache"),
        ("einsum_form", "MatMul and Transpose"),
        ("mixes_axes", "without this step"),
        ("integer_arithmetic", ""),
        ("mixes_all", ""),
        ("graph_input", ""),
    ],
)
def test_advice(code: Code, word: str) -> None:
    fix = advice(Reason(code))
    assert word in fix
    assert bool(word) == bool(fix)


def test_nothing_to_cut_lists_three_reasons() -> None:
    reasons = [Reason("tokens", op) for op in "abcde"]
    assert nothing_to_cut("m.onnx", reasons[:1]) == "m.onnx: nothing can be cut: tokens of a"
    assert nothing_to_cut("m.onnx", reasons).endswith("tokens of a; tokens of b; tokens of c (and 2 more reasons)")


def test_a_reason_of_json() -> None:
    reason = Reason("mixes_axes", "Reshape", detail=((2, 6), (12,)), where="r")
    assert Reason.of({"code": "mixes_axes", "operator": "Reshape", "detail": [[2, 6], [12]], "where": "r"}) == reason
    with pytest.raises(ValueError, match="'full_moon'"):
        Reason.of({"code": "full_moon"})
    with pytest.raises(TypeError):
        Reason.of({"moon": "full"})
