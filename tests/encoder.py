"""A small transformer encoder with a mask, in the form in which exporters write it."""

from __future__ import annotations

import numpy as np
import onnx

from tests.builders import Array, Feed, Net

VOCABULARY, WIDTH, HEADS, INNER = 50, 16, 2, 24


def encoder(
    layers: int = 1,
    *,
    keys: int = HEADS,
    seed: int = 0,
    pooled: bool = False,
    vocabulary: int = VOCABULARY,
    norm_first: bool = False,
) -> onnx.ModelProto:
    """Embeddings, attention with biases and a mask that is added to scores, and an MLP, each with a residual sum.

    Args:
        layers: Number of blocks.
        keys: Heads of keys and values, each shared by the same number of heads of queries.
        seed: Of the weights.
        pooled: Whether the output is the mean over real tokens instead of one row for each.
        vocabulary: Number of tokens.
        norm_first: Whether blocks read the normalised stream and add to the stream itself (pre-norm).
    """
    net = Net(opset=17, seed=seed)
    ids = net.input("batch", "tokens", name="input_ids", dtype=np.int64)
    mask = net.input("batch", "tokens", name="attention_mask", dtype=np.int64)
    x = net.add("Gather", net.random(vocabulary, WIDTH), ids)
    real = net.add("Cast", mask, to=onnx.TensorProto.FLOAT)
    wide = net.add("Unsqueeze", real, net.ints(1, 2))
    away = net.add("Mul", net.add("Sub", net.const(1.0, dtype=np.float32), wide), net.const(-1e4, dtype=np.float32))

    def norm(x: str) -> str:
        return net.add("LayerNormalization", x, net.positive(WIDTH), net.random(WIDTH))

    for layer in range(layers):
        read = norm(x) if norm_first else x
        x = net.add("Add", x, _attention(net, read, away, keys, f"layer{layer}"))
        x, read = (x, norm(x)) if norm_first else (norm(x),) * 2
        inner = net.add("Relu", net.add("Add", _scaled(net, read, WIDTH, INNER, f"layer{layer}/in"), net.random(INNER)))
        x = net.add("Add", x, _scaled(net, inner, INNER, WIDTH, f"layer{layer}/out"))
        x = x if norm_first else norm(x)
    if pooled:
        kept = net.add("Mul", x, net.add("Unsqueeze", real, net.ints(2)))
        x = net.add("Div", net.add("ReduceSum", kept, net.ints(1), keepdims=0),
                    net.add("ReduceSum", real, net.ints(1), keepdims=1))  # fmt: skip
    net.output(x, 2 if pooled else 3)
    return net.model()


def _scaled(net: Net, x: str, rows: int, columns: int, name: str) -> str:
    weight = net.const((net.rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32))
    return net.add("MatMul", x, weight, name=name)


def _attention(net: Net, x: str, away: str, keys: int, name: str) -> str:
    size = WIDTH // HEADS
    parts = []
    for part, heads in (("query", HEADS), ("key", keys), ("value", keys)):
        made = net.add("Add", _scaled(net, x, WIDTH, heads * size, f"{name}/{part}"), net.random(heads * size))
        split = net.add("Reshape", made, net.ints(0, 0, heads, size))
        parts.append(net.add("Transpose", split, perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]))
    if keys != HEADS:
        repeat = HEADS // keys
        for place, (rows, columns) in ((1, (size, -1)), (2, (-1, size))):
            apart = net.add("Unsqueeze", parts[place], net.ints(2))
            tiled = net.add("Tile", apart, net.ints(1, 1, repeat, 1, 1))
            parts[place] = net.add("Reshape", tiled, net.ints(0, HEADS, rows, columns))
    scores = net.add("Mul", net.add("MatMul", parts[0], parts[1]), net.const(size**-0.5, dtype=np.float32))
    weights = net.add("Softmax", net.add("Add", scores, away), axis=-1)
    joined = net.add("Transpose", net.add("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    flat = net.add("Reshape", joined, net.ints(0, 0, WIDTH))
    return net.add("Add", _scaled(net, flat, WIDTH, WIDTH, f"{name}/output"), net.random(WIDTH))


def texts(count: int, longest: int = 12, seed: int = 1) -> Feed:
    """Tokens and a mask; texts end at random lengths and are padded with token 0."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, (count, longest))
    mask = (np.arange(longest) < rng.integers(3, longest, (count, 1))).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}


def other_padding(feed: Feed, seed: int = 2) -> Feed:
    """The same texts with random tokens for padding."""
    rng = np.random.default_rng(seed)
    mask: Array = feed["attention_mask"]
    ids = np.where(mask == 1, feed["input_ids"], rng.integers(1, VOCABULARY, mask.shape))
    return {"input_ids": ids, "attention_mask": mask}
