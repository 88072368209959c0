"""Real trained networks: every one is inspected, cut and held against its dense reference; published numbers come out.

The networks lie in `shared/corpus` beside the checkout and are not part of it; without them these tests are skipped.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from onnxmerge.errors import NothingToCutError
from onnxmerge.graph import load
from onnxmerge.pipeline import inspect
from onnxmerge.plan.options import Options
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import synthetic_samples
from onnxmerge.verify import Verification, check_contract
from tests.builders import Array, analyse, cut_model, mask, some
from tests.calls import compress

CORPUS = Path(__file__).parents[2] / "../shared/corpus"
MODELS = sorted((CORPUS / "models").glob("*.onnx"))

pytestmark = pytest.mark.skipif(not MODELS, reason=f"no networks in {CORPUS}")

UNVERIFIED = Verification(enabled=False)

NOTHING_GOES = frozenset({"cifar10_resnet20_int8_qop", "vad_silero_v6_full"})
"""Networks in which no channel is free (fused int8 operators; everything inside an If); a name that stands here by
mistake fails."""


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_inspect(path: Path) -> None:
    seen = inspect(path)
    assert seen.groups or seen.pinned or path.stem in NOTHING_GOES
    for entry in seen.pinned:
        assert 0 < entry.size <= entry.total
        assert entry.reasons
        assert all(words.strip() and "\n" not in words for words in entry.words)
    for group in seen.groups:
        assert group.size > 0
        assert group.producers
        assert 0 <= group.macs_share <= 1


def first_sample(path: Path) -> Samples:
    """One feed of the stored inputs; a synthetic one for networks that come with photographs instead."""
    file = CORPUS / "inputs" / f"{path.stem}.npz"
    if not file.is_file():
        inputs = load(path).inputs
        dims = {spec.name: tuple(dim if isinstance(dim, int) else 1 for dim in spec.dims or ()) for spec in inputs}
        return synthetic_samples(inputs, dims, 1, 0)
    with np.load(file) as stored:
        feed = {name: np.asarray(stored[name][0]) for name in stored.files}
    return Samples((feed,), None, "stored", synthetic=False)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_third_of_the_channels_goes(path: Path) -> None:
    """Weights alone, every group; what the command verifies on every run, on one real sample."""
    ort.set_default_logger_severity(4)
    options = Options(ratio=0.3, of="channels", allocate="uniform", method="neuron-merging")
    try:
        result = compress(path, options, data=first_sample(path), verification=UNVERIFIED)
    except NothingToCutError as error:
        assert path.stem in NOTHING_GOES
        assert str(error)
        return
    assert path.stem not in NOTHING_GOES
    before, after = result.report.before, result.report.after
    assert after.parameters < before.parameters
    assert after.macs <= before.macs
    assert 0.2 < result.plan.reached < 0.4
    # Random channels, without any compensation, against masks in front of every consumer.
    analysed = analyse(path)
    kept = some(analysed.groups)
    check_contract(
        mask(analysed, kept).SerializeToString(),
        cut_model(analysed, kept).SerializeToString(),
        first_sample(path),
        "cpu",
    )


# --- published numbers ------------------------------------------------------------------------------------------

LENET = {
    # removed: (prune l1, merge l1, prune l2, merge l2, prune gm, merge gm)
    0.5: (88.40, 88.69, 87.86, 88.38, 88.08, 88.57),
    0.6: (85.17, 86.92, 83.03, 88.07, 85.82, 88.10),
    0.7: (71.26, 82.75, 71.21, 83.27, 78.38, 86.39),
    0.8: (66.76, 80.02, 63.90, 77.11, 64.19, 77.49),
}
COLUMNS = tuple((select, method) for select in ("l1", "l2", "gm") for method in ("prune", "neuron-merging"))


@cache
def fashion() -> tuple[Array, Array]:
    with np.load(CORPUS / "data" / "fashion_mnist_test.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    # As `feeds.py` of the corpus does it for this network.
    return ((images[:, None] / 255.0 - 0.5) / 0.5).astype(np.float32), labels


@cache
def cifar(count: int) -> tuple[Array, Array]:
    with np.load(CORPUS / "data" / "cifar10_test.npz") as stored:
        images, labels = stored["images"][:count], stored["labels"][:count]
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    return ((images / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32), labels


def accuracy(model: Any, images: Array, labels: Array, batch: int) -> float:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = 0
    for start in range(0, len(images), batch):
        scores = np.asarray(session.run(None, {name: images[start : start + batch]})[0])
        right += int((scores.argmax(axis=1) == labels[start : start + batch]).sum())
    return 100.0 * right / len(images)


@pytest.mark.parametrize("ratio", LENET)
def test_lenet_300_100(ratio: float) -> None:
    """Neuron merging's own table, from its authors' checkpoint."""
    images, labels = fashion()
    for (select, method), expected in zip(COLUMNS, LENET[ratio], strict=True):
        options = Options(
            ratio=ratio, of="channels", allocate="uniform", method=method, select=select, threshold=0.45,
            fold_mean=False,
        )  # fmt: skip
        result = compress(CORPUS / "models" / "paper_lenet_300_100.onnx", options, verification=UNVERIFIED)
        # One choice of a geometric median falls on rounding.
        tolerance = 0.3 if (select, method) == ("gm", "neuron-merging") else 0.1
        got = accuracy(result.model, images, labels, 2000)
        assert got == pytest.approx(expected, abs=tolerance), (select, method)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_merging_is_no_worse_than_pruning_on_resnet_56(ratio: float) -> None:
    """Only the first convolution of each block, as in the paper, on 1 000 test pictures."""
    images, labels = cifar(1000)
    reached = []
    for method in ("prune", "neuron-merging"):
        options = Options(ratio=ratio, of="channels", allocate="uniform", method=method, coupled=False, fold_mean=False)
        result = compress(CORPUS / "models" / "paper_resnet56_bn.onnx", options, verification=UNVERIFIED)
        reached.append(accuracy(result.model, images, labels, 250))
    assert reached[1] >= reached[0]
