"""Training-free rivals on the same file, with the same samples, at the same MACs: their error on held-out samples.

    pip install --target FOLDER onnxsim==0.8.1        optional; then run with FOLDER in PYTHONPATH
    python benchmarks/rivals.py CORPUS [--left 0.7,0.5] [--samples 64] [--only NAME[,NAME]] [--rival TEXT]

CORPUS is a folder as for `real_networks.py`. Classifiers are fitted to half of the calibration images and judged on the
other half, other networks judged on crops of other pictures; no test set is read. A rival may have several settings: of
those within 0.02 of the MACs, the one with the lowest error on the *fitting* samples is judged. Seconds are CPU time of
that setting.

* `onnxmerge`: default options, and the same with `round_to=1`.
* norm: channels of lowest norm, one ratio for all groups, means of removed channels added to biases (`--method prune`).
* onnxsim 0.8.1: structured pruning of the simplified model; norm or norm times activation, per layer or global, each
  with and without its ridge fit of fully connected layers. Its sparsity is found by bisection.
* GRAIL (2602.23795): norm, then W ← W M with M = G[:, S] (G[S, S] + λI)⁻¹ from the uncentred Gram matrix of the dense
  network, λ = 1e-3 · mean diag G[S, S]; all channels or those inside blocks, each with and without BatchNormalization
  statistics computed again.
* model folding (2502.10216): k-means means of channels (`--method fold`); with and without the same statistics.
* LBYL (2502.08474): norm, inner channels of blocks; s minimises ‖w_j − Σ s_k κ_k w_k‖² + λ₁ (b_j − Σ s_k b_k)² +
  λ₂ ‖s‖², κ_k the ratio of BatchNormalization factors and b their offsets; λ from the ranges that the authors tune in.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import closed_forms
import numpy as np
import onnx
from default_speed import cases
from numpy.typing import NDArray
from real_networks import LINES, PICTURES, TONES, samples

import onnxmerge
from onnxmerge import pipeline
from onnxmerge.errors import NothingToCutError, OnnxMergeError
from onnxmerge.graph import Draft, to_proto
from onnxmerge.pipeline import Request, Sampling
from onnxmerge.pipeline.run import ort_source, start
from onnxmerge.pipeline.sample_loading import load
from onnxmerge.plan.options import Options
from onnxmerge.runtime.fidelity import Fidelity
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.batch_statistics import batch_statistics
from onnxmerge.verify import Verification, compare_outputs, quiet

Array = NDArray[Any]
Feed = Mapping[str, Array]
Variant = tuple[str, onnx.ModelProto]

NETWORKS = (
    "vgg_bn", "resnet", "cifar10_resnet20_folded", "face_mtcnn_onet", "paper_resnet56_bn", "sr_pytorch_superres",
    "mediapipe_face_detection_short_range", "mediapipe_face_landmark", "face_ultraface_RFB320", "ocr_ppocrv6_tiny_rec",
    "embed_mobilenetv2_bottleneck_bn", "ocr_ppocrv3_det", "imagenet_effnet_lite2_bn", "audio_crepe_tiny_bn",
)  # fmt: skip
"""Small ones first; two are bundled."""
_NEAR, _FAR = 0.005, 0.02
_STEPS = 12
_LBYL = ((1e-6, 1e-3), (1e-5, 1e-2), (1e-4, 1e-1))
_OFF = Verification(enabled=False, provider="cpu")


class Task(NamedTuple):
    """A network, what fits look at, and what they are judged on."""

    model: Path
    fitting: dict[str, Array]
    held: dict[str, Array]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """At which MACs are counted."""
        return {name: (1, *array.shape[1:]) for name, array in self.held.items()}


def task_of(corpus: Path, name: str, count: int) -> Task:
    """A network with its samples."""
    if name in {**PICTURES, **LINES, **TONES}:
        return Task(corpus / "models" / f"{name}.onnx", *samples(corpus, name, count))
    model, both = cases(corpus, 2 * count)[name]()
    return Task(model, *({key: array[half::2] for key, array in both.items()} for half in (0, 1)))


def macs(model: Path | onnx.ModelProto, task: Task) -> int:
    """MACs of one sample."""
    return onnxmerge.inspect(model, shapes=task.shapes).sizes.macs


# --- ours, and what our own methods are -------------------------------------------------------------------------


def ours(**options: Any) -> Callable[[Task, float], Iterator[Variant]]:  # noqa: ANN401
    """A compression with the given options."""

    def run(task: Task, ratio: float) -> Iterator[Variant]:
        # Samples to verify on are given so that none are held out of the fit; nothing is verified.
        found = onnxmerge.compress(
            task.model, ratio, calibration=task.fitting, data=task.fitting, verify=False, provider="cpu",
            best_effort=True, **options,
        )  # fmt: skip
        yield "", found.model
        if options.get("method") == "fold":
            yield from renormalised("", found.model, task)

    return run


def renormalised(setting: str, model: onnx.ModelProto, task: Task) -> Iterator[Variant]:
    """A model with the BatchNormalization statistics of the fitting samples, if it has such layers."""
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        calibration = session_of(model, task).prepared.calibration
        if calibration is not None:
            draft = Draft(calibration.network.model)
            for name, array in batch_statistics(calibration).items():
                draft.set_weight(name, array)
            yield f"{setting} statistics again".strip(), to_proto(draft.finish())


# --- closed-form maps -------------------------------------------------------------------------------------------


def session_of(model: Path | onnx.ModelProto, task: Task, **options: Any) -> pipeline.Session:  # noqa: ANN401
    """Channels chosen by norm, one ratio for all groups; `compensate` makes the samples available."""
    chosen = Options(method="prune", compensate="linear", round_to=1, fold_mean=False, best_effort=True, **options)
    return pipeline.Session(Request(model, chosen, Sampling(task.fitting, data=task.fitting), verification=_OFF))


def grail(task: Task, ratio: float) -> Iterator[Variant]:
    """See the module's docstring."""
    for setting, coupled in (("", True), ("inner", False)):
        try:
            model = closed_forms.grail(session_of(task.model, task, ratio=ratio, coupled=coupled), ratio)
        except NothingToCutError:
            if coupled:
                raise
            continue  # there are no channels inside blocks
        yield setting, model
        yield from renormalised(setting, model, task)


