"""Networks other than classifiers, with real samples: what is left of their outputs when a fraction of the MACs goes.

    python benchmarks/real_networks.py CORPUS [--ratio 0.3] [--samples 96] [--only NAME]

CORPUS is a folder with `models/` and `data/` (photographs, rendered text lines, tones). Fitting samples are random
crops of two thirds of the pictures, held-out ones crops of the others. Three cuts of the same number of MACs are set
side by side: channels by their norm and nothing in their place; channels chosen by the refit's own measure and nothing
in their place; and the refit. Printed is the lowest cosine of an output on held-out samples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline import Request, Sampling, compress
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification

Array = NDArray[Any]

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
HELD = 24


class Pictures(NamedTuple):
    """How crops become the input of a network.

    Attributes:
        name: The graph input.
        size: Height and width.
        change: From (H, W, 3) RGB 0..255 to what the network reads, channels last.
        last: Whether the network reads channels last.
    """

    name: str
    size: tuple[int, int]
    change: Callable[[Array], Array]
    last: bool = False


def centred(rgb: Array) -> Array:
    """Pixels in -1..1."""
    return rgb / 127.5 - 1.0


def documents(rgb: Array) -> Array:
    """The same, channels from blue to red."""
    return centred(rgb)[..., ::-1]


PICTURES = {
    "embed_mobilenetv2_bottleneck_bn": Pictures("input", (224, 224), lambda x: (x / 255 - IMAGENET[0]) / IMAGENET[1]),
    "face_ultraface_RFB320": Pictures("input", (240, 320), lambda x: (x - 127) / 128),
    "face_yunet_n_640": Pictures("input", (640, 640), lambda x: x[..., ::-1]),
    "face_mtcnn_onet": Pictures("input", (48, 48), lambda x: (x - 127.5) / 128),
    "mediapipe_face_detection_short_range": Pictures("input", (128, 128), centred, last=True),
    "mediapipe_face_landmark": Pictures("input_1", (192, 192), lambda x: x / 255, last=True),
    "ocr_ppocrv3_det": Pictures("x", (224, 224), documents),
    "ocr_ppocrv6_tiny_det": Pictures("x", (224, 224), documents),
    "sr_pytorch_superres": Pictures("y", (64, 64), lambda x: x.mean(axis=-1, keepdims=True) / 255),
}
LINES = {"ocr_ppocrv6_tiny_rec": "x"}
TONES = {"audio_crepe_tiny_bn": "frames"}


def crops(folder: Path, pictures: Pictures, count: int, held: bool, rng: np.random.Generator) -> dict[str, Array]:
    """Random crops of the pictures that are to be fitted to, or of those that are held out."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".jpg", ".png"))
    chosen = [file for place, file in enumerate(files) if (place % 3 == 2) == held]
    height, width = pictures.size
    made = []
    for place in range(count):
        with Image.open(chosen[place % len(chosen)]) as opened:
            image = opened.convert("RGB")
        scale = max(height / image.height, width / image.width) * rng.uniform(1.0, 2.0)
        image = image.resize((max(round(image.width * scale), width), max(round(image.height * scale), height)))
        top, left = (int(rng.integers(0, free + 1)) for free in (image.height - height, image.width - width))
        rgb = np.asarray(image, dtype=np.float32)[top : top + height, left : left + width]
        value = pictures.change(rgb)
        made.append(value if pictures.last else value.transpose(2, 0, 1))
    return {pictures.name: np.stack(made).astype(np.float32)}


def samples(corpus: Path, name: str, count: int, held: int = HELD) -> tuple[dict[str, Array], dict[str, Array]]:
    """Samples to fit to and a number of held-out ones."""
    rng = np.random.default_rng(0)
    if name in PICTURES:
        folder = corpus / "data" / "photos"
        return crops(folder, PICTURES[name], count, False, rng), crops(folder, PICTURES[name], held, True, rng)
    if name in LINES:
        lines = np.load(corpus / "data" / "textlines_en.npz")["images"]
        values = (lines / 127.5 - 1.0).transpose(0, 3, 1, 2).astype(np.float32)
        return {LINES[name]: values[:count]}, {LINES[name]: values[-held:]}
    sound = np.load(corpus / "data" / "pitch_tones16k.npz")["audio"].astype(np.float32)
    frames = sound[:, 2000 : 2000 + 1024 * 4].reshape(-1, 1024)
    frames = (frames - frames.mean(axis=1, keepdims=True)) / np.maximum(frames.std(axis=1, keepdims=True), 1e-8)
    return {TONES[name]: frames[: 4 * count]}, {TONES[name]: frames[-4 * held :]}


CUTS = {
    "norm, none": {"method": "prune"},
    "measured, none": {"method": "refit", "compensate": "none"},
    "refit": {"method": "refit"},
}


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser of what benchmarks of stored networks at one ratio are told."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--only", default="")
    return parser


def main() -> None:
    """Print one line a network as it is measured."""
    arguments = parser_of(__doc__).parse_args()
    print(f"| network | {' | '.join(CUTS)} | seconds of the refit |\n|---|{'---|' * len(CUTS)}---|")
    for name in (*PICTURES, *LINES, *TONES):
        if arguments.only not in name:
            continue
        fitting, held = samples(arguments.corpus, name, arguments.samples)
        cells, seconds = [], 0.0
        for options in CUTS.values():
            started = time.perf_counter()
            try:
                request = Request(
                    arguments.corpus / "models" / f"{name}.onnx", Options(ratio=arguments.ratio, round_to=1, **options),
                    Sampling(fitting, data=held), verification=Verification(provider="cpu"),
                )  # fmt: skip
                report = compress(request).report
            except OnnxMergeError as error:
                cells.append(str(error).splitlines()[0])
                continue
            seconds = time.perf_counter() - started
            cosine = None if report.fidelity is None else report.fidelity.cosine
            missed = "" if abs(report.reached - arguments.ratio) < 0.02 else f" (at {report.reached:.2f})"
            cells.append(("-" if cosine is None else f"{cosine:.4f}") + missed)
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
