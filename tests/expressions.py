"""Absorption held against its definition.

In front of every consumer, the dense graph multiplies the channel axis by a matrix that writes the expression of
removed channels in their places; the graph whose weights took the expression up, and which was then cut, must compute
the same. Nothing is assumed of the operators between producer and consumer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmerge.apply.absorb import absorb, can_absorb
from onnxmerge.apply.cut import cut
from onnxmerge.channels.groups import ChannelGroup, kept_elements
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft, to_proto
from tests.builders import Analysed

__all__ = ["absorbed", "random_expression", "random_expressions", "written_out"]


def random_expression(rng: np.random.Generator, group: ChannelGroup, *, terms: bool) -> Expression:
    order = rng.permutation(group.size)
    kept, removed = np.sort(order[: group.size // 2]), np.sort(order[group.size // 2 :])
    removed = removed[rng.random(len(removed)) < 0.7] if terms else removed[:0]
    target = kept[rng.integers(0, len(kept), len(removed))]
    return Expression(group.size, kept, removed, target, rng.standard_normal(len(removed)))


def written_out(analysed: Analysed, expressions: Mapping[int, Expression]) -> onnx.ModelProto:
    """The dense model with `a ≈ Z a_S` in front of every consumer, place by place where a channel has several."""
    model = to_proto(analysed.context.model)
    nodes = []
    for index, node in enumerate(model.graph.node):
        # The weight takes up the first group first, so that group's matrix stands next to it.
        for position, expression in sorted(expressions.items(), reverse=True):
            group = analysed.groups[position]
            z = np.zeros((group.size, group.size), dtype=np.float32)
            z[:, expression.kept] = expression.matrix()
            for consumer in group.consumers:
                if consumer.node != index:
                    continue
                labels = group.members[consumer.input]
                place = np.array([np.sum(labels[:at] == label) for at, label in enumerate(labels)])
                same = place[:, None] == place[None, :]
                inside = labels >= 0
                matrix = np.where(same & inside[:, None] & inside, z[labels][:, labels], 0)
                matrix = np.where(inside[:, None], matrix, np.eye(len(labels))).astype(np.float32)
                rank = analysed.context.rank(consumer.input.tensor)
                order = list(range(rank))
                order[consumer.input.axis], order[-1] = order[-1], order[consumer.input.axis]
                tag = f"{index}_{position}_{consumer.position}"
                model.graph.initializer.append(numpy_helper.from_array(matrix.T.copy(), f"z_{tag}"))
                nodes += [
                    helper.make_node("Transpose", [node.input[consumer.position]], [f"last_{tag}"], perm=order),
                    helper.make_node("MatMul", [f"last_{tag}", f"z_{tag}"], [f"written_{tag}"]),
                    helper.make_node("Transpose", [f"written_{tag}"], [f"back_{tag}"], perm=order),
                ]
                node.input[consumer.position] = f"back_{tag}"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def absorbed(analysed: Analysed, expressions: Mapping[int, Expression]) -> onnx.ModelProto:
    draft = Draft(analysed.context.model)
    left = kept_elements(analysed.groups, {position: e.kept for position, e in expressions.items()})
    added = absorb(analysed.network, draft, expressions, None)
    return to_proto(cut(analysed.context, draft, left, added))


def _recurrent(group: ChannelGroup) -> bool:
    return bool({each.node for each in group.producers} & {each.node for each in group.consumers})


def random_expressions(analysed: Analysed, seed: int) -> dict[int, Expression]:
    """For every group; without terms where the consumers cannot take any, or produce the channels themselves: hidden
    units of a recurrent node are read by the node, and no combination of others passes its gates.
    """
    rng = np.random.default_rng(seed)
    return {
        position: random_expression(rng, group, terms=not can_absorb(analysed.context, group) and not _recurrent(group))
        for position, group in enumerate(analysed.groups)
        if group.size > 1
    }
