"""Calibration samples in batches and folds: texts without padding, and with variations where there are few."""

from __future__ import annotations

import numpy as np

from onnxmerge.network import Network
from onnxmerge.pipeline.run import Run, ort_source
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.mask import without_padding
from onnxmerge.samples.token_mask import TokenMask
from onnxmerge.samples.variations import find_vocabulary, varied
from onnxmerge.signals.batches import Batches, Feed
from onnxmerge.signals.refit_schedule import RefitSchedule
from onnxmerge.signals.tokens import TokenRows

__all__ = ["in_folds", "unpadded"]

_FOLDS, _PER_FOLD = 4, 8
"""Number of folds, and minimum number of batches in each: probing uses whole batches from every fold."""
_TOKENS_PER_UNKNOWN, _MOST_VARIATIONS = 32, 8
"""Texts get variations up to this number of tokens per unknown of the widest matrix product, and at most so many."""
_SAME = 1e-3
"""Largest difference, absolute or relative, of outputs that do not depend on padding."""


def in_folds(run: Run, network: Network, schedule: RefitSchedule, samples: Samples, largest: int) -> Batches:
    """Split samples into batches of limited size, with one fold per batch up to `_FOLDS`; few texts get variations.

    Args:
        run: The running compression.
        network: The network that the samples will run in.
        schedule: Its refit schedule.
        samples: The samples.
        largest: Maximum number of samples of a batch.
    """
    size = min(largest, max(1, samples.count // (_FOLDS * _PER_FOLD)))
    feeds: tuple[Feed, ...] = tuple(samples.by_length().batches(size))
    if samples.padding:
        # Batches of all lengths belong to every fold, and to those that are probed.
        feeds = tuple(feeds[place] for place in np.random.default_rng(0).permutation(len(feeds)))
    given, folds, mask = len(feeds), min(_FOLDS, len(feeds)), run.mask
    if mask is not None and not samples.synthetic:
        feeds += _variations(feeds, folds, mask, network, schedule, run.options.seed)
    lengths = tuple(len(next(iter(feed.values()))) if samples.batchable else samples.rows for feed in feeds)
    if mask is None:
        return Batches(feeds, lengths, folds)
    return Batches(feeds, lengths, folds, given, tuple(map(mask.real, feeds)), TokenRows(network, mask.name))


def _variations(
    feeds: tuple[Feed, ...], folds: int, mask: TokenMask, network: Network, schedule: RefitSchedule, seed: int
) -> tuple[Feed, ...]:
    """Variations of texts, as many as make up for few tokens."""
    vocabulary = find_vocabulary(network.model)
    widths = [node.unknowns for node in schedule.weighted.values() if not node.patches.kernel]
    if vocabulary is None or not widths:
        return ()
    tokens = sum(feed[mask.name].size if (real := mask.real(feed)) is None else int(real.sum()) for feed in feeds)
    copies = min(_MOST_VARIATIONS, -(-_TOKENS_PER_UNKNOWN * max(widths) // tokens) - 1)
    return varied(feeds, vocabulary, mask, copies, folds, seed)


def unpadded(run: Run, samples: Samples) -> Samples:
    """Samples without padding at their ends, unless the outputs for other tokens depend on it."""
    if run.mask is None:
        return samples
    mask, shorter = run.mask.name, without_padding(samples, run.mask, run.model.inputs)
    changed = [long for long, short in zip(samples.feeds, shorter.feeds, strict=True)
               if long[mask].shape != short[mask].shape]  # fmt: skip
    if not changed:
        return samples
    place = next(place for place, feed in enumerate(samples.feeds) if feed is changed[0])
    with Session.open(ort_source(run.source), run.request.verification.provider) as session:
        long, short = session.run(samples.feeds[place]), session.run(shorter.feeds[place])
    for name, output in short.items():
        whole = long[name]
        if whole.shape != output.shape and whole.ndim > 1:
            whole = whole[:, : output.shape[1]]
        if whole.shape != output.shape or not np.allclose(whole, output, rtol=_SAME, atol=_SAME):
            return samples
    return shorter
