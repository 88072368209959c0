"""Samples from a file of texts and a saved tokenizer.

The file holds a text a line; empty lines are left out. The tokenizer is a `tokenizer.json` as Hugging Face's
`tokenizers` writes it, and decides how texts are cut into tokens and how many a text may have. What it gives feeds the
inputs by their usual names:

1. `input_ids` (or the only input that none of the others is): the numbers of the tokens;
2. `attention_mask`: 1 for each token;
3. `token_type_ids`: the number of the segment, 0;
4. `position_ids`: 0, 1, 2, …

Texts keep their own lengths. Batches are padded to their longest, with the padding token and a mask of 0; a model
whose number of tokens is fixed gets all texts at that length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.casting import as_declared
from onnxmerge.suggestions import installing

__all__ = ["SUFFIXES", "TextFile", "TextOptions", "open_texts"]

SUFFIXES = frozenset({".txt"})
_MASK, _TYPES, _POSITIONS = "attention_mask", "token_type_ids", "position_ids"
_LONGEST = 512
"""Tokens of a text where neither the tokenizer nor the model limits them: as many as most encoders have positions."""


@dataclass(frozen=True)
class TextOptions:
    """How texts become inputs, and which input marks padding.

    Attributes:
        tokenizer: A `tokenizer.json`; needed for samples that are texts.
        mask: Name of the input that marks padding, or "none" if every token counts; None: find it.
    """

    tokenizer: Path | None = None
    mask: str | None = None


@dataclass(frozen=True)
class TextFile:
    """Texts, already cut into tokens.

    Attributes:
        path: The file.
        inputs: The model's inputs.
        ids: Name of the input that takes the tokens' numbers.
        tokens: Numbers of the tokens of each text.
        types: Numbers of their segments.
        length: Tokens of every text, if the model fixes them; None if each has its own.
        pad: Number of the padding token.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    ids: str
    tokens: tuple[Sequence[int], ...]
    types: tuple[Sequence[int], ...]
    length: int | None
    pad: int

    whole = False
    labels = None

    @property
    def count(self) -> int:
        """Number of texts."""
        return len(self.tokens)

    @property
    def padding(self) -> Mapping[str, float]:
        """Values to pad the inputs with; none if all texts have one length."""
        if self.length is not None:
            return {}
        return {spec.name: float(self.pad) if spec.name == self.ids else 0.0 for spec in self.inputs}

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """The feeds of the chosen texts."""
        return [self._feed(int(place)) for place in chosen], ()

    def _feed(self, place: int) -> Mapping[str, NDArray[Any]]:
        tokens, types = self.tokens[place], self.types[place]
        width = self.length or len(tokens)
        missing = [0] * (width - len(tokens))
        values: dict[str, Sequence[int]] = {
            self.ids: [*tokens, *([self.pad] * len(missing))],
            _MASK: [*([1] * len(tokens)), *missing],
            _TYPES: [*types, *missing],
            _POSITIONS: range(width),
        }
        return {
            spec.name: as_declared(np.asarray([values[spec.name]], dtype=np.int64), spec, str(self.path))[0]
            for spec in self.inputs
        }


def open_texts(path: Path, inputs: Sequence[TensorSpec], tokenizer: Path | None) -> TextFile:
    """Reads texts and cuts them into tokens.

    Args:
        path: A file with a text a line.
        inputs: The model's inputs.
        tokenizer: A `tokenizer.json`.

    Raises:
        UsageError: There is no tokenizer or no text, a file cannot be read, or an input is none that texts can feed.
        RuntimeMissingError: `tokenizers` is not installed.
    """
    if tokenizer is None:
        raise UsageError(f"{path}: texts need the model's tokenizer: --tokenizer tokenizer.json")
    ids = _ids_of(path, inputs)
    loaded = _loaded(tokenizer)
    try:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not texts:
        raise UsageError(f"{path}: expected a text a line, got none")
    spec = next(spec for spec in inputs if spec.name == ids)
    fixed = spec.dims[1] if spec.dims is not None and isinstance(spec.dims[1], int) else None
    padding = loaded.padding or {}
    limit = (loaded.truncation or {}).get("max_length", _LONGEST)
    pad = padding.get("pad_id")
    if pad is None:
        pad = next((loaded.token_to_id(name) for name in ("[PAD]", "<pad>") if loaded.token_to_id(name) is not None), 0)
    loaded.no_padding()
    loaded.enable_truncation(limit if fixed is None else fixed)
    encoded = loaded.encode_batch(texts)
    tokens, types = tuple(each.ids for each in encoded), tuple(each.type_ids for each in encoded)
    return TextFile(path, tuple(inputs), ids, tokens, types, fixed, int(pad))


def _ids_of(path: Path, inputs: Sequence[TensorSpec]) -> str:
    """The input that takes the tokens' numbers."""
    others = [spec for spec in inputs if spec.name not in (_MASK, _TYPES, _POSITIONS)]
    named = [spec for spec in others if spec.name == "input_ids"] or others
    if len(others) != 1 or len(named) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise UsageError(f"{path}: texts feed input_ids, {_MASK}, {_TYPES} and {_POSITIONS}; the inputs are: {names}")
    for spec in inputs:
        if spec.dims is not None and len(spec.dims) != 2:
            raise UsageError(
                f"{path}: expected input '{spec.name}' of shape (batch, tokens), got rank {len(spec.dims)}"
            )
    return named[0].name


def _loaded(path: Path) -> Any:  # noqa: ANN401 - the tokenizers library is an extra
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RuntimeMissingError(f"texts need tokenizers; try: {installing('text')}") from error
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected a tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the class Exception itself
        raise UsageError(f"{path} is not a tokenizer of Hugging Face's tokenizers: {error}") from error
