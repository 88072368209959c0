"""Receding scales against plain training and against L1 on the scales: docs/receding.md's figures.

    python benchmarks/receding.py FASHION_MNIST OUT [--network small] [--tune | --cut] [--only NAME]

FASHION_MNIST is the folder of Debian's package dataset-fashion-mnist, OUT keeps weights and ONNX files; what is there
is not trained again. Batches and optimizer are those of sample_models/train.py. Networks: `wide`, a VGG of 864 channels
in six layers, and `small`, the VGG of the sample models, with 224.

`--tune` trains every setting with seed 0 on the first 54000 training images and looks at the other 6000; for each way
of training the setting with the best mean accuracy at 70 and 90 % of the channels removed is chosen. Without it the
chosen ones are trained with every seed on the same 54000, and the test images are looked at for the first time. `--cut`
cuts what that left in OUT with onnxmerge, alone and with a refit on 512 training images.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError:
    sys.exit('skipped: this benchmark trains networks and needs torch; try: pip install ".[train,images]"')

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sample_models"))
import train as sample

from onnxmerge import compress, training
from onnxmerge.errors import NothingToCutError
from onnxmerge.plan.batchnorm_threshold import Importances
from onnxmerge.report.model import Account

SAMPLES = Path(sample.__file__).with_name("fashion_mnist_calibration.npz")
HELD_OUT = 6000
RATIOS = (0.5, 0.7, 0.9)
SEEDS = (0, 1)


@dataclass(frozen=True)
class Setting:
    """A way of training.

    Attributes:
        way: plain, l1 (network slimming: λ Σ |scale|) or receding.
        strength: λ of the penalty.
        shift: b of the receding penalty at first.
        rise: What the shift rises to, when `training.shift_at` has it rise; None: it stays.
        anchored: Which scale of each layer is held, counted from the largest; 0: none, as in the paper.
        offset: Whether bounded BatchNorms have an offset that recedes with their scale; the paper's have none.
        factor: Learning rate of the scales, in units of the rest's.
        start: Scales to begin with.
        spread: Deviation of normal numbers added to the first γ. Under l1 the first scales are the same sigmoids.
        uniform: First scales uniform in 0..1, as network slimming's torch had them; for l1.
        epochs: Length of the training.
    """

    way: str
    strength: float = 0.0
    shift: float = 0.0
    rise: float | None = None
    anchored: int = 0
    offset: bool = False
    factor: float = 1.0
    start: float = 0.5
    spread: float = 0.0
    uniform: bool = False
    epochs: int = 4

    @property
    def name(self) -> str:
        name = f"{self.way}_{self.strength:g}_b{self.shift:g}_x{self.factor:g}" if self.strength else self.way
        name += f"_s{self.start:g}_{self.spread:g}" if self.spread else ""
        name += f"_to{self.rise:g}" if self.rise is not None else ""
        name += f"_held{self.anchored}" if self.anchored else ""
        name += "_offset" if self.offset else ""
        name += "_uniform" if self.uniform else ""
        return name + (f"_e{self.epochs}" if self.epochs != 4 else "")


PLAIN = Setting("plain")
ANCHORED: dict[str, Any] = {"shift": 1.0, "rise": 4.0, "factor": 10.0, "spread": 0.5, "offset": True}
CHOSEN = {
    "wide": (
        PLAIN,
        Setting("l1", 1e-2),
        Setting("receding", 3e-2, anchored=13, **ANCHORED),
        # The best at 70 % alone.
        Setting("l1", 3e-3),
        Setting("receding", 3e-2, anchored=36, **ANCHORED),
    ),
    "small": (PLAIN, Setting("l1", 5e-2), Setting("receding", 3e-2, anchored=3, **ANCHORED)),
}
TRIED = {
    "wide": (
        *CHOSEN["wide"],
        Setting("l1", 5e-3),
        Setting("l1", 7e-3),
        Setting("l1", 1e-2, spread=0.5),
        Setting("receding", 3e-3, 0, factor=10),
        Setting("receding", 1e-2, 1, factor=10),
        Setting("receding", 3e-2, 3, factor=10, start=0.1, spread=2),
        Setting("receding", 2e-2, anchored=12, **ANCHORED),
    ),
    "small": (
        *CHOSEN["small"],
        *(Setting("l1", strength) for strength in (1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)),
        Setting("l1", 3e-3, uniform=True),
        Setting("l1", 3e-4, epochs=8),
        Setting("receding", 3e-3, 0, factor=10, epochs=8),
        Setting("receding", 3e-2, 3, factor=10),
        Setting("receding", 1e-2, 2, factor=10),
        Setting("receding", 3e-2, 3, factor=10, spread=2),
        Setting("receding", 3e-2, 3, factor=10, start=0.1, spread=2),
        Setting("receding", 1e-1, 3, factor=10, start=0.03, spread=2),
        Setting("receding", 5e-2, 3, factor=10, start=0.01, spread=3),
        Setting("receding", 3e-2, 3, factor=10, start=0.03, spread=2, epochs=8),
    ),
}


def wide_vgg() -> sample.Layers:
    """A VGG of 864 channels in six layers, that spends its work on few pixels: the CPU trains it in minutes."""
    layers: sample.Layers = {}
    inputs = 1
    for index, width in enumerate((32, 64, 128, 128, 256, 256), start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        layers[f"norm{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU()
        if index in (1, 2, 4):
            layers[f"pool{index}"] = nn.MaxPool2d(2)
        inputs = width
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, 10))
    return layers


NETWORKS = {
    "wide": sample.Recipe("wide_vgg", "fashion_mnist", wide_vgg, 0, 0.1, 5e-4, 1),
    "small": next(recipe for recipe in sample.RECIPES if recipe.name == "vgg_bn"),
}


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def groups_of(setting: Setting, model: nn.Module, lr: float, decay: float) -> list[dict]:
    """Optimizer groups; under either penalty the scales have their own learning rate and no weight decay."""
    if setting.way == "receding":
        return training.parameter_groups(model, lr, decay, setting.factor)
    scales = [norm.weight for norm in norms(model)] if setting.way == "l1" else []
    rest = [p for p in model.parameters() if all(p is not scale for scale in scales)]
    return [
        {"params": rest, "lr": lr, "weight_decay": decay},
        {"params": scales, "lr": lr * setting.factor, "weight_decay": 0.0},
    ]


def penalty_of(setting: Setting, model: nn.Module, progress: float) -> Tensor | float:
    if setting.way == "receding":
        last = setting.shift if setting.rise is None else setting.rise
        return training.penalty(model, setting.strength, training.shift_at(progress, setting.shift, last))
    if setting.way == "l1":
        return setting.strength * torch.stack([norm.weight.abs().sum() for norm in norms(model)]).sum()
    return 0.0


def with_first_scales(setting: Setting, model: nn.Module) -> nn.Module:
    """A new network ready for its way of training: bounded for receding, ordinary BatchNorms otherwise."""
    if setting.way == "plain":
        return model
    model = training.bounded(model, start=setting.start, spread=setting.spread, offset=setting.offset).model
    if setting.way == "receding":
        return model
    model = training.plain(model)
    if setting.uniform:
        for norm in norms(model):
            nn.init.uniform_(norm.weight)
    return model


def train(setting: Setting, seed: int, recipe: sample.Recipe, data: sample.Dataset) -> nn.Module:
    """sample_models/train.py's recipe with a penalty; returns the network in eval mode, its norms ordinary ones."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = with_first_scales(setting, sample.build(recipe, data))
    model = sample.with_layout(model, torch.channels_last).train()
    images = torch.from_numpy(np.array(data.train_images[:-HELD_OUT]))
    labels = torch.from_numpy(data.train_labels[:-HELD_OUT])
    groups = groups_of(setting, model, recipe.learning_rate, recipe.weight_decay)
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    steps = setting.epochs * (len(images) // sample.BATCH_SIZE)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.25, cycle_momentum=False)
    step = 0
    for epoch in range(setting.epochs):
        start, losses = time.monotonic(), []
        for pictures, targets in sample.batches(images, labels, recipe.shift, generator):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(pictures)
            loss = nn.functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            (loss + penalty_of(setting, model, step / steps)).backward()
            optimizer.step()
            if setting.anchored:
                training.anchor(model, setting.anchored)
            schedule.step()
            step += 1
            losses.append(float(loss.detach()))
        took = time.monotonic() - start
        at = f"{setting.name} seed {seed}: epoch {epoch + 1}/{setting.epochs}"
        print(f"{at}, loss {np.mean(losses):.4f}, {took:.0f} s", flush=True)
    return sample.with_layout(training.plain(model).eval(), torch.contiguous_format)


def trained(setting: Setting, seed: int, recipe: sample.Recipe, data: sample.Dataset, out: Path) -> nn.Module:
    """The network of a setting and seed, from OUT if it is there; its ONNX file lies beside its weights."""
    path = out / f"{recipe.name}_{setting.name}_seed{seed}.pt"
    if path.exists():
        model = sample.build(recipe, data)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    model = train(setting, seed, recipe, data)
    to_onnx(model, path.with_suffix(".onnx"), data)
    torch.save(model.state_dict(), path)
    return model


def to_onnx(model: nn.Module, path: Path, data: sample.Dataset) -> None:
    names = {"input_names": ["images"], "output_names": ["logits"]}
    batch = {"images": {0: "batch"}, "logits": {0: "batch"}}
    picture = torch.from_numpy(np.array(data.test_images[:2])).float()
    training.export(model, picture, path, opset_version=sample.OPSET, dynamic_axes=batch, **names)


def removed(model: nn.Module, ratio: float, offsets: bool) -> nn.Module:
    """A copy in which the channels with the smallest scales of the whole network are gone, one a layer staying.

    With `offsets` a removed channel's β stays, which is the constant that onnxmerge folds into the next bias.
    """
    model = copy.deepcopy(model)
    scales = [norm.weight.detach().abs() for norm in norms(model)]
    keep = [scale == scale.max() for scale in scales]
    ranked = torch.cat(scales).argsort(stable=True)
    going = ranked[: round(ratio * len(ranked))]
    gone = torch.zeros(len(ranked), dtype=torch.bool).index_fill_(0, going, True)
    for norm, stays, drop in zip(norms(model), keep, gone.split([len(s) for s in scales]), strict=True):
        with torch.no_grad():
            norm.weight[drop & ~stays] = 0
            if not offsets:
                norm.bias[drop & ~stays] = 0
    return model


def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent right, in eval mode."""
    right = 0
    with torch.inference_mode():
        for at in range(0, len(images), 500):
            logits = model(torch.from_numpy(np.array(images[at : at + 500])).float())
            right += int((logits.argmax(1).numpy() == labels[at : at + 500]).sum())
    return 100.0 * right / len(images)


def row(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[float, list[float], list[float]]:
    """Accuracy as trained, and at each ratio with offsets of removed channels gone and kept."""
    cut = [[accuracy(removed(model, ratio, offsets), images, labels) for ratio in RATIOS] for offsets in (False, True)]
    return accuracy(model, images, labels), cut[0], cut[1]


def histogram(model: nn.Module, bins: int = 10) -> str:
    """Channels by size of their scale, from 0 to the largest: one count a bin."""
    scales = np.concatenate([norm.weight.detach().abs().numpy() for norm in norms(model)])
    return f"0..{scales.max():.2f} " + " ".join(str(n) for n in np.histogram(scales, bins, (0, scales.max()))[0])


def cut_by_onnxmerge(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Accuracy after `--method receding`: at the valley, and `--of channels`, alone and with a refit on 512 images."""
    held = {"images": images, "labels": labels}
    try:
        account = compress(path, "auto", method="receding", round_to=1, data=held, provider="cpu").report
    except NothingToCutError as refused:
        print(f"{path.stem}: --ratio auto: {refused}", flush=True)
    else:
        print(f"{path.stem}: --ratio auto: {lost(account)}, {two_modes(account.importances)}", flush=True)
    for compensate in (None, "refit"):
        for ratio in RATIOS:
            account = compress(
                path,
                ratio,
                of="channels",
                method="receding",
                round_to=1,
                compensate=compensate,
                calibration=SAMPLES if compensate else None,
                data=held,
                provider="cpu",
            ).report
            print(f"{path.stem}: --ratio {ratio} {compensate or 'alone'}: {lost(account)}", flush=True)


def lost(account: Account) -> str:
    less = 1 - account.after.macs / account.before.macs
    return f"{account.accuracy_before:.2f} -> {account.accuracy_after:.2f}, MACs -{less:.1%}"


def two_modes(seen: Importances) -> str:
    return f"{seen.below} of {seen.channels} below {seen.valley:.2g}, chance {seen.chance:.1g}, depth {seen.depth:.2g}"


def main() -> None:
    """Train what is missing, and print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fashion_mnist", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", choices=NETWORKS, default="wide")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = sample.load_fashion_mnist(arguments.fashion_mnist)
    images, labels = data.test_images, data.test_labels
    if arguments.tune:
        images, labels = data.train_images[-HELD_OUT:], data.train_labels[-HELD_OUT:]
    recipe = NETWORKS[arguments.network]
    for setting in (TRIED if arguments.tune else CHOSEN)[arguments.network]:
        if arguments.only not in setting.name:
            continue
        for seed in SEEDS[:1] if arguments.tune else SEEDS:
            model = trained(setting, seed, recipe, data, arguments.out)
            if arguments.cut:
                cut_by_onnxmerge(arguments.out / f"{recipe.name}_{setting.name}_seed{seed}.onnx", images, labels)
                continue
            whole, without, kept = row(model, images, labels)
            cells = " ".join(f"{a:.2f}/{b:.2f}" for a, b in zip(without, kept, strict=True))
            print(f"{setting.name:32}seed {seed}  {whole:.2f}  {cells}  scales {histogram(model)}", flush=True)


if __name__ == "__main__":
    main()