def lbyl(task: Task, ratio: float) -> Iterator[Variant]:
    """See the module's docstring."""
    session = session_of(task.model, task, ratio=ratio, coupled=False)
    for first, second in _LBYL:
        yield f"λ {first:g} {second:g}", closed_forms.lbyl(session, ratio, first, second)


# --- onnxsim ----------------------------------------------------------------------------------------------------


def onnxsim(task: Task, ratio: float) -> Iterator[Variant]:
    """See the module's docstring."""
    import onnxsim as tool  # noqa: PLC0415 - optional

    dense = onnx.load(task.model)
    simple, _ = tool.simplify(dense, check_n=0)
    whole, feeds = macs(task.model, task), [dict(feed) for feed in loaded(task, task.fitting).batches(16)]
    for name, pruned in (
        ("norm", lambda s, g: tool.apply_structured_pruning(simple, sparsity=s, global_sparsity=g)),
        ("activation", lambda s, g: tool.apply_structured_wanda_pruning(
            simple, calibration_data=feeds, sparsity=s, global_sparsity=g)),
    ):  # fmt: skip
        for everywhere in (False, True):
            low, high, best, least = 0.0, 0.99, dense, 1.0
            for _ in range(_STEPS):
                middle = (low + high) / 2
                model = pruned(middle, everywhere)
                gone = 1 - macs(model, task) / whole
                if abs(gone - ratio) < least:
                    best, least = model, abs(gone - ratio)
                low, high = (middle, high) if gone < ratio else (low, middle)
                if least < _NEAR:
                    break
            setting = f"{name}{', global' if everywhere else ''}"
            yield setting, best
            if any(node.op_type in ("Gemm", "MatMul") for node in best.graph.node):
                yield f"{setting}, fit", tool.apply_pruning_finetune(simple, best, calibration_data=feeds)


# --- the table --------------------------------------------------------------------------------------------------


RIVALS: dict[str, Callable[[Task, float], Iterator[Variant]]] = {
    "onnxmerge": ours(), "onnxmerge, any width": ours(round_to=1), "norm": ours(method="prune", round_to=1),
    "onnxsim": onnxsim, "GRAIL": grail, "model folding": ours(method="fold", round_to=1), "LBYL": lbyl,
}  # fmt: skip


def loaded(task: Task, feed: Feed) -> Samples:
    """Samples in the batches that the model takes."""
    return load(feed, start(Request(task.model), quiet), None, None)


def judged(task: Task, model: onnx.ModelProto, on: Samples) -> Fidelity:
    """How near the outputs are to those of the original."""
    found = compare_outputs(ort_source(task.model), model.SerializeToString(), on, "cpu").fidelity
    if found is None:
        raise OnnxMergeError("nothing could be compared")
    return found


def row(task: Task, rival: str, ratio: float, fitting: Samples, held: Samples) -> str:
    """The cells of one rival: of the settings that reach the ratio, the one that fits best."""
    found: list[tuple[float, float, str, onnx.ModelProto, float, float]] = []
    whole, started = macs(task.model, task), time.process_time()
    for setting, model in RIVALS[rival](task, ratio):
        seconds = time.process_time() - started
        left, error = macs(model, task) / whole, judged(task, model, fitting).relative_l2
        off = abs(1 - ratio - left)
        found.append((off if off > _FAR else 0.0, np.inf if error is None else error, setting, model, left, seconds))
        started = time.process_time()
    _, _, setting, model, left, seconds = min(found, key=lambda each: each[:2])
    if left == 1:
        return " | | | | finds nothing to cut"
    fidelity = judged(task, model, held)
    agreements = [output.top1_agreement for output in fidelity.outputs if output.top1_agreement is not None]
    agreement = f"{100 * min(agreements):.1f}" if agreements else "–"
    return f"{left:.3f} | {fidelity.relative_l2:.4f} | {agreement} | {seconds:.0f} | {setting}"


def main() -> None:
    """Print one line per network, fraction of the MACs and rival as it is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--left", default="0.7,0.5")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--only", default="")
    parser.add_argument("--rival", default="")
    given = parser.parse_args()
    print("| network | rival | MACs left | relative error | top-1 agreement | CPU s | setting |\n|" + "---|" * 7)
    for name in given.only.split(",") if given.only else NETWORKS:
        task = task_of(given.corpus, name, given.samples)
        fitting, held = loaded(task, task.fitting), loaded(task, task.held)
        for left in map(float, given.left.split(",")):
            for rival in RIVALS:
                if given.rival not in rival:
                    continue
                try:
                    cells = row(task, rival, 1 - left, fitting, held)
                except ImportError:
                    cells = " | | | | onnxsim is not installed"
                except Exception as error:
                    cells = f" | | | | {str(error).splitlines()[0].replace(f'{task.model}: ', '')}"
                print(f"| {name} | {rival} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
