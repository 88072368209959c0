"""Gemm, MatMul and Einsum: contractions of two operands, either of which may be a constant.

The constant operand is the weight: its contracted axis is where removed channels are absorbed, its free axis
produces channels. If neither is constant (query times key), the contracted axis couples the two signals and is
consumed without a weight.
"""

from __future__ import annotations

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Consumer, Link, Producer, Relation, link
from onnxmerge.channels.rules.base import MICROSOFT, Rule, broadcast_links
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _gemm(node: Node, context: Context) -> Relation:
    a, b, bias, y = node.input(0), node.input(1), node.input(2), node.outputs[0]
    trans_a, trans_b = bool(node.attributes.get("transA", 0)), bool(node.attributes.get("transB", 0))
    rows, k_a = (1, 0) if trans_a else (0, 1)
    k_b, columns = (1, 0) if trans_b else (0, 1)
    links = [link(a, rows, y, 0), link(a, k_a, b, k_b), link(b, columns, y, 1)]
    if bias:
        links.extend(broadcast_links(bias, y, context))
    vector = bias if bias and _is_row(context.dims(bias) or (), (context.dims(y) or ())[1]) else ""
    return _contraction(node, context, links, (a, rows, k_a), (b, columns, k_b), (0, 1), vector)


def _is_row(dims: tuple[int, ...], length: int) -> bool:
    return bool(dims) and dims[-1] == length and all(dim == 1 for dim in dims[:-1])


def _matmul(node: Node, context: Context) -> Relation:
    """MatMul, and ONNX Runtime's variant, which can permute the axes of its operands."""
    a, b, y = node.input(0), node.input(1), node.outputs[0]
    if min(context.rank(a), context.rank(b)) < 2:
        return pin_all(node, context, Reason("with_a_vector", node.op))
    rank_y = context.rank(y)
    order_a, order_b = _order(node, "A", context.rank(a)), _order(node, "B", context.rank(b))
    (*_, rows, k_a), (*_, k_b, columns) = order_a, order_b
    links = [link(a, rows, y, rank_y - 2), link(a, k_a, b, k_b), link(b, columns, y, rank_y - 1)]
    dims_y = context.dims(y) or ()
    for operand, order in ((a, order_a), (b, order_b)):
        dims, offset = context.dims(operand) or (), rank_y - len(order)
        links.extend(
            link(operand, axis, y, place + offset)
            for place, axis in enumerate(order[:-2])
            if dims[axis] == dims_y[place + offset]
        )
    return _contraction(node, context, links, (a, rows, k_a), (b, columns, k_b), (rank_y - 2, rank_y - 1), "")


def _order(node: Node, side: str, rank: int) -> list[int]:
    """An operand's axes in product order: `transBatch` moves the first after the batch, `trans` swaps two."""
    axes = list(range(rank))
    if node.attributes.get(f"transBatch{side}"):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    return [*axes[:-2], axes[-1], axes[-2]] if node.attributes.get(f"trans{side}") else axes


def _contraction(
    node: Node,
    context: Context,
    links: list[Link],
    left: tuple[str, int, int],
    right: tuple[str, int, int],
    results: tuple[int, int],
    bias: str,
) -> Relation:
    """Producer and consumer of `left · right`, each given as (tensor, free axis, contracted axis)."""
    y = node.outputs[0]
    producers: tuple[Producer, ...] = ()
    if context.is_constant(right[0]):
        producers = (Producer(node.index, Axis(y, results[1]), Axis(right[0], right[1]), bias),)
        consumer = Consumer(node.index, 0, Axis(left[0], left[2]), Axis(right[0], right[2]), right[1], bias)
    elif context.is_constant(left[0]):
        producers = (Producer(node.index, Axis(y, results[0]), Axis(left[0], left[1])),)
        consumer = Consumer(node.index, 1, Axis(right[0], right[2]), Axis(left[0], left[2]), left[1])
    else:
        consumer = Consumer(node.index, 0, Axis(left[0], left[2]), None)
    return Relation(tuple(links), producers=producers, consumers=(consumer,))


def _einsum(node: Node, context: Context) -> Relation:
    equation = str(node.attributes.get("equation", "")).replace(" ", "")
    operands, arrow, result = equation.partition("->")
    terms = operands.split(",")
    y = node.outputs[0]
    if not arrow or "." in equation or len(terms) != len(node.inputs) or any(len(set(t)) != len(t) for t in terms):
        return pin_all(node, context, Reason("einsum_form", node.op, detail=(equation,)))
    first = {letter: (y, axis) for axis, letter in reversed(list(enumerate(result)))}
    links: list[Link] = []
    contracted: dict[str, list[tuple[str, int]]] = {}
    for name, term in zip(node.inputs, terms, strict=True):
        for axis, letter in enumerate(term):
            if letter in first:
                links.append(link(name, axis, *first[letter]))
            else:
                first[letter] = (name, axis)
            if letter not in result:
                contracted.setdefault(letter, []).append((name, axis))
    consumers, producers = _einsum_roles(node, context, terms, result)
    if any(len(places) == 1 for places in contracted.values()):
        return pin_all(node, context, Reason("einsum_sum", node.op, detail=(equation,)))
    return Relation(tuple(links), producers=producers, consumers=consumers)


def _einsum_roles(
    node: Node, context: Context, terms: list[str], result: str
) -> tuple[tuple[Consumer, ...], tuple[Producer, ...]]:
    constants = [position for position, name in enumerate(node.inputs) if context.is_constant(name)]
    signals = [position for position in range(len(terms)) if position not in constants]
    consumers, producers = [], []
    for letter in dict.fromkeys("".join(terms)):
        if letter not in result:
            source = next((p for p in signals if letter in terms[p]), None)
            if source is None:
                continue
            weight = next((p for p in constants if letter in terms[p]), None)
            place = Axis(node.inputs[source], terms[source].index(letter))
            held = None if weight is None else Axis(node.inputs[weight], terms[weight].index(letter))
            consumers.append(Consumer(node.index, source, place, held))
        elif constants and not any(letter in terms[p] for p in signals):
            weight = next(p for p in constants if letter in terms[p])
            output = Axis(node.outputs[0], result.index(letter))
            producers.append(Producer(node.index, output, Axis(node.inputs[weight], terms[weight].index(letter))))
    return tuple(consumers), tuple(producers)


RULES = (
    Rule("Gemm", _gemm),
    Rule("MatMul", _matmul, since=1),
    Rule("Einsum", _einsum),
    Rule("FusedGemm", _gemm, domain=MICROSOFT, since=1),
    Rule("FusedMatMul", _matmul, domain=MICROSOFT, since=1),
)
