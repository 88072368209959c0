"""Detectors with a fraction of their MACs removed by the defaults, judged by what they still find.

    python benchmarks/detectors.py CORPUS [--ratio 0.3] [--samples 96] [--only NAME] [--test]

CORPUS is a folder as for `real_networks.py`. Text detectors are fitted to drawn pages, words drawn on photographs,
photographs of documents, and photographs without drawn text, a quarter each; face detectors to crops around faces that
the dense YuNet finds. They are judged on other pictures and other fonts. Regions (text probability above 0.3) and boxes
(score above 0.5, without overlapping ones) of the dense network are found again if one of the result overlaps by half;
F1 is twice their number over the number of both. `--test` judges on a second set of pictures, which is not to be used
to choose anything.

Three cosines of the output that lost most: the mean over samples, the mean weighted by the size of the outputs, which
is what reports contain, and that of all samples together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from real_networks import centred, documents, parser_of
from scipy import ndimage

from onnxmerge.graph import to_proto
from onnxmerge.pipeline import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.options import Options
from onnxmerge.runtime import Session as Runtime
from onnxmerge.verify import Verification

Array = NDArray[Any]
Outputs = Mapping[str, Array]

FONTS = {
    "fit": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansCondensed", "DejaVuSansMono"),
    "judge": ("DejaVuSerif", "DejaVuSerifCondensed-Italic"),
    "test": ("DejaVuSerif-Bold", "DejaVuSerifCondensed", "DejaVuSans-ExtraLight"),
}
PARTS = tuple(FONTS)
TWICE = ("ocr_ch_en_num.jpg", "ocr_text_det.jpg")  # the same poster
CELLS = {"fit": 48, "judge": 24, "test": 24}
"""Number of pictures of 640x640."""


class Pictures:
    """The pictures of the corpus, each in one part.

    Attributes:
        part: Which part this is.
        documents: Photographs of texts.
        photographs: Others.
        variety: Files of further photographs, without faces or texts in most.
        words: To draw.
    """

    def __init__(self, corpus: Path, part: str) -> None:
        self.part, data = part, corpus / "data"
        files = sorted(file for file in (data / "photos").iterdir() if file.suffix in (".jpg", ".png"))
        own = [file for place, file in enumerate(files) if _part(place, file) == part]
        self.documents = [_opened(file) for file in own if file.name.startswith("ocr")]
        self.photographs = [_opened(file) for file in own if not file.name.startswith("ocr")]
        files = sorted((data / "imagenet260").glob("cal_*.jpg" if part == "fit" else "test_*.jpg"))
        self.variety = files if part == "fit" else files[PARTS.index(part) - 1 :: 2]
        self.words = [word for line in np.load(data / "textlines_en.npz")["labels"] for word in str(line).split()]
        self.rng = np.random.default_rng([0, PARTS.index(part)])

    def photograph(self) -> Image.Image:
        """A photograph of either kind."""
        if self.rng.random() < 0.5:
            return self.photographs[int(self.rng.integers(len(self.photographs)))]
        return _opened(self.variety[int(self.rng.integers(len(self.variety)))])

    def crop(self, image: Image.Image, side: int, most: float = 2.0) -> Image.Image:
        """A square of an image that is enlarged to cover it, by up to a factor."""
        scale = side / min(image.size) * self.rng.uniform(1.0, most)
        sized = image.resize((max(round(image.width * scale), side), max(round(image.height * scale), side)))
        left, top = (int(self.rng.integers(0, free - side + 1)) for free in sized.size)
        return sized.crop((left, top, left + side, top + side))

    def drawn(self, side: int, behind: Image.Image | None = None) -> Image.Image:
        """A page, or words on a picture."""
        rng, dark = self.rng, self.rng.random() < 0.25
        paper, ink = (tuple(rng.integers(low, low + 66, 3).tolist()) for low in ((0, 190) if dark else (190, 0)))
        image = Image.new("RGB", (side, side), paper) if behind is None else behind.copy()
        draw, y = ImageDraw.Draw(image), int(rng.integers(0, 30))
        while y < side:
            size = int(np.exp(rng.uniform(np.log(11), np.log(48))))
            font = ImageFont.truetype(f"{rng.choice(FONTS[self.part])}.ttf", size)
            left = int(rng.integers(0, side // 2))
            for _ in range(int(rng.integers(1, 6))):
                text = " ".join(rng.choice(self.words, int(rng.integers(1, 7))))
                fill = ink if behind is None else tuple(rng.integers(0, 256, 3).tolist())
                draw.text((left, y), text, fill=fill, font=font)
                y += int(size * rng.uniform(1.15, 1.7))
            y += int(rng.integers(5, 60))
        return image

    def document(self, side: int) -> Image.Image:
        """A photograph of a text, or a part of it, on white."""
        image = self.documents[int(self.rng.integers(len(self.documents)))]
        width = min(image.width, 2 * side)
        left = int(self.rng.integers(0, image.width - width + 1))
        image = image.crop((left, 0, left + width, image.height))
        image.thumbnail((side, side))
        page = Image.new("RGB", (side, side), "white")
        page.paste(image, tuple(int(self.rng.integers(0, side - length + 1)) for length in image.size))
        return page


def _part(place: int, file: Path) -> str:
    if file.name == "ocr_latin.jpg":
        return "test"  # which has no document otherwise
    if place % 3 != 2 or file.name in TWICE:
        return "fit"
    return "judge" if (place // 3) % 2 == 0 else "test"


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        return opened.convert("RGB")


def texts(pictures: Pictures, count: int) -> tuple[Array, list[str]]:
    """Images for text detectors, and what each shows."""
    made = {
        "page": lambda: pictures.drawn(320),
        "words": lambda: pictures.drawn(320, pictures.crop(pictures.photograph(), 320)),
        "document": lambda: pictures.document(320),
        "photograph": lambda: pictures.crop(pictures.photograph(), 320),
    }
    kinds = [kind for _ in range(-(-count // len(made))) for kind in made][:count]
    return np.stack([np.asarray(made[kind]()) for kind in kinds]), kinds


def people(pictures: Pictures, _count: int) -> tuple[Array, list[str]]:
    """Images for YuNet."""
    count, photographs = CELLS[pictures.part], pictures.photographs
    chosen = [
        (photographs[place % len(photographs)], "people") if place % 4 else (_opened(pictures.variety[place]), "others")
        for place in range(count)
    ]
    return np.stack([np.asarray(pictures.crop(image, 640)) for image, _ in chosen]), [kind for _, kind in chosen]


def portraits(pictures: Pictures, count: int) -> tuple[Array, list[str]]:
    """Images for BlazeFace, in which people are large."""
    made = [pictures.crop(pictures.photograph(), 128, 5.0) for _ in range(count)]
    return np.stack([np.asarray(image) for image in made]), ["photograph"] * count


def regions(outputs: Outputs, sample: int) -> Array:
    """(n, 4) boxes around regions of a probability above 0.3 that cover 30 pixels or more."""
    (probabilities,) = outputs.values()
    found = ndimage.find_objects(ndimage.label(probabilities[sample, 0] > 0.3)[0])
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in found], dtype=float).reshape(-1, 4)
    return boxes[np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) >= 30]


def faces_of_yunet(outputs: Outputs, sample: int) -> Array:
    """(n, 4) boxes of faces."""
    boxes, scores = [], []
    for stride in (8, 16, 32):
        both = [outputs[f"{name}_{stride}"][sample, :, 0].clip(0, 1) for name in ("cls", "obj")]
        score, box = np.sqrt(both[0] * both[1]), outputs[f"bbox_{stride}"][sample].astype(float)
        y, x = np.divmod(np.arange(len(score)), 640 // stride)
        centre = (np.stack([x, y], axis=1) + box[:, :2]) * stride
        half = np.exp(box[:, 2:].clip(-9, 9)) * stride / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=1)[score >= 0.5])
        scores.append(score[score >= 0.5])
    return _apart(np.concatenate(boxes), np.concatenate(scores))


def faces_of_blazeface(outputs: Outputs, sample: int) -> Array:
    """(n, 4) boxes of faces, in widths of the image."""
    scores, box = outputs["classificators"][sample, :, 0], outputs["regressors"][sample].astype(float) / 128
    places = [((x + 0.5) / n, (y + 0.5) / n) for n, each in ((16, 2), (8, 6)) for y in range(n) for x in range(n)
              for _ in range(each)]  # fmt: skip
    centre, half, sure = np.array(places) + box[:, :2], box[:, 2:4] / 2, scores >= 0
    return _apart(np.concatenate([centre - half, centre + half], axis=1)[sure], scores[sure])


def _apart(boxes: Array, scores: Array) -> Array:
    """The boxes of highest score that do not overlap each other by 0.3."""
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        if not kept or _overlap(boxes[place : place + 1], boxes[kept]).max() < 0.3:
            kept.append(place)
    return boxes[kept]


def _overlap(one: Array, two: Array) -> Array:
    """(n, m) intersection over union."""
    sides = np.minimum(one[:, None, 2:], two[None, :, 2:]) - np.maximum(one[:, None, :2], two[None, :, :2])
    common = np.prod(sides.clip(0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, two)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12))


class Detector(NamedTuple):
    """A network, what it reads, and what it finds."""

    images: Callable[[Pictures, int], tuple[Array, list[str]]]
    change: Callable[[Array], Array]
    found: Callable[[Outputs, int], Array]
    last: bool = False


DETECTORS = {
    "ocr_ppocrv3_det": Detector(texts, documents, regions),
    "ocr_ppocrv6_tiny_det": Detector(texts, documents, regions),
    "face_yunet_n_640": Detector(people, lambda rgb: rgb[..., ::-1], faces_of_yunet),
    "mediapipe_face_detection_short_range": Detector(portraits, centred, faces_of_blazeface, last=True),
}


def run(model: bytes | Path, images: Array) -> Outputs:
    """Outputs of all images, one at a time."""
    with Runtime.open(model, "cpu") as session:
        parts = [session.run({session.input_names[0]: image[None]}) for image in images]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cosines(dense: Outputs, cut: Outputs) -> tuple[float, float, float]:
    """The lowest cosines of an output: of samples, weighted ones, and of all as one."""
    found = []
    for name, values in dense.items():
        a, b = (each.reshape(len(each), -1).astype(float) for each in (values, cut[name]))
        products, norms = (a * b).sum(axis=1), [np.linalg.norm(each, axis=1) for each in (a, b)]
        each, weight = products / np.maximum(norms[0] * norms[1], 1e-300), np.maximum(*norms)
        whole = products.sum() / np.sqrt((a**2).sum() * (b**2).sum())
        found.append((each.mean(), np.average(each, weights=weight), whole))
    return tuple(np.min(found, axis=0).tolist())


def inputs(corpus: Path, detector: Detector, part: str, count: int) -> tuple[Array, list[str]]:
    """What a detector reads, and what each image shows."""
    images, kinds = detector.images(Pictures(corpus, part), count)
    values = detector.change(images.astype(np.float32)).astype(np.float32)
    return np.ascontiguousarray(values if detector.last else values.transpose(0, 3, 1, 2)), kinds


def smaller(model: Path, ratio: float, fitting: Array, held: Array) -> bytes:
    """The network without a fraction of its MACs, by the defaults."""
    with Runtime.open(model, "cpu") as opened:
        (name,) = opened.input_names
    samples = Sampling({name: fitting}, data={name: held[:1]})
    session = Session(Request(model, Options(ratio=ratio), samples, verification=Verification(provider="cpu")))
    return to_proto(session.cut(session.plan(ratio)).model).SerializeToString()


def row(detector: Detector, both: tuple[Outputs, Outputs], chosen: list[int]) -> str:
    """What both networks find in some of the images."""
    pairs = [[detector.found(outputs, place) for outputs in both] for place in chosen]
    counts = [sum(len(pair[side]) for pair in pairs) for side in (0, 1)]
    again = sum(int((_overlap(*pair).max(axis=1) >= 0.5).sum()) for pair in pairs if all(map(len, pair)))
    score = f"{2 * again / sum(counts):.3f}" if sum(counts) else "-"
    near = cosines(*({name: values[chosen] for name, values in outputs.items()} for outputs in both))
    return " | ".join((*map(str, counts), str(again), score, *(f"{each:.4f}" for each in near)))


def main() -> None:
    """Print one line per network and kind of image."""
    parser = parser_of(__doc__)
    parser.add_argument("--test", action="store_true")
    arguments = parser.parse_args()
    head = ("network", "images", "found, dense", "found, cut", "again", "F1", "cosine, mean", "weighted", "as one")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    judged = "test" if arguments.test else "judge"
    for name, detector in DETECTORS.items():
        if arguments.only not in name:
            continue
        feeds = {part: inputs(arguments.corpus, detector, part, arguments.samples) for part in ("fit", judged)}
        model = arguments.corpus / "models" / f"{name}.onnx"
        images, kinds = feeds[judged]
        both = run(model, images), run(smaller(model, arguments.ratio, feeds["fit"][0], images), images)
        for kind in dict.fromkeys(("all", *kinds)):
            chosen = [place for place, each in enumerate(kinds) if kind in ("all", each)]
            print(f"| {name} | {kind} ({len(chosen)}) | {row(detector, both, chosen)} |", flush=True)


if __name__ == "__main__":
    main()
