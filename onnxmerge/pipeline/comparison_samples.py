"""Synthetic samples that the outputs of two models are compared on where there are no real ones.

Images are made like those of a fit, but are not among them. Images in another range of values than the network was
trained on say nothing about it: for values near zero, the bundled VGG, which takes 0..255, gives all images the same
class, and errors that hardly show on real images are 20 times the variance of its outputs.
"""

from __future__ import annotations

from onnxmerge.network import Network
from onnxmerge.pipeline.calibration import why_unfitted
from onnxmerge.pipeline.memory import free_memory
from onnxmerge.pipeline.run import SYNTHETIC, Run
from onnxmerge.pipeline.synthetic_fit import Synthesis, reduced, synthesis_of, synthetic_fit
from onnxmerge.pipeline.synthetic_texts import takes_known, takes_texts
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import samples_for

__all__ = ["comparison_samples"]

_STREAM = 1
"""Of random numbers; fits use 0."""
_MACS = 2e9
"""MACs of the largest network that is run in several ranges of values although no fit was: that takes some 20 passes
over the images, in place of one.
"""


def comparison_samples(run: Run, network: Network, synthesis: Synthesis | None = None) -> Samples:
    """Synthetic samples to compare outputs on.

    Texts are all as long as those that costs are counted at, so that one time is theirs.

    Args:
        run: The run.
        network: The analysed model.
        synthesis: What was made for a fit; None if nothing was. Images are then brought into a range, but not changed.
    """
    unlike = takes_texts(network) or not takes_known(network) or bool(why_unfitted(network))
    if unlike or (synthesis is None and network.cost.macs({}) > _MACS):
        return samples_for(run.model, network.cost.dims, SYNTHETIC, run.options.seed, stream=_STREAM)
    made = synthesis_of(run, network, matched=False) if synthesis is None else synthesis
    memory, provider = run.options.memory or free_memory() // 4, run.request.verification.provider
    with run.stage("making samples"):
        return synthetic_fit(run, network, reduced(made, SYNTHETIC), memory, provider, stream=_STREAM).samples
