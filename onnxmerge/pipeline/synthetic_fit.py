"""Synthetic images to fit to, for a network without samples.

1. *Range.* The range of pixel values that the network was trained on: the one whose statistics are nearest to those of
   BatchNormalization, if there is any; else the one that is plausible for the biases of the first layer and, for a
   classifier, the one that it tells apart.
2. *Choice.* For a classifier, the images of a larger pool on which it is most confident, evenly from all classes.
3. *Descent.* The images are changed until they have the statistics of BatchNormalization, if there is any; else until
   a classifier is nearly as confident as it is of the data that it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import NamedTuple

from onnxmerge.graph import ImageGradient, before_softmax
from onnxmerge.network import Network
from onnxmerge.pipeline.matched_samples import Matching, class_target, matched_samples, statistics_target, takes_images
from onnxmerge.pipeline.pixel_ranges import (
    RANGES,
    images_among,
    in_range,
    not_too_large,
    plausible_range,
    recorded_range,
    scores_of,
    telling_range,
)
from onnxmerge.pipeline.run import Run, ort_source
from onnxmerge.pipeline.synthetic_texts import macs_of_text, synthetic_texts, takes_texts
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import most_confident, samples_for

__all__ = ["RIDGE", "Synthesis", "SyntheticFit", "reduced", "synthesis_of", "synthetic_fit"]

_MOST_SYNTHETIC, _FEWEST_SYNTHETIC, _SYNTHETIC_ELEMENTS, _SYNTHETIC_MACS = 512, 16, 24_000_000, 2e11
"""Synthetic images to fit on: 512 small ones, 160 of 3x224x224, fewer if one image takes many MACs, at least 16."""
_CHEAP_SYNTHETIC, _CHEAP_MACS = 2048, 1e10
"""Number of images if all of them take few MACs: a fully connected layer reads one row per image."""
_POOL, _POOL_ELEMENTS, _POOL_MACS, _PER_CLASS = 8, 48_000_000, 5e11, 8
"""For classifiers: candidates per chosen image; maximum memory and cost of the candidates; minimum number of images per
class for the choice to be useful.
"""
_FEWEST_STEPS, _STEPS_MACS = 4, 1e12
"""Steps that match images to recorded statistics: at least 4, beyond that as many as take so many forward MACs.
That allows 16 for 512 images of ResNet-56 (75 s of one core), and 9 for 118 of EfficientNet-Lite2 (230 s).
"""
_RECORDED_STEP, _CLASS_STEP, _CLASS_STEPS = 0.1, 0.05, 4
"""Size of the first step of an image, in standard deviations of its pixels: for recorded statistics, and for the
confidence of a classifier; and steps for the latter. It is reached soon, and images that go on become adversarial.
"""
RIDGE, _RIDGE_SYNTHETIC = 1e-3, 1e-2
"""Minimum ridge, and that of fits to synthetic images whose statistics could not be matched to recorded ones, or only
in part. With matched images, the relative error of the logits with half of the MACs is at 1e-3 and 1e-2: ResNet-20
0.191 and 0.201, the bundled ResNet 0.105 and 0.111, the bundled VGG 0.088 and 0.087.
"""
_SHARE_MATCHED = 0.5
"""Weight of the images' own statistics in those with which BatchNormalizations run, if the images were matched to the
recorded ones; unmatched ones need all of it. The relative error of the logits with half of the MACs is, with all and
with half of the weight: ResNet-56 0.041 and 0.039, the bundled ResNet 0.106 and 0.104, the bundled VGG 0.085 and 0.074;
EfficientNet-Lite2 with 70 % of the MACs 0.395 and 0.359.
"""


_TWO = 2
"""Classes of a detector: something, and everything else."""


@dataclass(frozen=True)
class Synthesis:
    """How many synthetic images or texts are made, and what is done to images.

    Attributes:
        shapes: Shape of each input.
        count: Samples to fit to.
        pool: Images of which those are chosen; 0 if there is no choice.
        scores: The output that they are chosen by; None if the network is no classifier.
        recorded: The error of their statistics; None if none are recorded.
        matching: What they are changed for; None if they stay.
        range: The range of values of images, by name; None if it is still to be found.
    """

    shapes: Mapping[str, tuple[int, ...]]
    count: int
    pool: int = 0
    scores: str | None = None
    recorded: ImageGradient | None = None
    matching: Matching | None = None
    range: str | None = None

    @property
    def made(self) -> int:
        """Samples that are made."""
        return max(self.pool, self.count)


class SyntheticFit(NamedTuple):
    """Synthetic samples, and how to fit to them.

    Attributes:
        samples: The samples.
        ridge: Minimum ridge of what is fitted to them.
        share: Weight of their own statistics in those of BatchNormalizations; the rest is that of the recorded ones.
        range: The range of values of images, by name.
    """

    samples: Samples
    ridge: float
    share: float
    range: str = ""


def synthesis_of(run: Run, network: Network, *, matched: bool = True) -> Synthesis:
    """What to make for a network; images are only changed if they are to be `matched`."""
    shapes = {spec.name: network.cost.dims[spec.name] for spec in run.model.inputs}
    largest = max(prod(shape) for shape in shapes.values())
    if takes_texts(network):
        return Synthesis(shapes, _count(largest, macs_of_text(run, network)))
    macs = max(network.cost.macs({}), 1)
    count, recorded, scores = _count(largest, macs), statistics_target(network), _scores(network)
    few = scores is not None and (network.dims(scores) or (0, 0))[1] <= count // _PER_CLASS
    matching = _matching(run, network, recorded, scores, macs * count) if matched else None
    return Synthesis(shapes, count, _pool(network, count) if few else 0, scores, recorded, matching)


def reduced(synthesis: Synthesis, count: int) -> Synthesis:
    """What to make for a few samples of the same kind."""
    return replace(synthesis, count=count, pool=min(synthesis.pool, _POOL * count))


def synthetic_fit(
    run: Run, network: Network, synthesis: Synthesis, memory: int, provider: Provider, *, stream: int = 0
) -> SyntheticFit:
    """Synthetic samples to fit to.

    Args:
        run: The run.
        network: The analysed model.
        synthesis: What to make.
        memory: Bytes that a descent may take.
        provider: The execution provider.
        stream: Another number gives other samples of the same kind.
    """
    if takes_texts(network):
        return SyntheticFit(synthetic_texts(run, network, synthesis.count), RIDGE, 1.0)
    recorded, matching = synthesis.recorded, synthesis.matching
    make = partial(samples_for, run.model, synthesis.shapes, seed=run.options.seed, stream=stream)
    plain = make(count=synthesis.made)
    name = synthesis.range
    if name is None and recorded is not None:
        name = recorded_range(recorded, plain, memory, provider)
    elif name is None:
        name = _range(run, network, synthesis.scores, plain, provider)
    images = [recorded.image] if recorded is not None else _pixels(network)
    samples = _clearest(run, synthesis, in_range(plain, images, name), provider)
    if samples is None:
        samples = in_range(make(count=synthesis.count) if synthesis.pool else plain, images, name)
    if matching is None:
        return SyntheticFit(samples, _RIDGE_SYNTHETIC, 1.0, name)
    matched = matched_samples(
        matching, samples, memory, provider, lambda done: run.progress("matching synthetic images", done)
    )
    settled = recorded is not None and matched is not samples and not recorded.partial
    return SyntheticFit(matched, *((RIDGE, _SHARE_MATCHED) if settled else (_RIDGE_SYNTHETIC, 1.0)), name)


def _pixels(network: Network) -> list[str]:
    """Inputs whose values are brought into a range."""
    return [network.model.inputs[0].name] if takes_images(network) else images_among(network)


def _range(run: Run, network: Network, scores: str | None, samples: Samples, provider: Provider) -> str:
    """The range of values that a network without BatchNormalization takes."""
    found = plausible_range(network, samples, provider, small=scores is None)
    if found or scores is None or not takes_images(network):
        return found
    two = (network.dims(scores) or (0, 0))[1] == _TWO
    ranges = not_too_large(network, samples, provider) if two else tuple(RANGES)
    return telling_range(ort_source(run.source), scores, samples, provider, ranges)


def _count(elements: int, macs: int) -> int:
    """Number of synthetic samples, each of so many elements and MACs."""
    fitting_size = min(_SYNTHETIC_ELEMENTS // max(elements, 1), int(_SYNTHETIC_MACS / macs))
    most = max(_MOST_SYNTHETIC, min(_CHEAP_SYNTHETIC, int(_CHEAP_MACS / macs)))
    return max(_FEWEST_SYNTHETIC, min(most, fitting_size))


def _matching(
    run: Run, network: Network, recorded: ImageGradient | None, scores: str | None, work: float
) -> Matching | None:
    """What images are changed for; `work` is the MACs of a pass over them."""
    if recorded is not None:
        steps = min(EFFORTS[run.options.effort].steps, max(_FEWEST_STEPS, int(_STEPS_MACS / work)))
        words = "changed to have the recorded statistics of BatchNormalization"
        return Matching(recorded, steps, _RECORDED_STEP, words)
    doubt = None if scores is None else class_target(network, scores)
    words = "changed so that the network is confident of their classes"
    return None if doubt is None else Matching(doubt, _CLASS_STEPS, _CLASS_STEP, words)


def _scores(network: Network) -> str | None:
    """The output with a row of scores of classes, or of features, for each image; one behind a softmax comes first."""
    model, (images, *_) = network.model, network.dims(network.model.inputs[0].name) or (None,)
    shapes = {spec.name: network.dims(spec.name) or () for spec in model.outputs if spec.dtype == "float32"}
    rows = [name for name, dims in shapes.items() if len(dims) == 2 and dims[0] == images and dims[1] > 1]
    certain = [name for name in rows if len(network.dims(before_softmax(model, name) or "") or ()) == 2]
    return next(iter([*certain, *rows]), None)


def _pool(network: Network, count: int) -> int:
    """Number of images to choose from; 0 if there would be too few."""
    shapes = [network.cost.dims[spec.name] for spec in network.model.inputs]
    elements = sum(map(prod, shapes))
    pool = min(_POOL * count, _POOL_ELEMENTS // max(elements, 1), int(_POOL_MACS / max(network.cost.macs({}), 1)))
    return pool if pool >= 2 * count else 0


def _clearest(run: Run, synthesis: Synthesis, samples: Samples, provider: Provider) -> Samples | None:
    """The most confident samples of a pool; None without a pool, or if their scores are unknown."""
    if not synthesis.pool or synthesis.scores is None or samples.rows != 1:
        return None
    with Session.open(ort_source(run.source), provider) as session:
        found = scores_of(session, synthesis.scores, samples)
    if found is None:
        return None
    feeds = tuple(samples.feeds[place] for place in most_confident(found, synthesis.count))
    chosen = f"the {len(feeds)} with the most confident predictions, evenly from all classes"
    return replace(samples, feeds=feeds, source=f"{chosen}, of {samples.source}")
